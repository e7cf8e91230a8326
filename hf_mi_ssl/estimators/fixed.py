"""Fixed-critic estimators: lower bounds on I(z_a; z_b) from the cosine of held-out pairs. No network is trained.

At one fixed temperature for every method (`TRACKING_TEMPERATURE`) two runs can be compared; with its scale calibrated
on the other half of the pairs the cosine certifies all that it can. Negatives are all re-pairings i ≠ j of the sample.
"""

import math
from collections.abc import Callable
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import counter
from ..errors import UserError
from ..mi import bounds
from ..mi.critics import cosine, score_matrix
from ..mi.pairs import off_diagonal
from .calibration import MAX_SCALE, best_dv_scale, mi_of_jsd, negative_law, platt, sphere_jsd
from .result import MIEstimate

TRACKING_TEMPERATURE = 0.2
_Z95 = 1.959964


def _cosines(z_a: Tensor, z_b: Tensor) -> Tensor:
    """The (N, N) cosines of (N, D) and (N, D) embeddings, in float32 or wider."""
    if z_a.ndim != 2 or z_a.shape != z_b.shape or len(z_a) < 2:
        raise UserError(f"pairs need two (N, D) tensors of one shape, N ≥ 2; got {[*z_a.shape]} and {[*z_b.shape]}")
    if not (z_a.isfinite().all() and z_b.isfinite().all()):
        raise UserError("embeddings hold NaN or infinity, so mutual information is undefined; check the checkpoint")
    with torch.autocast(z_a.device.type, enabled=False):
        return score_matrix(
            cosine, *(z if z.dtype == torch.float64 else z.float() for z in (z_a.detach(), z_b.detach()))
        )


def _dv_with_influence(scores: Tensor) -> tuple[float, Tensor]:
    """DV and the pairs' influences ψ_i = (S_ii − m) − (r_i + c_i − 2), r and c the row and column means of e^S/Z."""
    positive, n = scores.diagonal(), len(scores)
    log_z = torch.logsumexp(off_diagonal(scores), (0, 1)) - math.log(n * (n - 1))
    ratio = (scores - log_z).exp().fill_diagonal_(0) / (n - 1)
    return bounds.dv(scores).item(), (positive - positive.mean()) - (ratio.sum(1) + ratio.sum(0) - 2)


class FixedCritic:
    """A lower bound on MI, in nats, from the cosines of pairs: `fit` on some pairs, `estimate` on others.

    Subclasses say what is fitted, the statistic with the pairs' influences on it, and what perfect embeddings reach.
    """

    fits = False  # whether `fit` sets constants, which must then be judged on other pairs
    floor = -math.inf  # a calibrated critic may always say nothing: 0

    def fit(self, z_a: Tensor, z_b: Tensor) -> Self:
        """Set the critic's free constants on pairs (N, D), (N, D). Raises UserError for unusable pairs."""
        self.fit_scores(_cosines(z_a, z_b))
        return self

    def estimate(self, z_a: Tensor, z_b: Tensor, split: str = "held-out") -> MIEstimate:
        """Measure pairs (N, D), (N, D), which `fit` must not have seen. Raises UserError for unusable pairs."""
        part = self.measure(_cosines(z_a, z_b))
        return self.report([part], self.describe() + " fitted on other pairs" * self.fits, z_a.shape, split)

    def fit_scores(self, scores: Tensor) -> None:
        """Set the critic's free constants on (N, N) cosines; there are none by default."""

    def influence(self, scores: Tensor) -> tuple[float, Tensor]:
        """The statistic of (N, N) cosines, and the influence of each pair on it, (N,)."""
        raise NotImplementedError

    def reach(self, n: int, dimension: int) -> float:
        """The most, in nats, that the critic says of n perfectly aligned pairs, uniform on the sphere of R^D."""
        raise NotImplementedError

    def describe(self) -> str:
        """The critic and its constants, in words."""
        raise NotImplementedError

    def to_nats(self, statistic: float) -> float:
        """The statistic as a lower bound on MI; a rising function."""
        return statistic

    def measure(self, scores: Tensor) -> tuple[float, float]:
        """The statistic of (N, N) cosines and its standard error."""
        value, influence = self.influence(scores)
        return value, (influence.double().std() / math.sqrt(len(scores))).item()

    def report(
        self, parts: list[tuple[float, float]], protocol: str, shape: tuple[int, int], split: str
    ) -> MIEstimate:
        """The mean of independent parts (statistic, standard error), in nats, with its interval and ceiling."""
        n, dimension = shape
        statistic = sum(value for value, _ in parts) / len(parts)
        error = math.hypot(*(error for _, error in parts)) / len(parts)
        low, value, high = (self.to_nats(statistic + k * _Z95 * error) for k in (-1, 0, 1))
        most = math.log(n)  # no sample of n certifies more with confidence (arXiv 1811.04251)
        ceiling = min(most, self.reach(n, dimension))
        warnings = {
            "above 90 % of its ceiling: the mutual information may be larger": value > 0.9 * ceiling,
            "cut to log n: use more pairs": value > most,
            "negative, which says nothing: the temperature does not suit these embeddings": high < 0,
        }
        return MIEstimate(
            value=min(max(value, self.floor), most),
            kind="lower_bound",
            standard_error=(high - low) / (2 * _Z95),
            low=min(max(low, self.floor), most),
            high=min(max(high, self.floor), most),
            ceiling=ceiling,
            n=n,
            split=split,
            protocol=protocol,
            warnings=tuple(text for text, holds in warnings.items() if holds),
        )


