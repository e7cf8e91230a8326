"""What an estimator says: never a bare number, always its interval, its ceiling, its sample and how it was made."""

import math
from dataclasses import dataclass
from typing import Literal

Z95 = 1.959964

NO_SPREAD = "all pairs say the same, so the interval has no width: of pairs that differ nothing is known"


@dataclass(frozen=True)
class MIEstimate:
    """A value in nats, and what is needed to believe it.

    Args:
        value: the estimate, cut to log n, and from below to 0 where the critic's scale is fitted; so are low and high
            (see `cut`). n is here what is measured at once: a half, where halves are cross-fitted.
        kind: what it is in the population; only a `lower_bound` may be quoted as "at least".
        standard_error: of `value` before any cut, from the influence of each pair.
        low, high: the 95 % interval of what the estimator estimates (for a bound: of the bound, not of the MI).
        ceiling: the most this estimator can say of n such pairs: min(log n, what its critic reaches on perfectly
            aligned views whose embeddings are uniform on the sphere).
        n: pairs it was computed on.
        split: the data the pairs came from.
        protocol: one sentence that names the critic, its temperature or scale, and the halves.
        warnings: reasons to read the value with care.
    """

    value: float
    kind: Literal["lower_bound", "plugin", "closed_form"]
    standard_error: float
    low: float
    high: float
    ceiling: float
    n: int
    split: str
    protocol: str
    warnings: tuple[str, ...] = ()

    @property
    def saturated(self) -> bool:
        """Whether the value is above 90 % of the ceiling: the MI may be larger than this estimator can say."""
        return self.value > 0.9 * self.ceiling


def around(value: float, error: float, least: float = -math.inf, most: float = math.inf) -> dict[str, float]:
    """value, standard_error, low and high of an estimate with that standard error, cut to [least, most]."""
    low, inside, high = cut(value - Z95 * error, value, value + Z95 * error, least, most)
    return {"value": inside, "standard_error": error, "low": low, "high": high}


def cut(low: float, value: float, high: float, least: float, most: float) -> tuple[float, float, float]:
    """The three in [least, most], where a value that was outside keeps its interval's width on the inner side."""
    inside = min(max(value, least), most)
    low, high = (min(max(end + inside - value, least), most) for end in (low, high))
    return min(low, inside), inside, max(high, inside)  # whose last digits the shift may have changed
