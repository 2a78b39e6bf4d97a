"""How many bits each tensor gets.

Invariant: a matrix that the source holds in the asked precision is taken over bit for bit. Knows kinds of tensors, not
models.
"""

from dataclasses import dataclass

from flashmoe.errors import FlashMoeError
from flashmoe.hub.matrix import SourceMatrix
from flashmoe.models.architecture import Kind
from flashmoe.ops.weights import GROUP

DEFAULT_BITS = 4
SENSITIVE_BITS = 8
"""Routers at 4 bits cost quality; at 8 they cost 0.05 % of the size."""
DENSE_BITS = {"BF16": 16, "F16": 32, "F32": 32}
"""What an unquantised tensor takes: float16 has no exact bfloat16, so it is widened."""


@dataclass(frozen=True)
class Recipe:
    """Bits of experts (2, 4, 8) and trunk matrices (4, 8, or 16: as in the source); None: the source's own, else 4."""

    expert_bits: int | None = None
    trunk_bits: int | None = None

    def __post_init__(self) -> None:
        if self.expert_bits not in (None, 2, 4, 8):
            raise FlashMoeError(f"Experts can have 2, 4 or 8 bits, not {self.expert_bits}.")
        if self.trunk_bits not in (None, 4, 8, 16):
            raise FlashMoeError(f"The trunk can have 4, 8 or 16 bits, not {self.trunk_bits}.")

    def for_expert(self, source: SourceMatrix) -> int:
        """Bits of an expert's matrix: 2, 4 or 8. Raises FlashMoeError where it cannot be quantised."""
        if source.shape[1] % GROUP:
            raise FlashMoeError(
                f"{source.name} has {source.shape[1]} input features; experts need a multiple of {GROUP} to be packed."
            )
        return self.expert_bits or source.bits or DEFAULT_BITS

    def for_trunk(self, kind: Kind, source: SourceMatrix, source_quantised: bool) -> int:
        """Bits of a trunk matrix: 2, 4 or 8, or 16 or 32 where it stays bfloat16 or float32.

        source_quantised: other matrices of the checkpoint are quantised, so whoever left this one out meant it.
        """
        if source.bits is not None:
            if self.trunk_bits == 16 and kind is not Kind.SENSITIVE:
                raise FlashMoeError(
                    f"{source.name} has {source.bits} bits in the source, and 16 would not bring back what they lost. "
                    "Leave --trunk-bits out."
                )
            return source.bits if kind is Kind.SENSITIVE else self.trunk_bits or source.bits
        dense = DENSE_BITS[source.dtype]
        if source.shape[1] % GROUP or self.trunk_bits == 16 or (source_quantised and self.trunk_bits is None):
            return dense
        return SENSITIVE_BITS if kind is Kind.SENSITIVE else self.trunk_bits or DEFAULT_BITS
