"""Muon for the matrices, AdamW for the rest, on float32 master copies of bfloat16 weights.

Updates of 1e-3 of a weight vanish in bfloat16, so the masters take the steps and the weights are rounded copies of
them. Muon: momentum orthogonalised by Newton-Schulz (Jordan et al. 2024), scaled by 0.2 sqrt(max(rows, columns)) to
AdamW's size of update (Liu et al. 2025), so both share one learning rate.
"""

from collections import defaultdict
from typing import Any

import torch

MOMENTUM = 0.95
BETAS = (0.9, 0.95)
DECAY = 0.05


def _is_matrix(name: str, weight: torch.Tensor) -> bool:
    """Embeddings, routers, convolutions and single-row projections go to AdamW."""
    aside = ("embed_tokens", "lm_head", "mlp.gate.weight", "conv1d", "in_proj_a", "in_proj_b", "shared_expert_gate")
    return weight.ndim >= 2 and not any(part in name for part in aside)


def orthogonalised(matrices: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """[N, rows, columns], rows <= columns: the nearest semi-orthogonal matrices, roughly, in bfloat16."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


class Optimiser:
    """State: float32 masters, Muon's momentum, Adam's two moments. `lr` is given at each step."""

    def __init__(self, named: list[tuple[str, torch.Tensor]]) -> None:
        self.weights = [weight for _, weight in named]
        self.masters = [weight.detach().float().clone() for weight in self.weights]
        matrices = [index for index, (name, weight) in enumerate(named) if _is_matrix(name, weight)]
        self.matrices = matrices
        self.others = [index for index in range(len(named)) if index not in set(matrices)]
        self.momentum = [torch.zeros_like(self.masters[index]) for index in matrices]
        self.first = [torch.zeros_like(self.masters[index]) for index in self.others]
        self.second = [torch.zeros_like(self.masters[index]) for index in self.others]
        self.steps = 0

    @torch.no_grad()
    def step(self, lr: float, clip: float = 1.0) -> torch.Tensor:
        """One update from the weights' gradients, which are cleared. Returns the gradients' norm before clipping."""
        self.steps += 1
        gradients = [weight.grad.float() for weight in self.weights]  # type: ignore[union-attr]
        norm = torch.stack(torch._foreach_norm(gradients)).norm()
        torch._foreach_mul_(gradients, (clip / (norm + 1e-6)).clamp(max=1.0))
        self._muon([gradients[index] for index in self.matrices], lr)
        self._adam([gradients[index] for index in self.others], lr)
        torch._foreach_copy_(self.weights, self.masters)
        for weight in self.weights:
            weight.grad = None
        return norm

    def _muon(self, gradients: list[torch.Tensor], lr: float) -> None:
        torch._foreach_lerp_(self.momentum, gradients, 1 - MOMENTUM)
        torch._foreach_lerp_(gradients, self.momentum, MOMENTUM)
        groups: dict[tuple[int, int], list[tuple[int, torch.Tensor]]] = defaultdict(list)
        for place, gradient in enumerate(gradients):
            blocks = _blocks(gradient)
            groups[tuple(blocks.shape[1:])].append((place, blocks))  # type: ignore[index]
        masters = [self.masters[index] for index in self.matrices]
        torch._foreach_mul_(masters, 1 - lr * DECAY)
        for (rows, columns), members in groups.items():
            update = orthogonalised(torch.cat([blocks for _, blocks in members]))
            parts = update.split([len(blocks) for _, blocks in members])
            scale = 0.2 * max(rows, columns) ** 0.5
            for (place, _), part in zip(members, parts, strict=True):
                masters[place].add_(_unblocked(part, masters[place]), alpha=-lr * scale)

    def _adam(self, gradients: list[torch.Tensor], lr: float) -> None:
        masters = [self.masters[index] for index in self.others]
        torch._foreach_lerp_(self.first, gradients, 1 - BETAS[0])
        torch._foreach_mul_(self.second, BETAS[1])
        torch._foreach_addcmul_(self.second, gradients, gradients, 1 - BETAS[1])
        root = torch._foreach_sqrt(self.second)
        torch._foreach_div_(root, (1 - BETAS[1] ** self.steps) ** 0.5)
        torch._foreach_add_(root, 1e-8)
        torch._foreach_addcdiv_(masters, self.first, root, -lr / (1 - BETAS[0] ** self.steps))

    def state(self) -> dict[str, Any]:
        return {
            "masters": self.masters,
            "momentum": self.momentum,
            "first": self.first,
            "second": self.second,
            "steps": self.steps,
        }

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """Takes over a saved state and rounds the masters into the weights."""
        for name in ("masters", "momentum", "first", "second"):
            torch._foreach_copy_(getattr(self, name), [saved.to(self.masters[0].device) for saved in state[name]])
        torch._foreach_copy_(self.weights, self.masters)
        self.steps = state["steps"]


def _blocks(gradient: torch.Tensor) -> torch.Tensor:
    """[N, rows, columns] with rows <= columns; an expert's gate and up are two matrices."""
    if gradient.ndim == 2:
        gradient = gradient.unsqueeze(0)
    elif gradient.shape[1] < gradient.shape[2]:
        gradient = gradient.reshape(2 * gradient.shape[0], -1, gradient.shape[2])
    return gradient.mT if gradient.shape[1] > gradient.shape[2] else gradient


def _unblocked(update: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The inverse of _blocks, float32."""
    rows, columns = like.shape[-2:]
    if like.ndim == 3 and rows < columns:
        rows //= 2
    return (update.mT if rows > columns else update).reshape(like.shape).float()
