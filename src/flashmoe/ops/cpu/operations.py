"""ops/interface.py over the native class `Cpu`: makes the outputs, calls, and no more.

Activations are rounded to
int8, group by group of 64, before they meet an affine matrix that is not `exact`. Results do not depend on the number
of threads, on the instruction set or on how tokens were cut into calls. The native class checks every shape and raises
ValueError.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flashmoe import _native
from flashmoe.ops.blocks import AttentionWeights, DeltaNetWeights
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

    def delta_net_weights(self, weights: DeltaNetWeights) -> _native.DeltaNet:
        w = weights
        return _native.DeltaNet(
            w.norm, w.qkv, w.z, w.b, w.a, w.conv, w.a_log, w.dt_bias, w.gated_norm, w.output, w.key_heads, w.eps
        )

    def attention_weights(self, weights: AttentionWeights) -> _native.Attention:
        w = weights
        return _native.Attention(
            w.norm, w.q, w.k, w.v, w.q_norm, w.k_norm, w.output, w.heads, w.kv_heads, w.gated, w.eps
        )

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

    def full_attention(
        self,
        x: Floats,
        weights: _native.Attention,
        ends: Sequence[int],
        caches: Sequence[_native.KvCache],
        cos: Floats,
        sin: Floats,
    ) -> None:
        self._cpu.full_attention(x, weights, ends, caches, cos, sin)

    def delta_net(
        self, x: Floats, weights: _native.DeltaNet, ends: Sequence[int], states: Sequence[_native.DeltaState]
    ) -> None:
        self._cpu.delta_net(x, weights, ends, states)

    def route(
        self, x: Floats, norm: Floats, eps: float, router: _native.Matrix, top_k: int, renormalise: bool
    ) -> tuple[Floats, NDArray[np.int32], Floats]:
        tokens = len(x)
        y = np.empty(x.shape, np.float32)
        ids = np.empty((tokens, top_k), np.int32)
        weights = np.empty((tokens, top_k), np.float32)
        self._cpu.route(x, norm, eps, router, top_k, renormalise, y, ids, weights)
        return y, ids, weights

    def shared_expert(
        self, y: Floats, gate: _native.Matrix, up: _native.Matrix, down: _native.Matrix, share: _native.Matrix
    ) -> tuple[Floats, Floats]:
        out, shares = np.empty(y.shape, np.float32), np.empty((len(y), 1), np.float32)
        self._cpu.shared_expert(y, gate, up, down, share, out, shares)
        return out, shares

    def experts(
        self, x: Floats, arena: NDArray[np.uint8], layout: _native.Layout, work: ExpertWork, out: Floats
    ) -> None:
        self._cpu.experts(x, arena, layout, work.slots, work.starts, work.rows, work.outputs, out)

    def combine(self, x: Floats, outputs: Floats, weights: Floats, shared: Floats | None, share: Floats | None) -> None:
        self._cpu.combine(x, outputs, weights, shared, share)