class CosDV(FixedCritic):
    """L = mean_i S_ii − log mean_{i≠j} e^{S_ij}, S = cos/τ: the Donsker–Varadhan bound at one fixed temperature.

    At most 1/τ − log E_t[e^{t/τ}], t the cosine of two random directions: e^{t/τ} is a positive definite kernel, so
    no other aligned embedding has a smaller marginal term than the uniform one.
    """

    def __init__(self, temperature: float = TRACKING_TEMPERATURE):
        if not temperature > 0:
            raise UserError(f"the temperature must be positive, not {temperature}")
        self.temperature = temperature

    def influence(self, scores: Tensor) -> tuple[float, Tensor]:
        return _dv_with_influence(scores / self.temperature)

    def reach(self, n: int, dimension: int) -> float:
        return bounds.uniform_sphere_dv(dimension, self.temperature)

    def describe(self) -> str:
        return f"cosine critic at temperature {self.temperature:g}, negatives: all re-pairings i ≠ j"


class InfoNCE(CosDV):
    """L = mean_i [S_ii − log mean_j e^{S_ij}], S = cos/τ (arXiv 1807.03748): at most log n, the positive included."""

    def influence(self, scores: Tensor) -> tuple[float, Tensor]:
        scores = scores / self.temperature
        own = scores.diagonal() - torch.logsumexp(scores, 1)
        return bounds.info_nce(scores).item(), own - own.mean() - (torch.softmax(scores, 1).sum(0) - 1)

    def reach(self, n: int, dimension: int) -> float:
        return math.log(n) - math.log1p((n - 1) * math.exp(-super().reach(n, dimension)))

    def describe(self) -> str:
        return f"cosine critic at temperature {self.temperature:g}, each row against all n columns"


class CalibratedCosDV(FixedCritic):
    """L = max_β [β mean_i S_ii − log mean_{i≠j} e^{β S_ij}], S = cos, 0 ≤ β ≤ 200: all that the cosine certifies.

    β is fitted on pairs other than those it is measured on. Not below any fixed temperature, up to the fit's error.
    """

    fits, floor = True, 0.0
    scale: float | None = None

    def fit_scores(self, scores: Tensor) -> None:
        self.scale = best_dv_scale(scores)

    def influence(self, scores: Tensor) -> tuple[float, Tensor]:
        return _dv_with_influence(_fitted(self.scale) * scores)

    def reach(self, n: int, dimension: int) -> float:
        return bounds.uniform_sphere_dv(dimension, 1 / MAX_SCALE)

    def describe(self) -> str:
        capped = " (its cap)" if self.scale == MAX_SCALE else ""
        return f"cosine critic with scale {_fitted(self.scale):.4g}{capped}"


