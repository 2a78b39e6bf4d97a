"""The operations on this machine's processor, by the native kernels (csrc/backend)."""

from flashmoe.ops.cpu.operations import CpuOps

__all__ = ["CpuOps"]
