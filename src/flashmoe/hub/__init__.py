"""Where a model comes from: readers of checkpoints as people publish them (Hugging Face safetensors, MLX affine).

A reader gives tensors by canonical name, row by row; it knows formats, not architectures."""

from flashmoe.hub.checkpoint import Checkpoint, open_checkpoint

__all__ = ["Checkpoint", "open_checkpoint"]
