"""The operations a model is made of, and what a backend promises of them.

A backend is a folder beside this file with one class that has these methods; a model is written in them alone.
Invariant of every backend: a row of a result depends on that row's inputs only, with a reduction order fixed by shape,
so that it does not matter how the tokens were cut into chunks or how many threads ran. `Array` is the backend's own
array type (NumPy for `reference` and `cpu`), float32 unless said; T tokens, D hidden size, H heads, d head dimension.
Models slice arrays besides. Views with strides are welcome as inputs as long as their last axis is contiguous; what
is changed in place is contiguous. A layer is a handful of operations, not a dozen: each call costs several microseconds
of Python once the layer's weights have driven it from the caches.

Knows nothing of files, sequences or policies.
"""

from collections.abc import Sequence
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from flashmoe.ops.blocks import AttentionWeights, DeltaNetWeights
from flashmoe.ops.weights import ExpertWork, Matrix, RecordLayout

Array = Any
Handle = Any
"""A weight, a record layout or a state as the backend wants to hold it; opaque to models."""

KV_BLOCK = 64
"""Tokens of a block of keys and values: what a cache grows by."""
KV_GROUP = 64
"""Dimensions of a key or a value that share a float32 scale where they are int8: scale = max|x| / 127, code = x / scale
rounded half to even, as activations are rounded. The last group of a head has the rest."""


class KeyValueState(Protocol):
    """What an attention layer keeps of a sequence: keys and values of `length` tokens, in blocks that forks share.

    How many bits each has is the backend's matter: chosen when the Ops is made (settings.py, `kv_bits`).
    """

    @property
    def length(self) -> int: ...

    @property
    def row_bytes(self) -> int:
        """Bytes of one token as `read` gives it."""

    @property
    def block_bytes(self) -> int: ...

    @property
    def blocks(self) -> list[int]:
        """What tells this cache's blocks from others while they live: equal for blocks that are shared."""

    def fork(self, length: int) -> Self:
        """The first `length` tokens as a cache of its own: both may grow, and neither notices the other."""

    def read(self, first: int, last: int, rows: NDArray[np.uint8]) -> None:
        """Copy tokens first .. last - 1 into rows [n, row_bytes], in a form that does not depend on the blocks."""

    def append(self, rows: NDArray[np.uint8]) -> None:
        """Append what `read` gave."""


class RecurrentState(Protocol):
    """What a GatedDeltaNet layer keeps of a sequence, float32: it cannot be cut back to fewer tokens."""

    @property
    def nbytes(self) -> int:
        """Bytes of the state as `read` gives it."""

    def fork(self) -> Self:
        """An independent copy."""

    def read(self, values: NDArray[np.float32]) -> None:
        """Copy into values [nbytes / 4] the last kernel - 1 inputs of the convolution, oldest first [kernel - 1, C],
        and the memory S [V, dk, dv], however the backend lays them out."""

    def write(self, values: NDArray[np.float32]) -> None:
        """Become the state that `read` gave."""


