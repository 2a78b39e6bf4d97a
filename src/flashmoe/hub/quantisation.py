"""What a checkpoint says about its quantisation, checked against what its tensors show.

Only MLX affine with groups of 64 and 2, 4 or 8 bits is read; everything else is named in a sentence rather than
misread. Knows config.json's quantisation keys and tensor shapes.
"""

from dataclasses import dataclass
from typing import Any

from flashmoe.errors import FormatError
from flashmoe.hub.names import canonical
from flashmoe.ops.weights import GROUP

_ADVICE = "Use the bf16 checkpoint, or an MLX affine one with group size 64 and 2, 4 or 8 bits."


@dataclass(frozen=True)
class Quantisation:
    """`default` and `exceptions` (by canonical name): bits, or None where a tensor is not quantised."""

    default: int | None
    exceptions: dict[str, int | None]

    def bits(self, name: str) -> int | None:
        """The bits config.json promises for the matrix `name`; None if it says nothing."""
        return self.exceptions.get(name, self.default)


def read_quantisation(config: dict[str, Any], where: str) -> Quantisation:
    """From config.json. Raises FormatError for a quantisation that is not MLX affine."""
    inner = config.get("text_config")
    for scope in (config, inner if isinstance(inner, dict) else {}):
        method = scope.get("quantization_config")
        if isinstance(method, dict) and "quant_method" in method:
            raise FormatError(
                f"{where}: quantised with {method['quant_method']!r:.40}, which cannot be packed. {_ADVICE}"
            )
    value = config.get("quantization")
    if value is None:
        return Quantisation(None, {})
    if not isinstance(value, dict):
        raise FormatError(f"{where}: 'quantization' must be an object.")
    exceptions = {
        canonical(name): _bits(entry, f"{where}, quantization of {name!r:.80}") if isinstance(entry, dict) else None
        for name, entry in value.items()
        if isinstance(entry, dict) or entry is False
    }
    return Quantisation(_bits(value, f"{where}, quantization"), exceptions)


def _bits(entry: dict[str, Any], where: str) -> int:
    mode, group, bits = entry.get("mode", "affine"), entry.get("group_size"), entry.get("bits")
    if mode != "affine":
        raise FormatError(f"{where}: the mode {mode!r:.40} cannot be packed. {_ADVICE}")
    if group != GROUP:
        raise FormatError(f"{where}: group size {group!r:.40} cannot be packed. {_ADVICE}")
    if bits not in (2, 4, 8):
        raise FormatError(f"{where}: {bits!r:.40} bits cannot be packed. {_ADVICE}")
    return int(bits)


def infer_bits(name: str, packed: tuple[int, ...], scales: tuple[int, ...], promised: int | None, where: str) -> int:
    """Bits from the shapes of codes [..., in * bits / 32] and scales [..., in / 64], equal to what was promised."""
    if packed[:-1] != scales[:-1] or not scales or 0 in scales:
        raise FormatError(f"{where}: {name} has codes {list(packed)} and scales {list(scales)}, which do not fit.")
    bits, rest = divmod(packed[-1] * 32, scales[-1] * GROUP)
    if rest or bits not in (2, 4, 8):
        raise FormatError(
            f"{where}: {name} is quantised with {packed[-1] * 32 / (scales[-1] * GROUP):g} bits a weight "
            f"in groups of 64, or in other groups; that cannot be packed. {_ADVICE}"
        )
    if promised is not None and promised != bits:
        raise FormatError(f"{where}: {name} has {bits} bits, but config.json promises {promised}.")
    return bits
