"""The operations a model is made of, one folder per backend. Knows arrays, not models."""

from flashmoe.errors import FlashMoeError
from flashmoe.ops.interface import Ops


def make_ops(backend: str, threads: int, kv_bits: int = 16) -> Ops:
    """The backend of that name (settings.BACKENDS), whose caches of keys and values have so many bits a number. Each is
    imported only when asked for: `reference` needs no native code."""
    if backend == "reference":
        from flashmoe.ops.reference import ReferenceOps

        return ReferenceOps(kv_bits)
    if backend == "cpu":
        from flashmoe.ops.cpu import CpuOps

        return CpuOps(threads, kv_bits=kv_bits)
    raise FlashMoeError(f"There is no backend {backend!r}; choose 'cpu' or 'reference'.")