class Ops(Protocol):
    """What a backend can do."""

    name: str

    @property
    def device(self) -> str:
        """What computes, in words for people: `cpu avx512vnni, 2 threads`."""

    @property
    def busy_seconds(self) -> float:
        """Wall time the calling thread has spent in native code; what remains of a run is Python or waiting for the
        disk."""

    # Weights and state -----------------------------------------------------------------------------------------------
    def matrix(self, weight: Matrix, *, exact: bool = False) -> Handle:
        """Make a matrix ready for `linears`, `embed` and the like. The bytes stay where they are and must outlive it.

        exact: activations are not rounded to int8 for it (routers, decay projections).
        """

    def vector(self, values: NDArray[np.float32]) -> Array: ...

    def layout(self, layout: RecordLayout) -> Handle: ...

    def kv_cache(self, kv_heads: int, head_dim: int) -> KeyValueState:
        """An empty key/value cache that grows."""

    def kv_bytes(self, kv_heads: int, head_dim: int) -> int:
        """Bytes that one token takes in such a cache, for the memory plan."""

    def product_bytes(self, rows: int, columns: int) -> int:
        """Bytes that a product holds besides such an affine matrix and its rows, for the memory plan."""

    def delta_state(self, channels: int, kernel: int, value_heads: int, key_dim: int, value_dim: int) -> RecurrentState:
        """A GatedDeltaNet state of zeros."""

    def empty(self, rows: int, columns: int) -> Array:
        """Uninitialised float32 [rows, columns], for `experts` to fill."""

    def delta_net_weights(self, weights: DeltaNetWeights) -> Handle:
        """Make a mixer ready for `delta_net`."""

    def attention_weights(self, weights: AttentionWeights) -> Handle:
        """Make a mixer ready for `full_attention`."""

    # Dense parts -----------------------------------------------------------------------------------------------------
    def embed(self, table: Handle, token_ids: NDArray[np.int32]) -> Array:
        """Rows of the table, dequantised: [T, D]."""

    def rms_norm(self, x: Array, weight: Array, eps: float) -> Array:
        """x * rsqrt(mean(x^2) + eps) * weight over the last axis; the weight is the effective one (1 already added)."""

    def linears(self, x: Array, matrices: Sequence[Handle]) -> list[Array]:
        """[x @ W.T for W in matrices]: projections of one input, made together."""

    # Mixers: the residual stream x [T, D] += mixer(rms_norm(x)), in place ---------------------------------------------
    def full_attention(
        self, x: Array, weights: Handle, ends: Sequence[int], caches: Sequence[Handle], cos: Array, sin: Array
    ) -> None:
        """Grouped-query attention; rows ends[i - 1]:ends[i] of the batch go on where caches[i] stands.

        q, k, v are projected; q and k [T, H, d] are normalised over d and their first r dimensions rotated in pairs
        (i, i + r / 2), cos and sin [T, r / 2]. k and v are appended to the cache, softmax(q k / sqrt(d)) v is causal,
        head h reads key/value head h // (H // KV); where there is an output gate, the result is multiplied with its
        sigmoid; then the output projection. Ctrl-C may end it between two tokens of a long context.
        """

    def delta_net(self, x: Array, weights: Handle, ends: Sequence[int], states: Sequence[Handle]) -> None:
        """The gated delta rule; rows ends[i - 1]:ends[i] of the batch go on where states[i] stands.

        qkv, z, b, a are projected. silu of the depthwise causal convolution of qkv gives q, k, v; q and k are
        l2-normalised (eps 1e-6), q scaled by dk ** -0.5; decay = exp(-exp(a_log) * softplus(a + dt_bias)), beta =
        sigmoid(b); S *= decay; S += k (x) ((v - S^T k) * beta); o = S^T q. Value head h reads key head h //
        (V // key_heads). rms_norm(o) * gated_norm * silu(z) over dv goes into the output projection.
        """

    # Mixture of experts ----------------------------------------------------------------------------------------------
    def route(
        self, x: Array, norm: Array, eps: float, router: Handle, top_k: int, renormalise: bool
    ) -> tuple[Array, NDArray[np.int32], Array]:
        """y = rms_norm(x) [T, D], and of softmax(router y) over all experts its top_k by falling weight (the lower id
        first on a tie): ids and weights [T, top_k].

        The ids are on the host: streaming needs them.
        """

    def shared_expert(self, y: Array, gate: Handle, up: Handle, down: Handle, share: Handle) -> tuple[Array, Array]:
        """down(silu(gate y) * up y) [T, D], and share y [T, 1]."""

    def experts(self, x: Array, arena: NDArray[np.uint8], layout: Handle, work: ExpertWork, out: Array) -> None:
        """down(silu(gate x) * up x) of each entry of `work` into its row of out [rows, D]; arena is uint8 [slots,
        slot_bytes]."""

    def combine(self, x: Array, outputs: Array, weights: Array, shared: Array | None, share: Array | None) -> None:
        """x [T, D] += sum over ranks, in rank order, of weights [T, K] * outputs [T * K, D], + sigmoid(share [T, 1]) *
        shared [T, D]."""
