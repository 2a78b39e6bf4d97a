"""Random inputs for the operations, and comparison within a stated relative tolerance."""

from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashmoe import _native
from flashmoe.ops.blocks import AttentionWeights, DeltaNetWeights
from flashmoe.ops.interface import Handle, Ops, RecurrentState
from flashmoe.ops.weights import GROUP, AffineMatrix, DenseMatrix, ExpertWork, Matrix, RecordLayout, RecordPart

Floats = NDArray[np.float32]
ISAS = _native.Cpu.available_isas()


def normal(rng: np.random.Generator, *shape: int) -> Floats:
    return rng.standard_normal(shape, np.float32)


def state_values(state: RecurrentState) -> Floats:
    values = np.empty(state.nbytes // 4, np.float32)
    state.read(values)
    return values


def bfloat16(values: Floats) -> NDArray[np.uint16]:
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def affine(rng: np.random.Generator, out: int, columns: int, bits: int) -> AffineMatrix:
    """Codes over their whole range, scales of both signs."""
    codes = rng.integers(0, 2**32, (out, columns * bits // 32), np.uint32)
    scales = normal(rng, out, columns // GROUP) / 2**bits
    return AffineMatrix(codes, bfloat16(scales), bfloat16(normal(rng, out, columns // GROUP)))


def dense(rng: np.random.Generator, out: int, columns: int, *, half: bool) -> DenseMatrix:
    values = normal(rng, out, columns)
    return DenseMatrix(bfloat16(values) if half else values)


def rounded(x: Floats) -> Floats:
    """x as int8 in groups of 64 says it: what affine matrices are multiplied with."""
    groups = x.reshape(len(x), -1, GROUP)
    scale = np.abs(groups).max(axis=-1, keepdims=True) / np.float32(127)
    codes = np.rint(groups / np.where(scale == 0, np.float32(1), scale))
    return (codes * scale).reshape(x.shape)


def assert_close(actual: Any, expected: Any, tolerance: float, size: float = 0.0) -> None:
    """Relative to the largest value expected, or to `size` if that is larger: all values may have cancelled."""
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max(initial=0) <= tolerance * np.abs(expected).max(initial=size)


def same_bits(a: Floats, b: Floats) -> bool:
    return a.shape == b.shape and a.tobytes() == b.tobytes()


def expert_layout(hidden: int, inner: int, bits: dict[str, int]) -> RecordLayout:
    parts, offset = [], 0
    for name, (out, columns) in {"gate": (inner, hidden), "up": (inner, hidden), "down": (hidden, inner)}.items():
        for suffix, dtype, width, size in (
            ("weight", "U32", columns * bits[name] // 32, 4),
            ("scales", "BF16", columns // GROUP, 2),
            ("biases", "BF16", columns // GROUP, 2),
        ):
            parts.append(RecordPart(f"{name}.{suffix}", dtype, (out, width), offset))
            offset += out * width * size
    return RecordLayout(tuple(parts), -(-offset // 4096) * 4096)


def expert_arena(rng: np.random.Generator, slots: int, layout: RecordLayout) -> NDArray[np.uint8]:
    """Random codes; scales and biases small enough for sane sums."""
    arena = rng.integers(0, 256, (slots, layout.record_bytes), np.uint8)
    for part in layout.parts:
        if part.dtype == "BF16":
            values = bfloat16(normal(rng, slots, part.shape[0] * part.shape[1]) / 8).view(np.uint8)
            arena[:, part.offset : part.offset + values.shape[1]] = values
    return arena


def expert_work(rng: np.random.Generator, tokens: int, top_k: int, slots: int) -> ExpertWork:
    """Each token's top_k different slots; the entry of token t and rank r lands in row t * top_k + r."""
    chosen = np.stack([rng.permutation(slots)[:top_k] for _ in range(tokens)]).reshape(-1)
    order = np.argsort(chosen, kind="stable").astype(np.int32)
    used, counts = np.unique(chosen, return_counts=True)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return ExpertWork(used.astype(np.int32), starts, order // np.int32(top_k), order)


def matrices(rng: np.random.Generator, out: int, columns: int) -> list[tuple[Matrix, bool]]:
    """Every kind of matrix with its `exact`."""
    kinds: list[tuple[Matrix, bool]] = [(affine(rng, out, columns, b), e) for b in (2, 4, 8) for e in (False, True)]
    return [*kinds, (dense(rng, out, columns, half=True), False), (dense(rng, out, columns, half=False), True)]


EPS = 1e-6


def attention_weights(
    rng: np.random.Generator, hidden: int, heads: int, kv_heads: int, dim: int, *, gated: bool = True
) -> AttentionWeights:
    """Full attention with matrices of floats, whose sums do not grow with their width."""

    def matrix(out: int, columns: int) -> DenseMatrix:
        return DenseMatrix(normal(rng, out, columns) / np.float32(columns**0.5))

    return AttentionWeights(
        norm=normal(rng, hidden),
        q=matrix(heads * dim * (2 if gated else 1), hidden),
        k=matrix(kv_heads * dim, hidden),
        v=matrix(kv_heads * dim, hidden),
        q_norm=normal(rng, dim),
        k_norm=normal(rng, dim),
        output=matrix(hidden, heads * dim),
        heads=heads,
        kv_heads=kv_heads,
        gated=gated,
        eps=EPS,
    )


def delta_net_weights(
    rng: np.random.Generator, hidden: int, key_heads: int, heads: int, key_dim: int, value_dim: int, kernel: int
) -> DeltaNetWeights:
    """GatedDeltaNet with matrices of floats, whose sums do not grow with their width."""

    def matrix(out: int, columns: int) -> DenseMatrix:
        return DenseMatrix(normal(rng, out, columns) / np.float32(columns**0.5))

    channels = 2 * key_heads * key_dim + heads * value_dim
    return DeltaNetWeights(
        norm=normal(rng, hidden),
        qkv=matrix(channels, hidden),
        z=matrix(heads * value_dim, hidden),
        b=matrix(heads, hidden),
        a=matrix(heads, hidden),
        conv=normal(rng, channels, kernel),
        a_log=normal(rng, heads),
        dt_bias=normal(rng, heads),
        gated_norm=normal(rng, value_dim),
        output=matrix(hidden, heads * value_dim),
        key_heads=key_heads,
        eps=EPS,
    )


def handle_of(ops: Ops, weights: AttentionWeights | DeltaNetWeights) -> Handle:
    """The mixer as the backend wants it, from weights whose matrices are Matrix."""
    values = {field.name: getattr(weights, field.name) for field in fields(weights)}
    ready = type(weights)(**{n: ops.matrix(v) if isinstance(v, DenseMatrix) else v for n, v in values.items()})
    return ops.delta_net_weights(ready) if isinstance(ready, DeltaNetWeights) else ops.attention_weights(ready)


def attended(ops: Ops, handle: Handle, x: Floats, cache: Any, turns: int = 0) -> Floats:
    """What full attention makes of one sequence's rows x, with 2 * turns dimensions rotated, each token as the one
    before."""
    out = x.copy()
    cos = np.full((len(x), turns), 0.6, np.float32)
    ops.full_attention(out, handle, [len(x)], [cache], cos, np.sqrt(1 - cos * cos))
    return out


def chosen_attention(q: Floats, k: Floats, v: Floats) -> tuple[AttentionWeights, Floats]:
    """Full attention, and rows x [T, D] for which it takes exactly these k and v [T, KV, d], and q [T, H, d] over its
    root mean square; |k| must be the same along T and KV. The result minus x is o, followed by zeros.

    x is one-hot: its mean square is 1, and a product with a matrix of floats picks a column.
    """
    tokens, heads, dim = q.shape
    hidden = 4
    while hidden < max(tokens, heads * dim):
        hidden *= 4
    length = np.float32(hidden**0.5)

    def column_by_column(rows: Floats) -> DenseMatrix:
        matrix = np.zeros((rows[0].size, hidden), np.float32)
        matrix[:, :tokens] = rows.reshape(tokens, -1).T / length
        return DenseMatrix(matrix)

    weights = AttentionWeights(
        norm=np.ones(hidden, np.float32),
        q=column_by_column(q),
        k=column_by_column(np.sign(k)),
        v=column_by_column(v),
        q_norm=np.ones(dim, np.float32),
        k_norm=np.abs(k[0, 0]),
        output=DenseMatrix(np.eye(hidden, heads * dim, dtype=np.float32)),
        heads=heads,
        kv_heads=k.shape[1],
        gated=False,
        eps=0.0,
    )
    return weights, np.eye(tokens, hidden, dtype=np.float32) * length
