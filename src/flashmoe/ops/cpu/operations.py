"""ops/interface.py over the native class `Cpu`: makes the outputs, calls, and no more.

A decoded token makes some five hundred of these calls, so each costs a few microseconds. Activations are rounded to
int8, group by group of 64, before they meet an affine matrix that is not `exact`. Results do not depend on the number
of threads, on the instruction set or on how tokens were cut into calls. The native class checks every shape and raises
ValueError.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flashmoe import _native
from flashmoe.ops.interface import KV_GROUP
from flashmoe.ops.weights import AffineMatrix, ExpertWork, Matrix, RecordLayout

Floats = NDArray[np.float32]


class CpuOps:
    """Kernels for the best instruction set that runs here, or for `isa` (tests compare them). kv_bits: 16 or 8."""

    name = "cpu"

    def __init__(self, threads: int, isa: str = "", kv_bits: int = 16) -> None:
        self._cpu = _native.Cpu(threads, isa)
        self._kv_bits = kv_bits

    @property
    def device(self) -> str:
        return f"cpu {self._cpu.isa}, {self._cpu.threads} thread{'s' if self._cpu.threads > 1 else ''}"

    @property
    def busy_seconds(self) -> float:
        return self._cpu.busy_seconds

    def matrix(self, weight: Matrix, *, exact: bool = False) -> _native.Matrix:
        if isinstance(weight, AffineMatrix):
            return _native.Matrix.affine(weight.codes, weight.scales, weight.biases, exact)
        return _native.Matrix.dense(weight.values)

    def vector(self, values: Floats) -> Floats:
        return np.ascontiguousarray(values, np.float32)

    def layout(self, layout: RecordLayout) -> _native.Layout:
        parts = [(p.name, p.shape[0], p.shape[1], p.offset) for p in layout.parts]
        return _native.Layout(parts, layout.record_bytes)

    def kv_cache(self, kv_heads: int, head_dim: int) -> _native.KvCache:
        return _native.KvCache(kv_heads, head_dim, self._kv_bits)

    def kv_bytes(self, kv_heads: int, head_dim: int) -> int:
        padded = -(-head_dim // 16) * 16
        scales = 2 * 4 * -(-head_dim // KV_GROUP) if self._kv_bits == 8 else 0
        return kv_heads * ((head_dim + padded) * self._kv_bits // 8 + scales)

    def product_bytes(self, rows: int, columns: int) -> int:  # noqa: ARG002
        return 0

    def delta_state(
        self, channels: int, kernel: int, value_heads: int, key_dim: int, value_dim: int
    ) -> _native.DeltaState:
        return _native.DeltaState(channels, kernel, value_heads, key_dim, value_dim)

    def empty(self, rows: int, columns: int) -> Floats:
        return np.empty((rows, columns), np.float32)

    def concatenate(self, parts: Sequence[Floats]) -> Floats:
        return np.concatenate(parts)

    def embed(self, table: _native.Matrix, token_ids: NDArray[np.int32]) -> Floats:
        out = np.empty((len(token_ids), table.in_features), np.float32)
        self._cpu.embed(table, token_ids, out)
        return out

    def rms_norm(self, x: Floats, weight: Floats, eps: float) -> Floats:
        out = np.empty(x.shape, np.float32)
        width = x.shape[-1]
        self._cpu.rms_norm(x.reshape(-1, width), weight, eps, out.reshape(-1, width))
        return out

    def linears(self, x: Floats, matrices: Sequence[_native.Matrix]) -> list[Floats]:
        outs = [np.empty((len(x), m.out_features), np.float32) for m in matrices]
        self._cpu.linears(x, matrices, outs)
        return outs

    def gated_mlp(self, x: Floats, gate: _native.Matrix, up: _native.Matrix, down: _native.Matrix) -> Floats:
        out = np.empty((len(x), down.out_features), np.float32)
        self._cpu.gated_mlp(x, gate, up, down, out)
        return out

    def norm_rope(self, x: Floats, weight: Floats, eps: float, cos: Floats, sin: Floats) -> Floats:
        out = np.empty(x.shape, np.float32)
        self._cpu.norm_rope(x, weight, eps, cos, sin, out)
        return out

    def attention(self, q: Floats, k: Floats, v: Floats, cache: _native.KvCache, scale: float) -> Floats:
        out = np.empty(q.shape, np.float32)
        self._cpu.attention(q, k, v, cache, scale, out)
        return out

    def sigmoid_gate(self, x: Floats, gate: Floats) -> Floats:
        out = np.empty((len(x), x.shape[1] * x.shape[2]), np.float32)
        self._cpu.sigmoid_gate(x, gate, out)
        return out

    def causal_conv_silu(self, x: Floats, weight: Floats, state: _native.DeltaState) -> Floats:
        out = np.empty(x.shape, np.float32)
        self._cpu.causal_conv_silu(x, weight, state, out)
        return out

    def gated_delta_rule(
        self,
        qkv: Floats,
        a: Floats,
        b: Floats,
        a_log: Floats,
        dt_bias: Floats,
        key_heads: int,
        state: _native.DeltaState,
    ) -> Floats:
        out = np.empty((len(qkv), state.value_heads, state.value_dim), np.float32)
        self._cpu.gated_delta_rule(qkv, a, b, a_log, dt_bias, key_heads, state, out)
        return out

    def gated_rms_norm(self, x: Floats, z: Floats, weight: Floats, eps: float) -> Floats:
        out = np.empty((len(x), x.shape[1] * x.shape[2]), np.float32)
        self._cpu.gated_rms_norm(x, z, weight, eps, out)
        return out

    def route(
        self, x: Floats, router: _native.Matrix, top_k: int, renormalise: bool
    ) -> tuple[NDArray[np.int32], Floats]:
        ids = np.empty((len(x), top_k), np.int32)
        weights = np.empty((len(x), top_k), np.float32)
        self._cpu.route(x, router, top_k, renormalise, ids, weights)
        return ids, weights

    def experts(
        self, x: Floats, arena: NDArray[np.uint8], layout: _native.Layout, work: ExpertWork, out: Floats
    ) -> None:
        self._cpu.experts(x, arena, layout, work.slots, work.starts, work.rows, work.outputs, out)

    def combine(self, outputs: Floats, weights: Floats, shared: Floats | None, shared_gate: Floats | None) -> Floats:
        out = np.empty((len(outputs), outputs.shape[2]), np.float32)
        self._cpu.combine(outputs, weights, shared, shared_gate, out)
        return out
