"""The training loop's state and its one step. Knows no command line and no clock: `progress` in [0, 1] is given.

On a GPU the step is captured once as a CUDA graph and replayed: launching its thousands of small kernels one by one
takes longer than running them.
"""

from pathlib import Path
from typing import Any

import torch

from training.model import AUXILIARY, losses
from training.optimiser import Optimiser

WARMUP = 0.015
DECAY_FROM = 0.35
EAGER_STEPS = 3
"""Steps before the capture, so that libraries have made their workspaces."""
_INPUTS = ("ids", "weights", "documents")


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
        self._device = self.optimiser.masters[0].device
        self._inputs: list[torch.Tensor] = []
        self._eager = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._found: dict[str, torch.Tensor] = {}
        # Capture and all that it builds on have to run on one stream that is not the default one.
        self._stream = torch.cuda.Stream() if self._device.type == "cuda" else None

    def step(self, batch: dict[str, torch.Tensor], progress: float) -> dict[str, torch.Tensor | float]:
        """One update. The returned values are tensors on the device: reading them waits for it. All batches must have
        the shapes of the first."""
        rate = learning_rate(self.peak, progress)
        self.steps += 1
        if self._stream is None:
            found = self._run(batch, rate)
        else:
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                found = self._run(batch, rate)
            torch.cuda.current_stream().wait_stream(self._stream)
        return {**found, "lr": rate}

    def _run(self, batch: dict[str, torch.Tensor], rate: float) -> dict[str, torch.Tensor]:
        if not self._inputs:
            self._inputs = [torch.empty_like(batch[name], device=self._device) for name in _INPUTS]
        for name, place in zip(_INPUTS, self._inputs, strict=True):
            place.copy_(batch[name], non_blocking=True)
        self.optimiser.prepare(rate)
        if self._stream is None or self._eager < EAGER_STEPS:
            self._eager += 1
            return self._update()
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            # Other threads pin memory meanwhile, which a global capture would forbid.
            with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
                self._found = self._update()
        self._graph.replay()
        return {name: value.clone() for name, value in self._found.items()}

    def _update(self) -> dict[str, torch.Tensor]:
        found = losses(self.model, *self._inputs)
        (found.language + AUXILIARY * found.balance).backward()
        norm = self.optimiser.step()
        return {
            "loss": found.language.detach(),
            "balance": found.balance.detach(),
            "load": found.load,
            "norm": norm,
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
