"""Where a model comes from: readers of checkpoints as people publish them (Hugging Face safetensors, MLX affine).

A reader gives tensors by canonical name, row by row; it knows formats, not architectures."""
