"""The model as a Hugging Face directory: bfloat16 shards of at most 15 MB, configuration, tokenizer, template."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from training import tokenizer

SHARD_BYTES = 15_000_000


def save(model: Any, tokenizer_directory: Path, directory: Path) -> None:
    """config.json, generation_config.json, model-*.safetensors with their index, and the tokenizer's files."""
    directory.mkdir(parents=True, exist_ok=True)
    vocabulary = tokenizer.load(tokenizer_directory)
    ends = [vocabulary.token_to_id("<|im_end|>"), vocabulary.token_to_id("<|endoftext|>")]
    config = model.config.to_dict()
    config.update(architectures=["Qwen3_5MoeForCausalLM"], dtype="bfloat16", eos_token_id=ends[0], pad_token_id=ends[1])
    for key in ("_name_or_path", "_experts_implementation", "_attn_implementation", "torch_dtype", "problem_type"):
        config.pop(key, None)
    _write(directory / "config.json", config)
    _write(directory / "generation_config.json", {"eos_token_id": ends, "pad_token_id": ends[1], "do_sample": False})
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (tokenizer_directory / name).exists() and tokenizer_directory != directory:
            shutil.copy(tokenizer_directory / name, directory / name)
    _shards({name: weight.detach().cpu().contiguous() for name, weight in model.state_dict().items()}, directory)


def load(model: Any, directory: Path) -> None:
    """The weights of a checkpoint of the same shape into the model."""
    index = json.loads((directory / "model.safetensors.index.json").read_text(encoding="utf-8"))
    weights: dict[str, torch.Tensor] = {}
    for file in sorted(set(index["weight_map"].values())):
        weights.update(load_file(directory / file))
    model.load_state_dict(weights)


def _shards(tensors: dict[str, torch.Tensor], directory: Path) -> None:
    groups: list[dict[str, torch.Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if size + tensor.nbytes > SHARD_BYTES - 100_000:
            groups.append({})
            size = 0
        groups[-1][name] = tensor
        size += tensor.nbytes
    places = {}
    for index, group in enumerate(groups, 1):
        file = f"model-{index:05}-of-{len(groups):05}.safetensors"
        save_file(group, directory / file, metadata={"format": "pt"})
        places.update(dict.fromkeys(group, file))
    total = sum(tensor.nbytes for tensor in tensors.values())
    _write(directory / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": places})


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
