"""The readable truth: every operation in plain NumPy, float32, no tricks."""
