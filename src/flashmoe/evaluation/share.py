"""So many of so many, with what chance leaves open. Knows two numbers."""

from dataclasses import dataclass
from math import sqrt
from typing import Any

_Z = 1.959963984540054
"""Standard normal quantile of a two-sided 95 % interval."""


@dataclass(frozen=True)
class Share:
    """`count` of `of`."""

    count: int
    of: int

    @property
    def value(self) -> float:
        """0 to 1; 0 of nothing is 0."""
        return self.count / self.of if self.of else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of E. B. Wilson (1927), which stays inside 0 and 1 and is honest near them."""
        if not self.of:
            return 0.0, 1.0
        n, p, z2 = self.of, self.value, _Z * _Z
        centre = (p + z2 / (2 * n)) / (1 + z2 / n)
        half = _Z / (1 + z2 / n) * sqrt(p * (1 - p) / n + z2 / (4 * n * n))
        low, high = max(0.0, centre - half), min(1.0, centre + half)
        return 0.0 if self.count == 0 else low, 1.0 if self.count == n else high

    def as_json(self) -> dict[str, Any]:
        low, high = self.interval
        return {"count": self.count, "of": self.of, "share": round(self.value, 4), "interval": [_r(low), _r(high)]}

    def __str__(self) -> str:
        return f"{self.count} of {self.of}"


def _r(x: float) -> float:
    return round(x, 4)
