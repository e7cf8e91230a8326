"""What fixed-critic estimators share: fitting on some pairs, measuring others, cross-fitting, the report."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from torch import Tensor

from .. import counter
from ..errors import UserError
from .result import ROUNDING, Z95, MIEstimate, cut
from .streamed import Cosines, Kernel, Law


class FixedCritic(ABC):
    """MI, in nats, from the cosines of pairs: `fit` on some pairs, `estimate` on others. No network is trained.

    Subclasses say what is fitted, the sums they need, the statistic with the pairs' influences on it, and what perfect
    embeddings reach. The interval takes the critic as fitted.
    """

    kind: ClassVar[Literal["lower_bound", "plugin"]] = "lower_bound"
    fits: ClassVar[bool] = False  # whether `fit` sets constants, which must then be judged on other pairs
    floor: ClassVar[float] = -math.inf  # a calibrated critic may always say nothing: 0

    def fit(self, z_a: Tensor, z_b: Tensor) -> Self:
        """Set the critic's free constants on pairs (N, D), (N, D). Raises UserError for unusable pairs."""
        fit_all([self], Cosines(z_a, z_b))
        return self

    def estimate(self, z_a: Tensor, z_b: Tensor, split: str = "held-out") -> MIEstimate:
        """Measure pairs (N, D), (N, D), which `fit` must not have seen. Raises UserError for unusable pairs."""
        part = measure_all([self], Cosines(z_a, z_b))
        return self.report(part, self.describe() + " fitted on other pairs" * self.fits, len(z_a), z_a.shape, split)

    def fit_law(self, positives: Tensor, law: Law) -> None:  # noqa: B027 - most critics have none to set
        """Set the critic's free constants from the positive cosines (N,) and the law of the negative ones."""

    @abstractmethod
    def kernel(self) -> Kernel:
        """The sums over the re-pairings that the statistic is made of."""

    @abstractmethod
    def influence(self, positives: Tensor, sums) -> tuple[float, Tensor]:
        """The statistic of the positive cosines (N,) and the kernel's sums, and the influence of each pair, (N,)."""

    @abstractmethod
    def reach(self, n: int, dimension: int) -> float:
        """The most, in nats, that the critic says of n perfectly aligned pairs, uniform on the sphere of R^D."""

    @abstractmethod
    def describe(self) -> str:
        """The critic and its constants, in words."""

    def to_nats(self, statistic: float) -> float:
        """The statistic as a value of MI; a rising function."""
        return statistic

    def measure(self, positives: Tensor, sums) -> tuple[float, float]:
        """The statistic and its standard error, from the influence of each pair."""
        value, influence = self.influence(positives, sums)
        return value, influence.std().item() / math.sqrt(len(positives))

    def report(
        self, parts: list[tuple[float, float]], protocol: str, size: int, shape: tuple[int, int], split: str
    ) -> MIEstimate:
        """The mean of independent parts (statistic, standard error), of `size` pairs each, in nats, with its interval
        and ceiling."""
        n, dimension = shape
        statistic = sum(value for value, _ in parts) / len(parts)
        error = math.hypot(*(error for _, error in parts)) / len(parts)
        half = Z95 * error
        low, value, high = (self.to_nats(x) for x in (statistic - half, statistic, statistic + half))
        most = math.log(size)  # no sample of that size certifies more with confidence (arXiv 1811.04251)
        ceiling = min(most, self.reach(n, dimension))
        blamed = high < -ROUNDING and self.floor < 0  # a fitted scale may always say nothing
        warnings = {
            f"cut to log {size}, the pairs that are measured at once: use more": value > most,
            "negative, which says nothing: the temperature does not suit these embeddings": blamed,
            # A bound holds at any scale, and at the best one the fit's error is of second order; not so a log-ratio
            "the interval leaves out the error of the fit": self.kind == "plugin",
        }
        error = (high - low) / (2 * Z95)
        low, value, high = cut(low, value, high, self.floor, most)
        values = {"value": value, "standard_error": error, "low": low, "high": high}
        facts = {"kind": self.kind, "ceiling": ceiling, "n": n, "split": split, "protocol": protocol}
        return MIEstimate.of(values, warnings=warnings, **facts)


