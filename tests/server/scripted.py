"""A stand-in for the engine that says what it is told to, token by token, through the scheduler's own interface."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from flashmoe.chat.tokenizer import Tokenizer
from flashmoe.engine.engine import Engine, Limits
from flashmoe.engine.state import SequenceState
from flashmoe.streaming.experts import StoreStats

Script = Callable[[str], str]
STATS = {f.name: 0 for f in fields(StoreStats)} | {"hits": 3, "misses": 1, "bytes_read": 100, "stall_seconds": 0.25}
_OPENING = "<|im_start|>assistant\n"


class ScriptedEngine:
    """Answers each prompt with what `script` makes of its text. A script's answer is the turn from `<think>` on where
    the template opens the thinking block, and what follows it where the template closes it at once."""

    check_tokens, check_context = Engine.check_tokens, Engine.check_context
    own_top_k, defaults = 1, dict[str, Any]()

    def __init__(self, directory: Path, script: Script, sequences: int = 4, context: int = 4096) -> None:
        self.tokenizer, self.script = Tokenizer.from_dir(directory), script
        self.limits = Limits(context, 64, sequences)
        vocab = 1024
        self.config = SimpleNamespace(vocab=vocab, eos=(), max_context=context, layers=2, experts=4, top_k=1)
        self.store = SimpleNamespace(stats=StoreStats(**STATS), in_memory=lambda _layer: np.zeros(4, dtype=bool))
        self.observers: list[Any] = []
        self.plan = SimpleNamespace(slots=2, slot_bytes=50)
        self.decoder = SimpleNamespace(logits=self._logits)
        self.forwards: list[list[int]] = []
        self.before_forward = lambda: None

    def new_sequence(self) -> SequenceState:
        return SequenceState([], ())

    def forward(self, parts, *_):
        self.before_forward()
        self.forwards.append([len(tokens) for _, tokens in parts])
        rows = []
        for state, tokens in parts:
            for token in tokens.tolist():
                state.mixers.append(token)
                rows.append(tuple(state.mixers))
            state.length += len(tokens)
        x = np.empty(len(rows), dtype=object)
        x[:] = rows
        return x

    def _logits(self, x):
        logits = np.full((len(x), self.config.vocab), -10.0, dtype=np.float32)
        for row, tokens in zip(logits, x, strict=True):
            row[self._next(tokens)] = 10.0
        return logits

    def _next(self, tokens) -> int:
        head, opening, said = self.tokenizer.decode(tokens).rpartition(_OPENING)
        answer = self.script(head + opening)
        closed = "<think>\n\n</think>\n\n"
        whole = closed + answer.rpartition("</think>\n\n")[2] if said.startswith(closed) else "<think>\n" + answer
        if not whole.startswith(said) or whole == said:
            return min(self.tokenizer.eos_ids)
        return self.tokenizer.encode(whole.removeprefix(said))[0]

    def close(self) -> None: ...
