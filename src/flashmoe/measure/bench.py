"""Speed of a packed model: cold and warm, several prompts, repeated, beside what the machine would allow.

Invariant: the figures are of an engine that nothing watches; where the time goes is seen in one more run of its own.
Knows token ids, not text.
"""

import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from flashmoe.engine.engine import Engine
from flashmoe.engine.generation import Statistics, generate
from flashmoe.engine.loader import load_engine
from flashmoe.engine.sampling import Sampling
from flashmoe.errors import FlashMoeError
from flashmoe.files.opening import open_regular
from flashmoe.measure.pipeline import Pipeline, pipeline, tokens_of
from flashmoe.measure.prediction import Description, Prediction, Speeds, measure, predict
from flashmoe.measure.roofline import Decode
from flashmoe.measure.sizes import packed_sizes
from flashmoe.measure.timing import timed
from flashmoe.pack.manifest import Manifest
from flashmoe.settings import Settings

COLD, WARM = "cold", "warm"


@dataclass(frozen=True)
class Run:
    """One generation. Bytes and seconds of decoding are a token's; shares from 0 to 1. hit_rate: of the experts that
    were in memory before anybody asked for them or guessed that they would be."""

    start: str
    prompt: int
    prefill_rate: float
    decode_rate: float
    hit_rate: float
    bytes_read: float
    stall: float
    python_share: float


@dataclass(frozen=True)
class Spread:
    """Of several runs."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Report:
    """`pipeline` is of a warm run; `roofline` by start, with the hit rate and bytes that were measured; `planned` as
    `flashmoe plan` says it before each repeat, of which `roofline` has the middle one's machine."""

    summary: str
    runs: tuple[Run, ...]
    pipeline: Pipeline
    roofline: dict[str, Prediction]
    planned: tuple[Prediction, ...]

    def plan_for(self, start: str) -> Spread:
        """Tokens a second, foreseen."""
        return Spread.of([1 / _start_of(planned, start).predicted for planned in self.planned])

    def prompts_for(self, start: str) -> Spread:
        """Tokens a second of prompts, foreseen."""
        prompts = [planned.cold_prompted if start == COLD else planned.prompted for planned in self.planned]
        return Spread.of([prompt.rate for prompt in prompts if prompt.rate])

    def of(self, start: str, figure: str) -> Spread:
        return Spread.of([getattr(run, figure) for run in self.runs if run.start == start])

    def roofline_share(self, start: str) -> float:
        """Of the limit, max(disk, memory), what decoding reached."""
        return self.of(start, "decode_rate").median * self.roofline[start].decode.limit

    def as_json(self) -> dict[str, Any]:
        figures = [name for name in Run.__dataclass_fields__ if name not in ("start", "prompt")]
        return {
            "summary": self.summary,
            "runs": [asdict(run) for run in self.runs],
            **{
                start: {name: asdict(self.of(start, name)) for name in figures}
                | {
                    "roofline_share": self.roofline_share(start),
                    "roofline": self.roofline[start].as_json()["decode"],
                    "planned_decode_rate": asdict(self.plan_for(start)),
                    "planned_prefill_rate": asdict(self.prompts_for(start)),
                }
                for start in (COLD, WARM)
            },
            "pipeline": self.pipeline.as_json(),
        }

    def __str__(self) -> str:
        lines = [self.summary]
        head = ("prefill tokens/s", "decode tokens/s", "hits", "read MB", "waiting ms", "Python")
        lines.append("  " + " " * 6 + f"{head[0]:>24}{head[1]:>24}" + "".join(f"{name:>12}" for name in head[2:]))
        for start in (COLD, WARM):
            rates = [self.of(start, name) for name in ("prefill_rate", "decode_rate")]
            shown = "".join(f"{f'{r.median:.2f} ({r.low:.2f}-{r.high:.2f})':>24}" for r in rates)
            hits, read, stall, python = (
                self.of(start, name).median for name in ("hit_rate", "bytes_read", "stall", "python_share")
            )
            lines.append(f"  {start:6}{shown}{hits:12.1%}{read / 1e6:12.2f}{stall * 1e3:12.2f}{python:12.1%}")
        lines.append("medians (lowest-highest) of runs; hits, bytes and waiting are of a decoded token")
        for start in (COLD, WARM):
            d, planned = self.roofline[start].decode, self.plan_for(start)
            hits = _start_of(self.planned[0], start).hit_rate
            lines.append(
                f"roofline, {start}: at most {1 / d.limit:.2f} tokens/s (disk {d.disk * 1e3:.2f} ms, memory "
                f"{d.memory * 1e3:.2f} ms), of which {self.roofline_share(start):.0%} was reached"
            )
            lines.append(
                f"  predicted {1 / d.predicted:.2f} tokens/s with these hits; before each repeat, as `flashmoe plan` "
                f"does, {planned.median:.2f} ({planned.low:.2f}-{planned.high:.2f}) with {hits:.1%} hits, and "
                f"{self.prompts_for(start).median:.1f} of a prompt"
            )
        lines.append("where a decoded token's time goes, warm, milliseconds")
        return "\n".join([*lines, *self.pipeline.table()])