def fit_all(estimators: list[FixedCritic], pairs: Cosines) -> None:
    """Set the free constants of those that have any, in one pass over the re-pairings."""
    fitted = [estimator for estimator in estimators if estimator.fits]
    law = pairs.law() if fitted else None
    for estimator in fitted:
        estimator.fit_law(pairs.positives, law)


def measure_all(estimators: list[FixedCritic], pairs: Cosines) -> list[tuple[float, float]]:
    """(statistic, standard error) of each, in one pass over the re-pairings."""
    kernels = [estimator.kernel() for estimator in estimators]
    sums = pairs.sums(kernels)
    return [one.measure(pairs.positives, sums.get(kernel)) for one, kernel in zip(estimators, kernels)]


def influences(estimators: Mapping[str, FixedCritic], z_a: Tensor, z_b: Tensor) -> dict[str, Tensor]:
    """The influence of each pair (N, D), (N, D) on each statistic, (N,), by name, the constants fitted on the same
    pairs: for standard errors, to which that fit is of second order."""
    pairs, names = Cosines(z_a, z_b), list(estimators)
    fit_all([estimators[name] for name in names], pairs)
    kernels = {name: estimators[name].kernel() for name in names}
    sums = pairs.sums(list(kernels.values()))
    return {name: estimators[name].influence(pairs.positives, sums.get(kernels[name]))[1] for name in names}


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
        for name, part in zip(names, measure_all([estimators[name] for name in names], on)):
            parts[name].append(part)
            critics[name].append(estimators[name].describe())

    measure([name for name in estimators if name not in fitted], pairs)
    if fitted:
        order = counter.permutation(n, "estimators/halves").to(z_a.device)
        one, other = (pairs[half] for half in (order[: n // 2], order[n // 2 :]))
        for known, held in ((one, other), (other, one)):
            fit_all([estimators[name] for name in fitted], known)
            measure(fitted, held)
    suffix = ", each fitted on one half of the pairs and measured on the other, averaged"
    found = {}
    for name, estimator in estimators.items():
        protocol, size = " / ".join(critics[name]), n // 2 if estimator.fits else n
        found[name] = estimator.report(parts[name], protocol + suffix * estimator.fits, size, z_a.shape, split)
    return found


def hold_out_all(
    estimators: Mapping[str, FixedCritic], z_a: Tensor, z_b: Tensor, known: int, split: str = "held-out"
) -> dict[str, MIEstimate]:
    """Fit on the first `known` pairs and measure the others, by name, passes over the re-pairings shared.

    What fits nothing measures all pairs. Raises UserError for unusable pairs.
    """
    found = {}
    for fits, rows in ((False, slice(None)), (True, slice(known, None))):
        chosen = {name: estimator for name, estimator in estimators.items() if estimator.fits == fits}
        if fits and chosen:
            fit_all(list(chosen.values()), Cosines(z_a[:known], z_b[:known]))
        a, b = z_a[rows], z_b[rows]
        for (name, estimator), part in zip(chosen.items(), measure_all(list(chosen.values()), Cosines(a, b))):
            protocol = estimator.describe() + " fitted on other pairs" * fits
            found[name] = estimator.report([part], protocol, len(a), a.shape, split)
    return {name: found[name] for name in estimators}


def cross_fit(estimator: FixedCritic, z_a: Tensor, z_b: Tensor, split: str = "held-out") -> MIEstimate:
    """Fit on one half of the pairs (N, D), (N, D), measure on the other, swap, and average; in nats.

    The halves are a fixed permutation of the row numbers. Estimators that fit nothing measure all pairs at once.
    Raises UserError for unusable pairs.
    """
    return cross_fit_all({"": estimator}, z_a, z_b, split)[""]
