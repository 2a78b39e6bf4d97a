"""Flash-MoE beside llama.cpp, in one run on one machine; as root, from the repository's root:

    python -m venv PEER && CMAKE_ARGS=-DGGML_NATIVE=ON PEER/bin/pip install --no-binary llama-cpp-python \
        llama-cpp-python==0.3.36 gguf
    python -m benchmarks.vs_llama_cpp DIR --peer PEER/bin/python

Writes both models to DIR unless they are there (20 GB each for all 40 layers of 35B-A3B). Cases:

    memory   everything in memory; the peer as it comes (it repacks the weights) and mapping the file
    even     a control group of 30 % of the model, cold start, routing nearly uniform; the peer maps a loop device,
             whose read-ahead decides its speed
    skew     the same with experts as popular as in trained models

Contenders take turns. All run the same random tokens one by one, and make logits of each.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from benchmarks.vs_llama_cpp.models import Pair, make_pair, write_routers
from benchmarks.vs_llama_cpp.results import OURS, Run, table
from benchmarks.vs_llama_cpp.system import forget, memory_limit, read_ahead, run_in, touch_memory
from flashmoe.measure.doctor import probe_disk_of, probe_reading
from flashmoe.measure.limits import read_limits
from flashmoe.measure.sizes import packed_sizes
from flashmoe.pack.shapes import SHAPES

PEER = Path(__file__).with_name("peer.py")
MEMORY, EVEN, SKEW = "memory", "even", "skew"


class Comparison:
    """One machine, one pair of models; `run` adds to `runs`."""

    def __init__(self, pair: Pair, options: argparse.Namespace) -> None:
        self.pair, self.options = pair, options
        self.limit = int(options.share * pair.nbytes)
        self.runs: list[Run] = []

    def run(self, case: str) -> None:
        write_routers(self.pair, skew=case == SKEW)
        contenders: list[Callable[[], Run]] = [lambda: self.ours(case)]
        if case == MEMORY:
            contenders += [lambda: self.peer(case, "llama.cpp, repacked", 0), lambda: self.peer(case, "llama.cpp", 0)]
        else:
            contenders += [
                lambda k=k: self.peer(case, f"llama.cpp, read-ahead {k} KiB", k) for k in self.options.read_ahead
            ]
        for number in range(self.options.rounds):
            for contender in contenders:
                done = contender()
                rate = f"{1 / done.token:.3f} tokens/s" if done.seconds else "ended by a signal"
                print(f"{case}, round {number + 1}, {done.row}: {rate}", flush=True)
                self.runs.append(done)

    def tokens(self, case: str) -> str:
        count = self.options.tokens if case == MEMORY else self.options.streamed_tokens
        return json.dumps(np.random.default_rng(2).integers(0, self.pair.config["vocab_size"], count).tolist())

    def ours(self, case: str) -> Run:
        self._forget()
        disk = memory = None
        if case == MEMORY:
            memory = probe_reading(read_limits(), [self.options.threads])[-1].per_second
        else:
            disk = probe_disk_of(self.pair.packed)[0].best.bytes_per_second
        everything = str(int(case == MEMORY))
        command = [sys.executable, "-m", "benchmarks.vs_llama_cpp.ours", str(self.pair.packed)]
        said = self._run(case, [*command, str(self.options.threads), everything])
        if said is None:
            return Run(case, OURS, None, disk, memory)
        found = json.loads(said)
        return Run(case, OURS, tuple(found.pop("seconds")), disk, memory, found)

    def peer(self, case: str, row: str, kilobytes: int) -> Run:
        self._forget()
        with ExitStack() as stack:
            file = stack.enter_context(read_ahead(self.pair.gguf, kilobytes)) if kilobytes else self.pair.gguf
            repack = str(int(row.endswith("repacked")))
            said = self._run(
                case, [str(self.pair.peer_python), str(PEER), str(file), str(self.options.threads), repack]
            )
        if said is None:
            return Run(case, row, None)
        found = json.loads(said)
        return Run(case, row, tuple(found.pop("seconds")), more=found)

    def _run(self, case: str, command: list[str]) -> str | None:
        with ExitStack() as stack:
            group = None
            if case != MEMORY:
                touch_memory(self.limit)
                group = stack.enter_context(memory_limit(self.limit))
            return run_in(group, command, self.tokens(case))

    def _forget(self) -> None:
        forget([self.pair.gguf, *self.pair.expert_files])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--peer", type=Path, required=True, help="Python with llama-cpp-python and gguf")
    parser.add_argument("--like", choices=list(SHAPES), default="qwen3.5-35b-a3b")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--experts", type=int, help="in each layer, instead of the model's own number")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cases", nargs="+", choices=(MEMORY, EVEN, SKEW), default=(MEMORY, EVEN, SKEW))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--streamed-tokens", type=int, default=64)
    parser.add_argument("--share", type=float, default=0.3, help="of the model, that the control group may hold")
    parser.add_argument("--read-ahead", type=int, nargs="+", default=[128], help="KiB of the peer's disk")
    parser.add_argument("--json", type=Path, help="also write every run there")
    options = parser.parse_args()
    if os.geteuid():
        parser.error("control groups and loop devices need root.")
    pair = make_pair(options.directory, options.like, options.layers, options.experts, options.peer)
    comparison = Comparison(pair, options)
    print(
        f"{pair.packed.name}: {pair.nbytes / 1e9:.2f} GB the smaller, {options.threads} threads each, control group of "
        f"{comparison.limit / 1e9:.2f} GB, load average {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    sizes = packed_sizes(pair.packed)
    for case in options.cases:
        comparison.run(case)
    print(table(comparison.runs, sizes.trunk + 2 * sizes.delta + sizes.experts))
    if options.json:
        options.json.write_text(json.dumps([run.as_json() for run in comparison.runs], indent=1))


if __name__ == "__main__":
    main()
