"""The steps of the mixers, as ops/interface.py says them, each a function of its own."""

import numpy as np

from flashmoe.ops.reference.formulas import Floats, l2_normalise, normalise, sigmoid, silu, softmax, softplus
from flashmoe.ops.reference.state import DeltaState, KeyValueCache


def norm_rope(x: Floats, weight: Floats, eps: float, cos: Floats, sin: Floats) -> Floats:
    """rms_norm over d of x [T, H, d], then rotate pairs (i, i + r / 2) of r dimensions; cos, sin [T, r / 2]."""
    y = normalise(x, eps) * weight
    half = cos.shape[1]
    first, second = y[..., :half], y[..., half : 2 * half]
    c, s = cos[:, None, :], sin[:, None, :]
    return np.concatenate([first * c - second * s, second * c + first * s, y[..., 2 * half :]], axis=-1)


def attention(q: Floats, k: Floats, v: Floats, cache: KeyValueCache, scale: float) -> Floats:
    """Append k, v [T, KV, d] to the cache and attend causally with q [T, H, d]: [T, H, d]."""
    past = cache.length
    cache.extend(k, v)
    tokens, heads, d = q.shape
    kv_heads = k.shape[1]
    out = np.empty_like(q)
    for t in range(tokens):
        keys, values = cache.keys[: past + t + 1], cache.values[: past + t + 1]
        query = q[t].reshape(kv_heads, heads // kv_heads, d)
        weights = softmax(np.einsum("grd,ngd->grn", query, keys) * np.float32(scale))
        out[t] = np.einsum("grn,ngd->grd", weights, values).reshape(heads, d)
    return out


def sigmoid_gate(x: Floats, gate: Floats) -> Floats:
    """x * sigmoid(gate), both [T, H, d], as [T, H * d]."""
    return (x * sigmoid(gate)).reshape(len(x), -1)


def causal_conv_silu(x: Floats, weight: Floats, state: DeltaState) -> Floats:
    """silu of the depthwise causal convolution of x [T, C] with weight [C, kernel], going on from the state."""
    kernel = weight.shape[1]
    inputs: Floats = np.concatenate([state.conv, x])
    state.conv = inputs[len(inputs) - (kernel - 1) :]
    total: Floats = inputs[: len(x)] * weight[:, 0]
    for j in range(1, kernel):
        total += inputs[j : j + len(x)] * weight[:, j]
    return silu(total)


def gated_delta_rule(
    qkv: Floats, a: Floats, b: Floats, a_log: Floats, dt_bias: Floats, key_heads: int, state: DeltaState
) -> Floats:
    """The recurrence over T tokens: qkv [T, 2 * key_heads * dk + V * dv], a and b [T, V] -> o [T, V, dv]."""
    value_heads, dk, dv = state.recurrent.shape
    tokens, width = len(qkv), key_heads * dk
    repeats = value_heads // key_heads
    q = l2_normalise(qkv[:, :width].reshape(tokens, key_heads, dk)) * np.float32(dk**-0.5)
    k = l2_normalise(qkv[:, width : 2 * width].reshape(tokens, key_heads, dk))
    q, k = q.repeat(repeats, axis=1), k.repeat(repeats, axis=1)
    v = qkv[:, 2 * width :].reshape(tokens, value_heads, dv)
    decay = np.exp(-np.exp(a_log) * softplus(a + dt_bias))
    beta = sigmoid(b)
    out = np.empty((tokens, value_heads, dv), np.float32)
    for t in range(tokens):
        state.recurrent *= decay[t][:, None, None]
        delta = (v[t] - np.einsum("hkv,hk->hv", state.recurrent, k[t])) * beta[t][:, None]
        state.recurrent += k[t][:, :, None] * delta[:, None, :]
        out[t] = np.einsum("hkv,hk->hv", state.recurrent, q[t])
    return out


def gated_rms_norm(x: Floats, z: Floats, weight: Floats, eps: float) -> Floats:
    """rms_norm(x) * weight * silu(z) over dv, x [T, V, dv] and z [T, V * dv], as [T, V * dv]."""
    return (normalise(x, eps) * weight * silu(z.reshape(x.shape))).reshape(len(x), -1)
