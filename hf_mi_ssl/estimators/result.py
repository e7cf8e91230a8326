"""What an estimator says: never a bare number, always its interval, its ceiling, its sample and how it was made."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

Z95 = 1.959964

_NO_SPREAD = "all pairs say the same, so the interval has no width: of pairs that differ nothing is known"
_NO_BOUND = {
    "plugin": "not a bound: the mutual information may be smaller",
    "closed_form": "not a bound: exact for Gaussian embeddings, for others above or below, for clusters far above",
}
ROUNDING = 1e-12  # nats: a standard error below it is that of sums, not of pairs
_SHARES = 0.05  # nats by which pairs of few kinds may be above the truth before it is said


@dataclass(frozen=True)
class MIEstimate:
    """A value in nats, and what is needed to believe it.

    Args:
        value: the estimate, cut to log n, and from below to 0 where the critic's scale is fitted; so are low and high
            (see `cut`). n is here what is measured at once: a half, where halves are cross-fitted.
        kind: what it is in the population; only a `lower_bound` may be quoted as "at least".
        standard_error: of `value` before any cut, from the influence of each pair.
        low, high: the 95 % interval of what the estimator estimates (for a bound: of the bound, not of the MI).
        ceiling: the most this estimator can say: min(log n, what its critic reaches in the population of perfectly
            aligned views whose embeddings are uniform on the sphere). Few regular points may be above that.
        n: pairs it was computed on. Of halves that are cross-fitted, log n above is that of a half.
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

    @classmethod
    def of(cls, values: Mapping[str, float], *, warnings: Mapping[str, bool], **facts: Any) -> Self:
        """An estimate of `values`, as `around` gives them, with the warnings that hold: those that all estimators
        share, and an estimator's own."""
        value, kind, ceiling, n = values["value"], facts["kind"], facts["ceiling"], facts["n"]
        # Of images of few kinds in equal shares, e^I of them, a few re-paired are of one kind more rarely than in the
        # population, and what is a bound there is above the truth here, by about e^I/n: the interval does not see it
        above = math.exp(min(value, 50.0)) / n
        shared = {
            "above 90 % of its ceiling: the mutual information may be larger": value > 0.9 * ceiling,
            _NO_BOUND.get(kind, ""): kind in _NO_BOUND,
            f"high for {n} pairs: of images of few kinds in equal shares it may be {above:.2g} nats above the truth": (
                kind != "closed_form" and above > _SHARES
            ),
            _NO_SPREAD: values["standard_error"] < ROUNDING,
        }
        holding = (text for text, holds in (shared | dict(warnings)).items() if holds)
        return cls(**values, **facts, warnings=tuple(holding))

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
