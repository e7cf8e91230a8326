"""What fixed-critic estimators share: fitting on some pairs, measuring others, cross-fitting, the report."""

import math
from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from torch import Tensor

from .. import counter
from ..errors import UserError
from .result import MIEstimate
from .streamed import Cosines, Kernel, Law

_Z95 = 1.959964


class FixedCritic:
    """MI, in nats, from the cosines of pairs: `fit` on some pairs, `estimate` on others. No network is trained.

    Subclasses say what is fitted, the sums they need, the statistic with the pairs' influences on it, and what perfect
    embeddings reach. The interval takes the critic as fitted.
    """

    kind: ClassVar[Literal["lower_bound", "plugin"]] = "lower_bound"
    fits: ClassVar[bool] = False  # whether `fit` sets constants, which must then be judged on other pairs
    floor: ClassVar[float] = -math.inf  # a calibrated critic may always say nothing: 0

    def fit(self, z_a: Tensor, z_b: Tensor) -> Self:
        """Set the critic's free constants on pairs (N, D), (N, D). Raises UserError for unusable pairs."""
        pairs = Cosines(z_a, z_b)
        if self.fits:
            self.fit_law(pairs.positives, pairs.law())
        return self

    def estimate(self, z_a: Tensor, z_b: Tensor, split: str = "held-out") -> MIEstimate:
        """Measure pairs (N, D), (N, D), which `fit` must not have seen. Raises UserError for unusable pairs."""
        pairs, kernel = Cosines(z_a, z_b), self.kernel()
        part = self.measure(pairs.positives, pairs.sums([kernel]).get(kernel))
        return self.report([part], self.describe() + " fitted on other pairs" * self.fits, z_a.shape, split)

    def fit_law(self, positives: Tensor, law: Law) -> None:
        """Set the critic's free constants from the positive cosines (N,) and the law of the negative ones."""

    def kernel(self) -> Kernel:
        """The sums over the re-pairings that the statistic is made of."""
        raise NotImplementedError

    def influence(self, positives: Tensor, sums) -> tuple[float, Tensor]:
        """The statistic of the positive cosines (N,) and the kernel's sums, and the influence of each pair, (N,)."""
        raise NotImplementedError

    def reach(self, n: int, dimension: int) -> float:
        """The most, in nats, that the critic says of n perfectly aligned pairs, uniform on the sphere of R^D."""
        raise NotImplementedError

    def describe(self) -> str:
        """The critic and its constants, in words."""
        raise NotImplementedError

    def to_nats(self, statistic: float) -> float:
        """The statistic as a value of MI; a rising function."""
        return statistic

    def measure(self, positives: Tensor, sums) -> tuple[float, float]:
        """The statistic and its standard error, from the influence of each pair."""
        value, influence = self.influence(positives, sums)
        return value, influence.std().item() / math.sqrt(len(positives))

    def report(
        self, parts: list[tuple[float, float]], protocol: str, shape: tuple[int, int], split: str
    ) -> MIEstimate:
        """The mean of independent parts (statistic, standard error), in nats, with its interval and ceiling."""
        n, dimension = shape
        statistic = sum(value for value, _ in parts) / len(parts)
        error = math.hypot(*(error for _, error in parts)) / len(parts)
        half = _Z95 * error
        low, value, high = (self.to_nats(x) for x in (statistic - half, statistic, statistic + half))
        most = math.log(n)  # no sample of n certifies more with confidence (arXiv 1811.04251)
        ceiling = min(most, self.reach(n, dimension))
        warnings = {
            "above 90 % of its ceiling: the mutual information may be larger": value > 0.9 * ceiling,
            "cut to log n: use more pairs": value > most,
            "negative, which says nothing: the temperature does not suit these embeddings": high < 0,
            "not a bound: the mutual information may be smaller": self.kind == "plugin",
        }
        return MIEstimate(
            value=min(max(value, self.floor), most),
            kind=self.kind,
            standard_error=(high - low) / (2 * _Z95),
            low=min(max(low, self.floor), most),
            high=min(max(high, self.floor), most),
            ceiling=ceiling,
            n=n,
            split=split,
            protocol=protocol,
            warnings=tuple(text for text, holds in warnings.items() if holds),
        )


def cross_fit_all(
    estimators: Mapping[str, FixedCritic], z_a: Tensor, z_b: Tensor, split: str = "held-out"
) -> dict[str, MIEstimate]:
    """`cross_fit` of several estimators, by name, which share the passes over the re-pairings."""
    pairs = Cosines(z_a, z_b)
    n = len(pairs)
    fitted = [name for name, estimator in estimators.items() if estimator.fits]
    if fitted and n < 4:
        raise UserError(f"cross-fitting halves the pairs and needs at least 4, not {n}")
    parts = {name: [] for name in estimators}
    critics = {name: [] for name in estimators}

    def measure(names: list[str], on: Cosines) -> None:
        kernels = {name: estimators[name].kernel() for name in names}
        sums = on.sums(kernels.values())
        for name, kernel in kernels.items():
            parts[name].append(estimators[name].measure(on.positives, sums.get(kernel)))
            critics[name].append(estimators[name].describe())

    measure([name for name in estimators if name not in fitted], pairs)
    if fitted:
        order = counter.permutation(n, "estimators/halves").to(z_a.device)
        halves = [pairs[half] for half in (order[: n // 2], order[n // 2 :])]
        laws = [half.law() for half in halves]
        for one, other in ((0, 1), (1, 0)):
            for name in fitted:
                estimators[name].fit_law(halves[one].positives, laws[one])
            measure(fitted, halves[other])
    suffix = ", each fitted on one half of the pairs and measured on the other, averaged"
    return {
        name: estimator.report(
            parts[name], " / ".join(critics[name]) + suffix * estimator.fits, (n, z_a.shape[1]), split
        )
        for name, estimator in estimators.items()
    }


def cross_fit(estimator: FixedCritic, z_a: Tensor, z_b: Tensor, split: str = "held-out") -> MIEstimate:
    """Fit on one half of the pairs (N, D), (N, D), measure on the other, swap, and average; in nats.

    The halves are a fixed permutation of the row numbers. Estimators that fit nothing measure all pairs at once.
    Raises UserError for unusable pairs.
    """
    return cross_fit_all({"": estimator}, z_a, z_b, split)[""]
