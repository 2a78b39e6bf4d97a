"""The operations a model is made of, one folder per backend. Knows arrays, not models."""
