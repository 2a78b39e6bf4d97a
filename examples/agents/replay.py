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

from flashmoe.chat.tokenizer import Tokenizer
from flashmoe.cli.main import run as flashmoe
from flashmoe.engine.engine import Engine
from flashmoe.engine.request import Listener, Request
from flashmoe.engine.running import Ticket
from flashmoe.engine.scheduler import Scheduler

Script = Callable[[str], str]
CONTEXT = 131072


def long_demo(directory: Path) -> Path:
    """The demo model, packed for a context that holds an agent's instructions."""
    checkpoint, packed = directory / "checkpoint", directory / "model"
    for command in (["export", "demo", str(checkpoint)], ["pack", str(checkpoint), str(packed)]):
        if command[0] == "pack":
            config = json.loads((checkpoint / "config.json").read_text())
            config.get("text_config", config)["max_position_embeddings"] = CONTEXT
            (checkpoint / "config.json").write_text(json.dumps(config))
        if flashmoe(command) != 0:
            raise SystemExit(f"flashmoe {' '.join(command)} failed.")
    return packed


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
