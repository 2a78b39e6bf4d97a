"""Milliseconds of one attention layer over long contexts: a single token, and a chunk of a prompt.

    python benchmarks/attention.py [--threads 1 2] [--context 8192 32768] [--tokens 1 512]

35B's heads (16 heads, 2 key/value heads, 256 dimensions), random keys and values, and a residual stream of 64 columns,
so that the projections are small beside the attention. The yardsticks: a single token reads its keys and values once
(GB/s of the float16 cache), a chunk multiplies (billions of operations a second).
"""

import argparse
import statistics
import time

import numpy as np

from flashmoe.ops.blocks import AttentionWeights
from flashmoe.ops.cpu import CpuOps
from flashmoe.ops.interface import Handle
from flashmoe.ops.weights import DenseMatrix

HEADS, KV_HEADS, DIM, HIDDEN = 16, 2, 256, 64


def layer_of(ops: CpuOps, rng: np.random.Generator) -> Handle:
    """Random projections."""

    def matrix(out: int, columns: int) -> Handle:
        return ops.matrix(DenseMatrix(rng.standard_normal((out, columns), np.float32) / np.float32(columns**0.5)))

    norm, narrow = np.ones(DIM, np.float32), KV_HEADS * DIM
    return ops.attention_weights(
        AttentionWeights(
            norm=np.ones(HIDDEN, np.float32),
            q=matrix(HEADS * DIM, HIDDEN),
            k=matrix(narrow, HIDDEN),
            v=matrix(narrow, HIDDEN),
            q_norm=norm,
            k_norm=norm,
            output=matrix(HIDDEN, HEADS * DIM),
            heads=HEADS,
            kv_heads=KV_HEADS,
            gated=False,
            eps=1e-6,
        )
    )


def milliseconds(ops: CpuOps, context: int, tokens: int, repeats: int) -> list[float]:
    """Of `repeats` calls, each on a cache that holds `context` tokens."""
    rng = np.random.default_rng(0)
    random = rng.standard_normal((context, KV_HEADS, 2 * DIM), np.float32).astype(np.float16)
    cache = ops.kv_cache(KV_HEADS, DIM)
    cache.append(random.reshape(context, -1).view(np.uint8))
    layer, x = layer_of(ops, rng), rng.standard_normal((tokens, HIDDEN), np.float32)
    turn = np.zeros((tokens, 0), np.float32)
    times = []
    for _ in range(repeats):
        own = cache.fork(context)
        begin = time.perf_counter()
        ops.full_attention(x.copy(), layer, [tokens], [own], turn, turn)
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
