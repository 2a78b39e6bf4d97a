"""A small checkpoint of the Qwen3.5-MoE architecture with random weights, of any number of layers.

It has the form in which such models are published (sharded bfloat16 safetensors with fused experts, byte-level BPE,
chat template). What it writes means nothing. The same seed gives the same files.
"""

import json
import math
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

SHARD_BYTES = 32 * 2**20
TEMPLATE = Path(__file__).with_name("chat_template.jinja")
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MARKS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
PATTERN = (  # Qwen3.5's own: transformers applies it to any checkpoint of this model_type
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXT = """
The lighthouse keeper counted ships instead of sheep, and slept the better for it. Each evening she wrote their names
in a ledger: the Patience, the Second Wind, a nameless barge that carried nothing but gravel and a radio. When the fog
came in there were no ships to count, so she counted seconds between the horn and its echo, and learned how far away
the cliffs were. Four seconds is a little less than seven hundred metres. Two seconds is too close.

A library of recipes is larger than any kitchen. You do not carry all of it to the table; you take down the page you
need, read it, and put it back. Whoever cooks the same dish again tomorrow keeps that page near the stove. So does a
program that has more experts than memory: it reads the few that a word asks for, and keeps what it may need again.

To measure a disk, read from it; to measure a memory, read from it faster. Numbers without units are opinions. One
thousand bytes is a kilobyte, 1024 bytes is a kibibyte, and the difference has started more arguments than it settled.

def mean(values):
    total = 0.0
    for value in values:
        total += value
    return total / len(values)

{"city": "Lyon", "days": 3, "celsius": true, "tags": ["rain", "wind"], "place": {"lat": 45.76, "lon": 4.84}}

Der Regen kommt von Westen und bleibt bis Freitag. La pluie vient de l'ouest et reste jusqu'à vendredi.
雨从西边来，一直下到星期五。 Дождь идёт с запада и продлится до пятницы. المطر قادم من الغرب 🌧️🌍
"""

HEADS, KV_HEADS, KEY_HEADS, VALUE_HEADS, KERNEL = 4, 2, 2, 4, 4


@dataclass(frozen=True)
class Sizes:
    """Of the model. head and linear: dimensions of a head of attention, and of linear attention."""

    layers: int = 8
    hidden: int = 256
    experts: int = 64
    inner: int = 128
    head: int = 64
    linear: int = 64
    context: int = 32768


def make_tokenizer() -> tokenizers.Tokenizer:
    """A byte-level BPE trained on TEXT, with Qwen's special tokens after the ordinary ones."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(tokenizers.Regex(PATTERN), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1000, show_progress=False, initial_alphabet=sorted(alphabet))
    tokenizer.train_from_iterator(TEXT.split("\n"), trainer)
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.add_tokens([tokenizers.AddedToken(mark, normalized=False, special=False) for mark in MARKS])
    return tokenizer


def write_text_files(directory: Path, sizes: Sizes = Sizes()) -> tuple[int, range]:
    """Tokenizer, template and configuration; returns the model's vocabulary, padded as published ones are, and the ids
    of its ordinary words: after the 256 single bytes, before the special tokens."""
    tokenizer = make_tokenizer()
    tokenizer.save(str(directory / "tokenizer.json"))
    shutil.copyfile(TEMPLATE, directory / "chat_template.jinja")
    vocab = math.ceil(tokenizer.get_vocab_size() / 128) * 128
    eos = [tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")]
    documents = {
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "model_max_length": 32768,
        },
        "generation_config.json": {
            "do_sample": True,
            "temperature": 1.0,
            "top_k": 20,
            "top_p": 0.95,
            "eos_token_id": eos,
            "pad_token_id": eos[1],
        },
        "config.json": {
            "architectures": ["Qwen3_5MoeForCausalLM"],
            "model_type": "qwen3_5_moe_text",
            "dtype": "bfloat16",
            "vocab_size": vocab,
            "hidden_size": sizes.hidden,
            "num_hidden_layers": sizes.layers,
            "layer_types": [layer_type(i) for i in range(sizes.layers)],
            "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS,
            "head_dim": sizes.head,
            "hidden_act": "silu",
            "max_position_embeddings": sizes.context,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.25},
            "attention_bias": False,
            "linear_conv_kernel_dim": KERNEL,
            "linear_key_head_dim": sizes.linear,
            "linear_value_head_dim": sizes.linear,
            "linear_num_key_heads": KEY_HEADS,
            "linear_num_value_heads": VALUE_HEADS,
            "moe_intermediate_size": sizes.inner,
            "shared_expert_intermediate_size": sizes.inner,
            "num_experts": sizes.experts,
            "num_experts_per_tok": 4,
            "tie_word_embeddings": False,
            "eos_token_id": eos[0],
        },
    }
    for name, document in documents.items():
        (directory / name).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return vocab, range(256, tokenizer.get_vocab_size(with_added_tokens=False))


def layer_type(layer: int) -> str:
    return "full_attention" if (layer + 1) % 4 == 0 else "linear_attention"


def shapes(vocab: int, sizes: Sizes) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor of the model, in the order in which a forward pass meets them."""
    yield "model.embed_tokens.weight", (vocab, sizes.hidden)
    for i in range(sizes.layers):
        layer = f"model.layers.{i}."
        yield layer + "input_layernorm.weight", (sizes.hidden,)
        if layer_type(i) == "full_attention":
            yield layer + "self_attn.q_proj.weight", (2 * HEADS * sizes.head, sizes.hidden)
            yield layer + "self_attn.k_proj.weight", (KV_HEADS * sizes.head, sizes.hidden)
            yield layer + "self_attn.v_proj.weight", (KV_HEADS * sizes.head, sizes.hidden)
            yield layer + "self_attn.o_proj.weight", (sizes.hidden, HEADS * sizes.head)
            yield layer + "self_attn.q_norm.weight", (sizes.head,)
            yield layer + "self_attn.k_norm.weight", (sizes.head,)
        else:
            channels, values = (2 * KEY_HEADS + VALUE_HEADS) * sizes.linear, VALUE_HEADS * sizes.linear
            yield layer + "linear_attn.in_proj_qkv.weight", (channels, sizes.hidden)
            yield layer + "linear_attn.in_proj_z.weight", (values, sizes.hidden)
            yield layer + "linear_attn.in_proj_b.weight", (VALUE_HEADS, sizes.hidden)
            yield layer + "linear_attn.in_proj_a.weight", (VALUE_HEADS, sizes.hidden)
            yield layer + "linear_attn.conv1d.weight", (channels, 1, KERNEL)
            yield layer + "linear_attn.A_log", (VALUE_HEADS,)
            yield layer + "linear_attn.dt_bias", (VALUE_HEADS,)
            yield layer + "linear_attn.norm.weight", (sizes.linear,)
            yield layer + "linear_attn.out_proj.weight", (sizes.hidden, values)
        yield layer + "post_attention_layernorm.weight", (sizes.hidden,)
        yield layer + "mlp.gate.weight", (sizes.experts, sizes.hidden)
        yield layer + "mlp.experts.gate_up_proj", (sizes.experts, 2 * sizes.inner, sizes.hidden)
        yield layer + "mlp.experts.down_proj", (sizes.experts, sizes.hidden, sizes.inner)
        for name, shape in (
            ("gate", (sizes.inner, sizes.hidden)),
            ("up", (sizes.inner, sizes.hidden)),
            ("down", (sizes.hidden, sizes.inner)),
        ):
            yield layer + f"mlp.shared_expert.{name}_proj.weight", shape
        yield layer + "mlp.shared_expert_gate.weight", (1, sizes.hidden)
    yield "model.norm.weight", (sizes.hidden,)
    yield "lm_head.weight", (vocab, sizes.hidden)


def values(rng: np.random.Generator, name: str, shape: tuple[int, ...], words: range) -> NDArray[ml_dtypes.bfloat16]:
    """Random weights of sane scale. What writes to the residual stream is small, so that quantising does not change
    everything; the output layer is sharp, so that sampling has favourites, and zero but for words, so that what comes
    out can be looked at."""
    if name.endswith("A_log"):
        return np.log(rng.uniform(1, 16, shape)).astype(ml_dtypes.bfloat16)
    if name.endswith("linear_attn.norm.weight"):
        return np.ones(shape, ml_dtypes.bfloat16)
    if name.endswith(("norm.weight", "dt_bias")):
        return (rng.standard_normal(shape, np.float32) * 0.05).astype(ml_dtypes.bfloat16)
    gain = 0.25 if name.endswith(("o_proj.weight", "out_proj.weight", "down_proj", "down_proj.weight")) else 1.0
    if name == "lm_head.weight":
        rows = np.isin(np.arange(shape[0]), words)[:, None]
        return (rng.standard_normal(shape, np.float32) * rows * (3 / math.sqrt(shape[-1]))).astype(ml_dtypes.bfloat16)
    return (rng.standard_normal(shape, np.float32) * (gain / math.sqrt(shape[-1]))).astype(ml_dtypes.bfloat16)


def write_shard(path: Path, tensors: dict[str, NDArray[ml_dtypes.bfloat16]]) -> None:
    header, offset = {}, 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": [offset, offset + tensor.nbytes]}
        offset += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(tensor.tobytes())


def make(directory: Path, seed: int = 7, sizes: Sizes = Sizes()) -> int:
    """Write the whole checkpoint; returns its size in bytes. The index comes last, so a half-written one is seen."""
    directory.mkdir(parents=True, exist_ok=True)
    vocab, words = write_text_files(directory, sizes)
    rng = np.random.default_rng(seed)
    shards: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    size = 0
    for name, shape in shapes(vocab, sizes):
        nbytes = 2 * math.prod(shape)
        if shards[-1] and size + nbytes > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append((name, shape))
        size += nbytes
    weight_map, total = {}, 0
    for i, shard in enumerate(shards, 1):
        file = f"model-{i:05}-of-{len(shards):05}.safetensors"
        tensors = {name: values(rng, name, shape, words) for name, shape in shard}
        write_shard(directory / file, tensors)
        weight_map |= dict.fromkeys(tensors, file)
        total += sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return total
