"""How the demo model is made: synthetic data from a seed, a tokenizer, training on one GPU, evaluation, export.

Not part of the installed package. Only `model`, `optimiser`, `generate`, `evaluate`, `train` and `export` import torch.
"""
