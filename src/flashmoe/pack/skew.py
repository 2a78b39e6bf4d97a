"""Router row norms that make some experts popular, as routing in trained models is skewed.

With x isotropic, the logit of expert e is normal with a deviation of the norm of its row, independently of the others.
The top k are then those above a threshold t, so expert e is picked with probability Q(t / norm_e): no simulation is
needed to find the norms that give a wanted Gini coefficient. Knows numbers alone.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def gini(picks: NDArray[np.float64]) -> float:
    """Gini coefficient of how often each expert is picked: 0 all alike, towards 1 one takes all."""
    ordered = np.sort(np.asarray(picks, np.float64))
    ranks = np.arange(1, len(ordered) + 1)
    return float(2 * (ranks * ordered).sum() / (len(ordered) * ordered.sum()) - (len(ordered) + 1) / len(ordered))


def skewed_norms(rng: np.random.Generator, experts: int, top_k: int, wanted: float) -> Floats:
    """Log-normal row norms [experts], mean square 1, under which the picks have the wanted Gini coefficient."""
    spread = rng.standard_normal(experts)
    low, high = 0.0, 4.0
    for _ in range(40):
        middle = (low + high) / 2
        if gini(_pick_probabilities(_norms(spread, middle), top_k)) < wanted:
            low = middle
        else:
            high = middle
    return _norms(spread, (low + high) / 2)


def _norms(spread: Floats, width: float) -> Floats:
    norms = np.exp(width * spread)
    return np.asarray(norms / np.sqrt((norms**2).mean()))


def _pick_probabilities(norms: Floats, top_k: int) -> Floats:
    """Q(t / norm), with the t at which they sum to top_k."""
    low, high = 0.0, 12.0 * float(norms.max())
    for _ in range(50):
        t = (low + high) / 2
        if _upper_tail(t / norms).sum() > top_k:
            low = t
        else:
            high = t
    return _upper_tail(high / norms)


def _upper_tail(x: Floats) -> Floats:
    """P(Z > x) of the standard normal for x >= 0, within 1e-7 (Abramowitz and Stegun, 26.2.17)."""
    t = 1 / (1 + 0.2316419 * x)
    polynomial = t * (0.319381530 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))))
    return np.asarray(np.exp(-x * x / 2) / np.sqrt(2 * np.pi) * polynomial)
