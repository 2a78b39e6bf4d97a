"""The gated delta rule in chunks, for training: what transformers computes, with document boundaries and fewer
kernels.

Equal to transformers' torch_chunk_gated_delta_rule where no boundary is set. Three differences in how:
- the unit lower triangular system is inverted once, and its gradient needs two products instead of further solves;
- the state's step over a chunk is one affine map S -> M S + N with M and N formed for all chunks together, so the
  sequential part is one product a chunk;
- at a document's first token the log decay is lowered by RESET, which clears the state.
"""

from typing import Any

import torch

RESET = 60.0
"""exp(-60) = 9e-27 leaves nothing of a state, and sums of a few such terms keep float32 exact enough."""


class _UnitLowerInverse(torch.autograd.Function):
    """(I + strictly lower part)^-1 of [..., n, n]; dL = -T^T dT T^T, strictly lower."""

    @staticmethod
    def forward(ctx: Any, system: torch.Tensor) -> torch.Tensor:
        eye = torch.eye(system.shape[-1], dtype=system.dtype, device=system.device).expand_as(system)
        inverse = torch.linalg.solve_triangular(system, eye, upper=False, unitriangular=True)
        ctx.save_for_backward(inverse)
        return inverse

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        (inverse,) = ctx.saved_tensors
        transposed = inverse.transpose(-1, -2)
        return (transposed @ grads[0] @ transposed).neg_().tril_(-1)


def _normalised(x: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


def chunk_delta_rule(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
    starts: torch.Tensor | None = None,
    chunk: int = 64,
) -> torch.Tensor:
    """query, key [B, T, K heads, d], value [B, T, V heads, d], g (log decay) and beta [B, T, V heads]; T a multiple of
    `chunk`.

    `starts` bool [B, T]: the first tokens of documents. Returns [B, T, V heads, d] in value's dtype; float32 inside.
    """
    batch, length, heads, width = value.shape
    repeat = heads // key.shape[2]
    if starts is not None:
        g = g - RESET * starts.unsqueeze(-1)

    def chunked(x: torch.Tensor) -> torch.Tensor:
        x = x.float().transpose(1, 2)
        return x.reshape(batch, x.shape[1], length // chunk, chunk, *x.shape[3:])

    q, k = _normalised(chunked(query)) * query.shape[-1] ** -0.5, _normalised(chunked(key))
    if repeat > 1:
        q, k = q.repeat_interleave(repeat, 1), k.repeat_interleave(repeat, 1)
    v, b, decay = chunked(value), chunked(beta), chunked(g).cumsum(-1)

    upper = torch.ones(chunk, chunk, dtype=torch.bool, device=v.device).triu(1)
    pairwise = (decay.unsqueeze(-1) - decay.unsqueeze(-2)).masked_fill(upper, float("-inf")).exp()
    k_beta = k * b.unsqueeze(-1)
    k_transposed = k.transpose(-1, -2)
    inverse = _UnitLowerInverse.apply((k_beta @ k_transposed) * pairwise)
    inside = (q @ k_transposed) * pairwise
    grown = decay.exp().unsqueeze(-1)
    u = inverse @ (v * b.unsqueeze(-1))
    w = inverse @ (k_beta * grown)
    k_end = (k * (decay[..., -1:] - decay).exp().unsqueeze(-1)).transpose(-1, -2)
    total = grown[..., -1:, :]
    step = torch.diag_embed(total.squeeze(-1).expand(-1, -1, -1, k.shape[-1])) - k_end @ w
    added = k_end @ u

    states = [torch.zeros(batch * heads, k.shape[-1], width, dtype=v.dtype, device=v.device)]
    steps, adds = step.flatten(0, 1).unbind(1), added.flatten(0, 1).unbind(1)
    for index in range(length // chunk - 1):
        states.append(torch.baddbmm(adds[index], steps[index], states[-1]))
    state = torch.stack(states, 1).unflatten(0, (batch, heads))
    out = (q * grown) @ state + inside @ (u - w @ state)
    return out.reshape(batch, heads, length, width).transpose(1, 2).to(value.dtype)
