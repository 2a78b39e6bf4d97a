"""Text in, text out: an Engine with the checkpoint's tokenizer and chat template.

Invariant: the pieces of a stream, joined, are the text of the same generation made at once. Knows how a prompt becomes
tokens and tokens become text; knows neither weights nor requests.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flashmoe.chat.marking import Rendered
from flashmoe.chat.renderer import RENDERER, Cancel
from flashmoe.chat.stops import StopStrings
from flashmoe.chat.template import ChatTemplate, NoTemplateError
from flashmoe.chat.tokenizer import Tokenizer
from flashmoe.demo.directory import model_directory
from flashmoe.engine.engine import Engine
from flashmoe.engine.generation import Generation, Statistics, generate
from flashmoe.engine.loader import load_engine
from flashmoe.engine.sampling import Sampling
from flashmoe.engine.session import Progress, Session
from flashmoe.errors import FlashMoeError
from flashmoe.pack.manifest import Manifest
from flashmoe.settings import Settings

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Piece:
    """What one token added to the text: often a word, sometimes nothing yet. The last piece of a stream may have no
    token (-1): text that was held back until the end."""

    text: str
    token_id: int


@dataclass(frozen=True, slots=True)
class Answer:
    """finish_reason: `stop` (the model ended, or a stop string came), `length` or `cancelled`."""

    text: str
    token_ids: list[int]
    finish_reason: str
    stats: Statistics


class TextStream:
    """Iterate over it for the pieces; `finish_reason` and `stats` are those of the tokens so far."""

    def __init__(self, generation: Generation, tokenizer: Tokenizer, stop: tuple[str, ...]) -> None:
        self._generation, self._tokenizer, self._stop = generation, tokenizer, stop
        self._stopped = False

    @property
    def finish_reason(self) -> str:
        return "stop" if self._stopped else self._generation.finish_reason

    @property
    def stats(self) -> Statistics:
        return self._generation.statistics

    def cancel(self) -> None:
        """End after the token, or the piece of the prompt, that is being computed. Any thread may call it."""
        self._generation.cancel()

    def __iter__(self) -> Iterator[Piece]:
        decoder, stops = self._tokenizer.stream(), StopStrings(self._stop)
        for token in self._generation:
            yield Piece(stops.push(decoder.push(token)), token)
            if stops.found is not None:
                self._stopped = True
                return
        if held := stops.push(decoder.flush()) + stops.flush():
            yield Piece(held, -1)


class TextEngine:
    """What `flashmoe.load` returns. One thread uses it; close it, or use it in a `with` block.

    directory: the packed model. engine: the same model by token ids. tokenizer: the checkpoint's own.
    """

    def __init__(self, directory: Path, engine: Engine, tokenizer: Tokenizer) -> None:
        self.directory, self.engine, self.tokenizer = directory, engine, tokenizer

    @cached_property
    def template(self) -> ChatTemplate:
        """The checkpoint's chat template; FlashMoeError if it has none, which leaves raw=True."""
        return ChatTemplate.from_dir(self.directory)

    def logits(self, token_ids: ArrayLike) -> NDArray[np.float32]:
        """Logits float32 [T, vocab]: row t says what follows tokens 0..t."""
        return self.engine.logits(token_ids)

    def prompt_ids(
        self,
        prompt: str | Messages,
        *,
        raw: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> list[int]:
        """Token ids of a prompt: messages (`{"role": ..., "content": ...}`) through the chat template, a string as the
        user's single turn, or, if raw, the string as it is. variables: the template's own (enable_thinking=False)."""
        if raw:
            if not isinstance(prompt, str):
                raise FlashMoeError("raw=True completes plain text; give a string, not messages.")
            return self.tokenizer.encode(prompt, add_special_tokens=True)
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        return self.tokenizer.encode_prompt(self.render(messages, tools, variables))

    def render(
        self,
        messages: Messages,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
        cancel: Cancel | None = None,
    ) -> Rendered:
        """Messages through the chat template (ChatTemplate.prompt), for `tokenizer.encode_prompt`."""
        return self.template.prompt(messages, tools, variables, self.tokenizer.control, cancel)

    def stream(
        self,
        prompt: str | Messages,
        *,
        raw: bool = False,
        max_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        tools: Sequence[Mapping[str, Any]] | None = None,
        template_variables: Mapping[str, Any] | None = None,
        enable_thinking: bool | None = None,
        progress: Progress | None = None,
        session: Session | None = None,
        **sampling: float | None,
    ) -> TextStream:
        """Generate piece by piece, until the model ends its turn.

        prompt, raw, tools: see `prompt_ids`. max_tokens: None for what the context leaves. stop: strings that end the
        text before them. progress: told how far the prompt is, as Engine.prefill says. session: `engine.session()`, for
        a conversation: what it has in common with the prompts before is not computed again. sampling: the fields of
        engine.sampling.Sampling (temperature, top_k, seed, ...); what is left out or None is the checkpoint's own.
        Raises FlashMoeError for a parameter that is not valid or unknown, and CapacityError where prompt and max_tokens
        do not fit the context.
        """
        if unknown := sorted(set(sampling) - set(Sampling.__dataclass_fields__)):
            known = ", ".join(Sampling.__dataclass_fields__)
            raise FlashMoeError(f"There is no sampling parameter {unknown[0]!r}; they are {known}.")
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        if not all(isinstance(s, str) and s for s in stops):
            raise FlashMoeError(f"stop must be strings with at least one character, not {stop!r}.")
        variables = dict(template_variables or {})
        if enable_thinking is not None:
            variables["enable_thinking"] = enable_thinking
        prompt_ids = self.prompt_ids(prompt, raw=raw, tools=tools, **variables)
        generation = generate(
            self.engine,
            prompt_ids,
            Sampling.from_generation_config(self.engine.defaults, **sampling),
            max_tokens=max_tokens,
            stop_ids=self.tokenizer.eos_ids | frozenset(self.engine.config.eos),
            progress=progress,
            session=session,
            prefix_checkpoint=0
            if raw or session is None
            else self._prefix_checkpoint(prompt, prompt_ids, tools, variables),
        )
        return TextStream(generation, self.tokenizer, stops)

    def _prefix_checkpoint(
        self,
        prompt: str | Messages,
        prompt_ids: list[int],
        tools: Sequence[Mapping[str, Any]] | None,
        variables: Mapping[str, Any],
    ) -> int:
        """How many tokens come before the opening of the answer, which is rendered otherwise once it is history."""
        asked = self.prompt_ids(prompt, tools=tools, add_generation_prompt=False, **variables)
        return len(asked) if prompt_ids[: len(asked)] == asked else 0

    def generate(self, prompt: str | Messages, **options: Any) -> Answer:
        """The whole answer at once; the options are those of `stream`."""
        stream = self.stream(prompt, **options)
        pieces = list(stream)
        return Answer(
            "".join(piece.text for piece in pieces),
            [piece.token_id for piece in pieces if piece.token_id >= 0],
            stream.finish_reason,
            stream.stats,
        )

    def close(self) -> None:
        """Stop reading and close the files."""
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def load(directory: str | Path, **settings: Any) -> TextEngine:
    """Load the packed model in a directory, or the one that ships with Flash-MoE for the word "demo"; the keywords are
    the fields of Settings (`memory="4GiB"`, `backend="cpu"`, ...).

    Raises FlashMoeError with a sentence for settings that are not valid, files that are damaged or do not belong
    together, and memory that is too small.
    """
    return load_with(directory, Settings.from_keywords(**settings))


def load_with(directory: str | Path, settings: Settings) -> TextEngine:
    """The same with settings made before."""
    found = model_directory(directory)
    Manifest.read(found)  # what is no packed model is that first, and only then without a tokenizer
    RENDERER.start()
    tokenizer = Tokenizer.from_dir(found)
    return TextEngine(found, load_engine(found, settings), tokenizer)


def check_text_files(directory: Path) -> None:
    """Raise FlashMoeError for a tokenizer or a chat template in `directory` with which no model could be run: read as
    they are for a run, and tried on one message. What is not there is not asked for."""
    if not (directory / "tokenizer.json").exists():
        return
    tokenizer = Tokenizer.from_dir(directory)
    with suppress(NoTemplateError):
        template = ChatTemplate.from_dir(directory)
        tokenizer.encode_prompt(template.prompt([{"role": "user", "content": "Hello"}], control=tokenizer.control))
