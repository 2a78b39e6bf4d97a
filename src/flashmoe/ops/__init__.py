"""The operations a model is made of, one folder per backend. Knows arrays, not models."""

from flashmoe.errors import FlashMoeError
from flashmoe.ops.interface import Ops


def make_ops(backend: str, threads: int) -> Ops:
    """The backend of that name (settings.BACKENDS). Each is imported only when asked for: `reference` needs no native
    code."""
    if backend == "reference":
        from flashmoe.ops.reference import ReferenceOps

        return ReferenceOps()
    if backend == "cpu":
        from flashmoe.ops.cpu import CpuOps

        return CpuOps(threads)
    raise FlashMoeError(f"There is no backend {backend!r}; choose 'cpu' or 'reference'.")
