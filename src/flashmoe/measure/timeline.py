"""A run as a timeline in the Chrome trace format, which Perfetto opens: one lane computes, the others read.

Invariant: recording changes no answer and ends with its `with` block. Knows spans and reads, not what they mean.
Format: "Trace Event Format", complete events (ph X) and metadata (ph M), times in microseconds.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flashmoe.engine.engine import Engine
from flashmoe.errors import FlashMoeError
from flashmoe.files.atomic import write_atomically
from flashmoe.measure.pipeline import tokens_of
from flashmoe.measure.timing import Span, timed
from flashmoe.streaming.reader import LoggedRead

_READS = 1 << 16
"""Kept at most, 3.5 MB; a timeline of more is no longer looked at."""
_COMPUTE, _FIRST_READER = 0, 1


@contextmanager
def recorded(engine: Engine, path: Path) -> Iterator[None]:
    """Write the timeline of what the engine does in the `with` block to `path`, also if it is interrupted.

    Raises FlashMoeError, before anything ran, if the file's directory is missing.
    """
    if not path.parent.is_dir():
        raise FlashMoeError(f"{path.parent} is not a directory, so no timeline can be written to {path}.")
    store = engine.store
    store.keep_read_log(_READS)
    try:
        with timed(engine) as clock:
            yield
    finally:
        reads, lost = store.read_log()
        store.keep_read_log(0)
        write_atomically(path, json.dumps(trace(clock.spans, reads, lost)).encode())


def trace(spans: Sequence[Span], reads: Sequence[LoggedRead], lost: int = 0) -> dict[str, Any]:
    """The JSON object. lost: reads before those given that were not kept."""
    origin = min([*(span.begin for span in spans), *(read.begin for read in reads)], default=0.0)
    lanes = {_COMPUTE: "compute"} | {
        _FIRST_READER + thread: f"reader {thread}" for thread in sorted({read.thread for read in reads})
    }
    names = [_metadata("process_name", _COMPUTE, "flashmoe")]
    names += [_metadata("thread_name", lane, name) for lane, name in lanes.items()]
    events = [_event(e[0], e[1], e[2] - origin, e[3] - origin, **e[4]) for e in (*_computing(spans), *_reading(reads))]
    return {
        "traceEvents": [*names, *events],
        "displayTimeUnit": "ms",
        "otherData": {"reads_not_kept": lost},
    }


_Event = tuple[str, int, float, float, dict[str, Any]]
"""Name, lane, begin, end, arguments."""


def _computing(spans: Sequence[Span]) -> Iterator[_Event]:
    """Each forward, within it each layer, within that each operation: events of a lane nest by their times."""
    for number, forward in enumerate(tokens_of(spans)):
        yield f"forward {number}", _COMPUTE, forward[0].begin, forward[-1].end, {}
        layers: dict[int, list[Span]] = {}
        for span in forward:
            layers.setdefault(span.layer, []).append(span)
        for layer, own in layers.items():
            if layer >= 0:
                yield f"layer {layer}", _COMPUTE, own[0].begin, own[-1].end, {}
        for span in forward:
            yield span.name, _COMPUTE, span.begin, span.end, {"part": span.part, "layer": span.layer}


def _reading(reads: Sequence[LoggedRead]) -> Iterator[_Event]:
    for read in reads:
        arguments = {"layer": read.layer, "expert": read.expert, "bytes": read.nbytes, "prefetch": read.prefetch}
        yield f"layer {read.layer} expert {read.expert}", _FIRST_READER + read.thread, read.begin, read.end, arguments


def _event(name: str, lane: int, begin: float, end: float, **arguments: Any) -> dict[str, Any]:
    return {
        "name": name,
        "ph": "X",
        "pid": 1,
        "tid": lane,
        "ts": round(begin * 1e6, 3),
        "dur": round((end - begin) * 1e6, 3),
        "args": arguments,
    }


def _metadata(kind: str, lane: int, name: str) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": 1, "tid": lane, "args": {"name": name}}
