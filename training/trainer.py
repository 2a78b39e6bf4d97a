"""The training loop's state and its one step. Knows no command line and no clock: `progress` in [0, 1] is given."""

from pathlib import Path
from typing import Any

import torch

from training.model import AUXILIARY, losses
from training.optimiser import Optimiser

WARMUP = 0.015
DECAY_FROM = 0.35


def learning_rate(peak: float, progress: float) -> float:
    """Warm-up, stable, then linear to zero from DECAY_FROM on."""
    if progress < WARMUP:
        return peak * (progress + 1e-3) / (WARMUP + 1e-3)
    return peak * min(1.0, max(0.0, (1 - progress) / (1 - DECAY_FROM)))


class Trainer:
    """A model and its optimiser.

    `steps` counts updates and is the index of the next batch; `spent`: seconds of training so far.
    """

    def __init__(self, model: Any, peak: float) -> None:
        self.model = model
        self.peak = peak
        self.optimiser = Optimiser(list(model.named_parameters()))
        self.steps = 0
        self.spent = 0.0

    def step(self, batch: dict[str, torch.Tensor], progress: float) -> dict[str, torch.Tensor | float]:
        """One update. The returned values are tensors on the device: reading them waits for it."""
        device = self.optimiser.masters[0].device
        moved = [batch[name].to(device, non_blocking=True) for name in ("ids", "weights", "documents")]
        found = losses(self.model, *moved)
        (found.language + AUXILIARY * found.balance).backward()
        rate = learning_rate(self.peak, progress)
        norm = self.optimiser.step(rate)
        self.steps += 1
        return {
            "loss": found.language.detach(),
            "balance": found.balance.detach(),
            "load": found.load,
            "norm": norm,
            "lr": rate,
        }

    def save(self, directory: Path) -> None:
        """Everything a resumed run needs, replacing what was there only when complete."""
        directory.mkdir(parents=True, exist_ok=True)
        state = {"optimiser": self.optimiser.state(), "steps": self.steps, "spent": self.spent}
        torch.save(state, directory / "state.partial")
        (directory / "state.partial").replace(directory / "state.pt")

    def load(self, directory: Path) -> None:
        state = torch.load(directory / "state.pt", map_location="cpu", weights_only=True)
        self.optimiser.restore(state["optimiser"])
        self.steps = state["steps"]
        self.spent = state["spent"]
