"""Milliseconds of one attention layer over long contexts: a single token, and a chunk of a prompt.

    python benchmarks/attention.py [--threads 1 2] [--context 8192 32768] [--tokens 1 512]

35B's shapes (16 heads, 2 key/value heads, 256 dimensions), random keys and values. The yardsticks: a single token reads
its keys and values once (GB/s of the float16 cache), a chunk multiplies (billions of operations a second).
"""

import argparse
import statistics
import time

import numpy as np

from flashmoe.ops.cpu import CpuOps

HEADS, KV_HEADS, DIM = 16, 2, 256


def milliseconds(ops: CpuOps, context: int, tokens: int, repeats: int) -> list[float]:
    """Of `repeats` calls, each on a cache that holds `context` tokens."""
    rng = np.random.default_rng(0)
    random = rng.standard_normal((context, KV_HEADS, 2 * DIM), np.float32).astype(np.float16)
    cache = ops.kv_cache(KV_HEADS, DIM)
    cache.append(random.reshape(context, -1).view(np.uint8))
    q = rng.standard_normal((tokens, HEADS, DIM), np.float32)
    k, v = (rng.standard_normal((tokens, KV_HEADS, DIM), np.float32) for _ in "kv")
    times = []
    for _ in range(repeats):
        own = cache.fork(context)
        begin = time.perf_counter()
        ops.attention(q, k, v, own, DIM**-0.5)
        times.append((time.perf_counter() - begin) * 1e3)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--context", type=int, nargs="+", default=[8192, 32768])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 512])
    args = parser.parse_args()
    print("threads context tokens  ms, median (span)        GB/s    Gops/s")
    for threads in args.threads:
        ops = CpuOps(threads)
        for context in args.context:
            for tokens in args.tokens:
                times = milliseconds(ops, context, tokens, 15 if tokens == 1 else 3)
                median = statistics.median(times)
                seen = context + tokens / 2
                rate = KV_HEADS * DIM * 4 * context / median / 1e6
                operations = 4 * tokens * HEADS * DIM * seen / median / 1e6
                span = f"{median:8.2f} ({min(times):.2f}-{max(times):.2f})"
                print(f"{threads:7} {context:7} {tokens:6}  {span:24} {rate:6.1f} {operations:7.0f}")


if __name__ == "__main__":
    main()
