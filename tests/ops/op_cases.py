"""Random inputs for the operations, and comparison within a stated relative tolerance."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashmoe import _native
from flashmoe.ops.interface import RecurrentState
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