class JSD(FixedCritic):
    """L = Ξ⁻¹(log 2 + ½ [−mean_i softplus(−S_ii) − mean_{i≠j} softplus(S_ij)]), S = β cos + c, 0 ≤ β ≤ 200

    A lower bound on the Jensen–Shannon divergence of joint and product, and through the least MI that a divergence
    implies one on MI (arXiv 2510.20644). Low variance; conservative except for cluster structure.
    """

    fits, floor, to_nats = True, 0.0, staticmethod(mi_of_jsd)
    scale: float | None = None
    offset: float | None = None

    def fit_scores(self, scores: Tensor) -> None:
        self.scale, self.offset = platt(scores.diagonal(), negative_law(scores))

    def influence(self, scores: Tensor) -> tuple[float, Tensor]:
        scores = _fitted(self.scale) * scores + _fitted(self.offset)
        own = -F.softplus(-scores.diagonal())
        negative = F.softplus(scores).fill_diagonal_(0) / (len(scores) - 1)
        paired = negative.sum(1) + negative.sum(0)
        return math.log(2) + bounds.jsd(scores).item() / 2, (own - own.mean() - (paired - paired.mean())) / 2

    def reach(self, n: int, dimension: int) -> float:
        return mi_of_jsd(sphere_jsd(dimension))

    def describe(self) -> str:
        return f"cosine critic with scale {_fitted(self.scale):.4g} and offset {_fitted(self.offset):.4g}"


def _fitted(constant: float | None) -> float:
    if constant is None:
        raise UserError("this estimator has nothing fitted yet; call fit first, or cross_fit")
    return constant


def _cross_fit_scores(estimator: FixedCritic, scores: Tensor, dimension: int, split: str) -> MIEstimate:
    n = len(scores)
    if not estimator.fits:
        return estimator.report([estimator.measure(scores)], estimator.describe(), (n, dimension), split)
    if n < 4:
        raise UserError(f"cross-fitting halves the pairs and needs at least 4, not {n}")
    order = counter.permutation(n, "estimators/halves").to(scores.device)
    halves = [scores[half][:, half] for half in (order[: n // 2], order[n // 2 :])]
    parts, critics = [], []
    for fitted_on, measured_on in (halves, halves[::-1]):
        estimator.fit_scores(fitted_on)
        parts.append(estimator.measure(measured_on))
        critics.append(estimator.describe())
    protocol = f"{' / '.join(critics)}, each fitted on one half of the pairs and measured on the other, averaged"
    return estimator.report(parts, protocol, (n, dimension), split)


def cross_fit(estimator: FixedCritic, z_a: Tensor, z_b: Tensor, split: str = "held-out") -> MIEstimate:
    """Fit on one half of the pairs (N, D), (N, D), measure on the other, swap, and average; in nats.

    The halves are a fixed permutation of the row numbers. Estimators that fit nothing measure all pairs at once.
    Raises UserError for unusable pairs.
    """
    return _cross_fit_scores(estimator, _cosines(z_a, z_b), z_a.shape[1], split)


TRACKED: dict[str, Callable[[], FixedCritic]] = {
    "cos_dv": CosDV,
    "cos_dv_calibrated": CalibratedCosDV,
    "info_nce": InfoNCE,
    "jsd": JSD,
}


def track(z_a: Tensor, z_b: Tensor, split: str) -> dict[str, MIEstimate]:
    """Every tracked estimate of the pairs (N, D), (N, D), in nats, by name; O(N²) memory. Raises UserError."""
    scores = _cosines(z_a, z_b)
    return {name: _cross_fit_scores(make(), scores, z_a.shape[1], split) for name, make in TRACKED.items()}
