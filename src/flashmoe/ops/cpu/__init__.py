"""The native CPU backend: int8 activations against packed weights, on a pool of threads."""
