"""A model that says what a script tells it to, through the whole engine: real prefill, real decode, real sampling.

Invariant: each answer is a turn that the script wrote, token by token; the model only pays for it. Knows nothing of the
clients that ask.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from flashmoe.chat.tokenizer import Tokenizer
from flashmoe.cli.main import run
from flashmoe.engine.engine import Engine
from flashmoe.engine.request import Listener, Request
from flashmoe.engine.running import Ticket
from flashmoe.engine.scheduler import Scheduler

Script = Callable[[str], str]
CONTEXT, LAYERS = 131072, 3


def small_model(directory: Path) -> Path:
    """The first layers of the demo model, packed for a context that holds an agent's instructions. They have no full
    attention, which would cost minutes for 40,000 tokens."""
    checkpoint, packed = directory / "checkpoint", directory / "model"
    _flashmoe("export", "demo", str(checkpoint))
    config = json.loads((checkpoint / "config.json").read_text())
    config |= {"num_hidden_layers": LAYERS, "layer_types": config["layer_types"][:LAYERS]}
    config["max_position_embeddings"] = CONTEXT
    (checkpoint / "config.json").write_text(json.dumps(config))
    tensors: dict[str, NDArray[Any]] = {}
    for shard in checkpoint.glob("*.safetensors"):
        tensors |= {name: values for name, values in load_file(shard).items() if _layer(name) < LAYERS}
        shard.unlink()
    (checkpoint / "model.safetensors.index.json").unlink(missing_ok=True)
    save_file(tensors, checkpoint / "model.safetensors")
    _flashmoe("pack", str(checkpoint), str(packed))
    return packed


def _layer(tensor: str) -> int:
    return int(tensor.partition(".layers.")[2].partition(".")[0] or 0)


def _flashmoe(*command: str) -> None:
    if run(list(command)) != 0:
        raise SystemExit(f"flashmoe {' '.join(command)} failed.")


class _Replay:
    """Allows exactly one token after another."""

    def __init__(self, tokens: list[int], vocab: int) -> None:
        self._tokens, self._vocab, self._place = tokens, vocab, 0

    def allowed(self) -> NDArray[np.bool_]:
        mask = np.zeros(self._vocab, dtype=np.bool_)
        mask[self._tokens[min(self._place, len(self._tokens) - 1)]] = True
        return mask

    def accept(self, token: int) -> None:
        assert token == self._tokens[min(self._place, len(self._tokens) - 1)]
        self._place += 1


class ReplayingScheduler(Scheduler):
    """Answers each prompt with what the script makes of its text."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer, script: Script, **options: Any) -> None:
        super().__init__(engine, **options)
        self._tokenizer, self._script, self._vocab = tokenizer, script, engine.config.vocab

    def submit(self, request: Request, listener: Listener) -> Ticket:
        said = self._script(self._tokenizer.decode(np.asarray(request.prompt).tolist()))
        tokens = [*self._tokenizer.encode(said), min(self._tokenizer.eos_ids)]
        return super().submit(replace(request, constraint=_Replay(tokens, self._vocab)), listener)