def bench(
    directory: Path,
    prompts: Sequence[Sequence[int]],
    settings: Settings,
    *,
    tokens: int,
    repeats: int,
    report: Callable[[str], None],
) -> Report:
    """Each repeat loads the model anew and starts cold, with another prompt each time; then every prompt runs warm, the
    first one last.

    Cold: no expert in memory, and none in the page cache. Warm: as many in memory as fit. Tokens are drawn at
    temperature 1 with fixed seeds, since a greedy run may fall into a circle and find its experts too easily; none ends
    a run. Raises FlashMoeError.
    """
    if not prompts or tokens < 3 or repeats < 1:
        raise FlashMoeError("A benchmark takes at least one prompt, one repeat and three tokens.")
    model = packed_sizes(directory, settings.experts_per_token)
    machine = Description(memory=settings.memory)
    moments: list[tuple[Speeds, Prediction]] = []
    runs: list[Run] = []
    for repeat in range(repeats):
        # Each time: a shared machine is fast in one minute and slow in the next.
        report("probing the machine")
        speeds = measure(model, machine, directory, settings, _sampling(0))
        planned = predict(model, machine, directory, settings, _sampling(0), len(prompts[0]), tokens, speeds)
        moments.append((speeds, planned))
        first = repeat % len(prompts)
        order = [*range(first, len(prompts)), *range(first)]
        _drop_from_page_cache(directory)
        with load_engine(directory, settings) as engine:
            for turn, prompt in enumerate([*order, first]):
                start = WARM if turn else COLD
                report(f"repeat {repeat + 1} of {repeats}, {start}, prompt {prompt + 1}")
                runs.append(_run(engine, start, prompt, prompts[prompt], tokens, seed=len(runs)))
                _fill(engine)
            if repeat == repeats - 1:
                report("where the time goes")
                seen, summary, plan = _watch(engine, prompts[first], tokens), engine.summary, engine.plan
    speeds, planned = sorted(moments, key=lambda moment: moment[1].decode.predicted)[len(moments) // 2]
    by_start: dict[str, Prediction] = {}
    for start in (COLD, WARM):
        hit_rate = statistics.median(run.hit_rate for run in runs if run.start == start)
        fresh = 1 - hit_rate if start == COLD and planned.cold.fresh else 0.0
        as_seen = replace(machine, memory=plan.budget, hit_rate=hit_rate, fresh=fresh)
        by_start[start] = predict(model, as_seen, directory, settings, _sampling(0), speeds=speeds)
    return Report(summary, tuple(runs), seen, by_start, tuple(each for _, each in moments))


def _start_of(prediction: Prediction, start: str) -> Decode:
    return prediction.cold if start == COLD else prediction.decode


def _fill(engine: Engine) -> None:
    """Experts of every layer into what memory is still empty."""
    store, layers = engine.store, range(engine.config.layers)
    if not store.keep:
        return
    held = np.stack([store.in_memory(layer) for layer in layers], axis=1)
    chosen = np.argwhere(~held)[: store.max_lease - np.count_nonzero(held)]
    for layer in layers:
        experts = chosen[chosen[:, 1] == layer, 0].astype(np.int32)
        for begin in range(0, len(experts), store.max_lease):
            with store.fetch(layer, experts[begin : begin + store.max_lease]) as lease:
                for _ in lease.groups():
                    pass


def _run(engine: Engine, start: str, prompt: int, ids: Sequence[int], tokens: int, seed: int) -> Run:
    generation = generate(engine, np.array(ids), _sampling(seed), max_tokens=tokens, stop_ids=frozenset())
    prefilled: Statistics | None = None
    guessed = 0
    for _ in generation:
        if prefilled is None:
            prefilled, guessed = generation.statistics, engine.store.stats.prefetch_used
    done = generation.statistics
    assert prefilled is not None
    steps, seconds = done.steps, done.generation_seconds
    guessed = engine.store.stats.prefetch_used - guessed
    hits, misses = done.hits - prefilled.hits - guessed, done.misses - prefilled.misses + guessed
    stall = done.stall_seconds - prefilled.stall_seconds
    native = done.native_seconds - prefilled.native_seconds
    return Run(
        start=start,
        prompt=prompt,
        prefill_rate=done.prompt_rate,
        decode_rate=done.generation_rate,
        hit_rate=hits / (hits + misses),
        bytes_read=(done.bytes_read - prefilled.bytes_read) / steps,
        stall=stall / steps,
        python_share=max(0.0, 1 - (native + stall) / seconds),
    )


def _watch(engine: Engine, ids: Sequence[int], tokens: int) -> Pipeline:
    """The pipeline of one more generation, without its prompt's forwards."""
    with timed(engine) as clock:
        generation = generate(engine, np.array(ids), _sampling(0), max_tokens=tokens, stop_ids=frozenset())
        for _ in generation:
            pass
    decoded = tokens_of(clock.spans)[-generation.statistics.steps :]
    return pipeline([span for token in decoded for span in token], engine.config.layers)


def _sampling(seed: int) -> Sampling:
    return Sampling(temperature=1.0, seed=seed)


def _drop_from_page_cache(directory: Path) -> None:
    for layer in Manifest.read(directory).layers:
        fd = open_regular(layer.path)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)
