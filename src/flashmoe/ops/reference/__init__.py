"""The readable truth: every operation in plain NumPy, float32, no tricks."""

from flashmoe.ops.reference.operations import ReferenceOps

__all__ = ["ReferenceOps"]
