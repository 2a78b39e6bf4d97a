"""What the reader costs besides the disk: the choice of direct or buffered at the start, and handing over a read.

    python benchmarks/reading.py FILE [--record 1769472] [--repeats 9]

FILE: anything large on the disk to be measured. Its page cache is dropped.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

from flashmoe._native import Buffer
from flashmoe.measure.disk import probe_disk
from flashmoe.streaming.reader import ExpertFile, RecordReader
from flashmoe.streaming.readmode import choose_direct

PAGE = 4096
SMALL = 512


def spread(values: list[float], unit: str) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f}-{max(values):.1f}) {unit}"


def seconds(work: Callable[[], object]) -> float:
    started = perf_counter()
    work()
    return perf_counter() - started


def handing_over(batch: int, *, together: bool) -> float:
    """Microseconds a read of one page that the page cache has, `batch` at a time, until all have ended."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(bytes(PAGE * SMALL))
        file.flush()
        reader = RecordReader([ExpertFile(Path(file.name), 0, SMALL, PAGE)], threads=8, direct=False)
        buffer = Buffer(PAGE * batch)
        slots, places = list(range(batch)), [PAGE * i for i in range(batch)]

        def read_all() -> None:
            for first in range(0, SMALL // batch * batch, batch):
                experts = list(range(first, first + batch))
                if together:
                    reads = reader.submit_many(0, experts, slots, buffer, places)
                else:
                    reads = [reader.submit(0, experts[i], i, buffer, places[i]) for i in slots]
                while reads := [read for read in reads if not read.done]:
                    reader.wait_any(reads)

        taken = seconds(read_all)
        reader.close()
    return taken / (SMALL // batch * batch) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--record", type=int, default=1_769_472)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    records = options.file.stat().st_size // options.record
    files = [ExpertFile(options.file, 0, records, options.record)]

    choices, times = [], []
    for _ in range(options.repeats):
        times.append(seconds(lambda: choices.extend(choose_direct(files))) * 1e3)
    print(f"choice: direct {sum(choices)} of {len(choices)} times, {spread(times, 'ms')}")
    disk = probe_disk(files, depths=(4,), seconds=1.0)
    for way, rates in (("direct", disk.direct), ("buffered", disk.buffered)):
        print(f"{way}: {', '.join(f'{rate.bytes_per_second / 1e9:.2f} GB/s' for rate in rates) or 'refused'}")
    for batch in (1, 4, 8):
        apart, together = [], []
        for _ in range(options.repeats):
            apart.append(handing_over(batch, together=False))
            together.append(handing_over(batch, together=True))
        print(f"{batch} reads: one by one {spread(apart, 'us a read')}, together {spread(together, 'us a read')}")


if __name__ == "__main__":
    main()
