"""Fixed-critic estimators: MI from the cosine of held-out pairs. No network is trained.

At one fixed temperature for every method (`TRACKING_TEMPERATURE`) two runs can be compared; with its scale calibrated
on the other half of the pairs the cosine certifies all that it can. Negatives are all re-pairings i ≠ j of the sample,
E_q is the mean over them; sums go block by block, so that memory is linear in n.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from ..mi import bounds
from .calibration import MAX_SCALE, best_dv_scale, mi_of_jsd, platt, sphere_law, sphere_platt
from .fixed_critic import FixedCritic, cross_fit_all
from .result import MIEstimate
from .streamed import ClippedExponential, Exponential, Kernel, Law, Softplus

TRACKING_TEMPERATURE = 0.2


class CosDV(FixedCritic):
    """L = mean_i S_ii − log mean_{i≠j} e^{S_ij}, S = cos/τ: the Donsker–Varadhan bound at one fixed temperature.

    A lower bound in the population (Donsker and Varadhan 1983; MINE, arXiv 1801.04062). A sample's has an upward bias
    of ½ var(Z)/Z², below 1e-3 nats at the tracking temperature, and low variance. At most 1/τ − log E_t[e^{t/τ}], t
    the cosine of two random directions: e^{t/τ} is a positive definite kernel, so no other aligned embedding has a
    smaller marginal term than the uniform one.
    """

    def __init__(self, temperature: float = TRACKING_TEMPERATURE):
        if not temperature > 0:
            raise UserError(f"the temperature must be positive, not {temperature}")
        self.temperature = temperature

    def kernel(self) -> Kernel:
        return Exponential, 1 / self.temperature

    def influence(self, positives: Tensor, sums: Exponential) -> tuple[float, Tensor]:
        return sums.dv

    def reach(self, n: int, dimension: int) -> float:
        return bounds.uniform_sphere_dv(dimension, self.temperature)

    def describe(self) -> str:
        return f"cosine critic at temperature {self.temperature:g}, negatives: all re-pairings i ≠ j"


class RowWiseDV(CosDV):
    """L = mean_i [S_ii − log mean_{j≠i} e^{S_ij}], S = cos/τ: each a_i has its own partition function.

    A lower bound in the population and, by Jensen, never below `CosDV` (arXiv 1905.06922, a critic plus c(a)).
    Low variance; an upward bias of ½ mean_i var(Z_i)/Z_i², n times that of `CosDV`: for temperatures at which one
    negative does not rule a row. The uniform sphere is its ceiling too: it maximises the diversity of a positive
    definite similarity at every order (arXiv 1908.11184), DV is order 2 and this order 1.
    """

    def influence(self, positives: Tensor, sums: Exponential) -> tuple[float, Tensor]:
        own = sums.positives - sums.rows
        return own.mean().item(), own - own.mean() - (sums.shares - 1)

    def describe(self) -> str:
        return f"cosine critic at temperature {self.temperature:g}, each row against its n − 1 negatives"


class InfoNCE(CosDV):
    """L = mean_i [S_ii − log mean_j e^{S_ij}], S = cos/τ (arXiv 1807.03748): at most log n, the positive included.

    A lower bound, also in the mean over samples of n; low variance, a downward bias that grows towards log n. Two
    values compare at one n only.
    """

    def influence(self, positives: Tensor, sums: Exponential) -> tuple[float, Tensor]:
        own = sums.log_own + math.log(len(positives))
        return own.mean().item(), own - own.mean() - (sums.shares_with_own - 1)

    def reach(self, n: int, dimension: int) -> float:
        return math.log(n) - math.log1p((n - 1) * math.exp(-super().reach(n, dimension)))

    def describe(self) -> str:
        return f"cosine critic at temperature {self.temperature:g}, each row against all n columns"


class CalibratedCosDV(FixedCritic):
    """L = max_β [β mean_i S_ii − log mean_{i≠j} e^{β S_ij}], S = cos, 0 ≤ β ≤ 200: all that the cosine certifies.

    A lower bound: β is fitted on pairs other than those it is measured on. Bias and variance are those of `CosDV` at
    β, and the fit's error counts to second order only. Not below any fixed temperature, up to that error. Source: the
    Cramér rate function of the negative cosines, at the mean positive one; as an estimator of MI it is ours.
    """

    fits, floor = True, 0.0
    scale: float | None = None

    def fit_law(self, positives: Tensor, law: Law) -> None:
        self.scale = best_dv_scale(positives, law)

    def kernel(self) -> Kernel:
        return Exponential, _fitted(self.scale)

    def influence(self, positives: Tensor, sums: Exponential) -> tuple[float, Tensor]:
        return sums.dv

    def reach(self, n: int, dimension: int) -> float:
        return bounds.uniform_sphere_dv(dimension, 1 / MAX_SCALE)

    def describe(self) -> str:
        capped = " (its cap)" if self.scale == MAX_SCALE else ""
        return f"cosine critic with scale {_fitted(self.scale):.4g}{capped}"


class NWJ(CalibratedCosDV):
    """L = mean_i S_ii − e⁻¹ mean_{i≠j} e^{S_ij}, S = β cos + c, (β, c) its maximum on other pairs: c = 1 − log Z(β).

    A lower bound without bias on a sample (Nguyen, Wainwright and Jordan; arXiv 1905.06922); its variance grows like
    e^{2 MI}. At its maximum over c it is DV: what it loses against `CalibratedCosDV` is the error of the fit.
    """

    log_z = 0.0

    def fit_law(self, positives: Tensor, law: Law) -> None:
        super().fit_law(positives, law)
        t, w = law
        self.log_z = torch.logsumexp(w.log() + self.scale * t, 0).item()

    def influence(self, positives: Tensor, sums: Exponential) -> tuple[float, Tensor]:
        own, ratio = sums.positives, math.exp(min(sums.log_z - self.log_z, 300.0))  # not to infinity
        value = own.mean().item() - self.log_z + 1 - ratio
        return value, own - own.mean() - ratio * sums.marginal_influence

    def describe(self) -> str:
        return f"{super().describe()} and offset {1 - self.log_z:.4g}"


class _Platt(FixedCritic):
    """S = β cos + c, the logistic regression "joint or product?" on other pairs: an estimate of the log-ratio."""

    fits, floor = True, 0.0
    scale: float | None = None
    offset: float | None = None

    def fit_law(self, positives: Tensor, law: Law) -> None:
        self.scale, self.offset = platt(positives, law)

    def logits(self, positives: Tensor) -> Tensor:
        return _fitted(self.scale) * positives + _fitted(self.offset)

    def describe(self) -> str:
        return f"cosine critic with scale {_fitted(self.scale):.4g} and offset {_fitted(self.offset):.4g}"


class JSD(_Platt):
    """L = Ξ⁻¹(log 2 + ½ [−mean_i softplus(−S_ii) − mean_{i≠j} softplus(S_ij)]), S = β cos + c, 0 ≤ β ≤ 200

    A lower bound on the Jensen–Shannon divergence of joint and product, without bias on a sample, and through the
    least MI that a divergence implies one on MI (arXiv 2510.20644). Low variance; conservative except for cluster
    structure.
    """

    to_nats = staticmethod(mi_of_jsd)

    def kernel(self) -> Kernel:
        return Softplus, _fitted(self.scale), _fitted(self.offset)

    def influence(self, positives: Tensor, sums: Softplus) -> tuple[float, Tensor]:
        own, paired = -F.softplus(-self.logits(positives)), sums.rows + sums.columns
        value = math.log(2) + (own.mean() - sums.rows.mean()).item() / 2
        return value, (own - own.mean() - (paired - paired.mean())) / 2

    def reach(self, n: int, dimension: int) -> float:
        (scale, c), (t, w) = sphere_platt(dimension), sphere_law(dimension)
        loss = math.log1p(math.exp(-scale - c)) + (w @ F.softplus(scale * t + c)).item()
        return mi_of_jsd(math.log(2) - loss / 2)


class DensityRatio(_Platt):
    """I ≈ mean_i S_ii, S = β cos + c the logistic regression's log-ratio (the read-out of JSD critics, 1808.06670)

    No bound: it trusts the ratio instead of normalising it. Low variance; its bias is the misfit of the logits under
    the joint, of either sign. The interval leaves out the error of the fit, and says so: of clusters, whose positives
    all score the same, there is no other error, and it has no width.
    """

    kind = "plugin"

    def kernel(self) -> Kernel:
        return None

    def influence(self, positives: Tensor, sums: None) -> tuple[float, Tensor]:
        own = self.logits(positives)
        return own.mean().item(), own - own.mean()

    def reach(self, n: int, dimension: int) -> float:
        return sum(sphere_platt(dimension))


class SMILE(_Platt):
    """I ≈ mean_i S_ii − log mean_{i≠j} e^{clip(S_ij, −5, 5)}, S = β cos + c (arXiv 1910.06222)

    No bound: clipping takes the largest ratios out of the marginal term, an upward bias that grows with MI. It is not
    invariant to a shift of S, which is why S is a fitted log-ratio and never a raw cosine/τ. Less variance than DV.
    The interval leaves out the error of the fit.
    """

    kind, clip = "plugin", 5.0

    def kernel(self) -> Kernel:
        return ClippedExponential, _fitted(self.scale), _fitted(self.offset), self.clip

    def influence(self, positives: Tensor, sums: ClippedExponential) -> tuple[float, Tensor]:
        own, z = self.logits(positives), sums.rows.mean()
        return (own.mean() - z.log()).item(), own - own.mean() - ((sums.rows + sums.columns) / z - 2)

    def reach(self, n: int, dimension: int) -> float:
        (scale, c), (t, w) = sphere_platt(dimension), sphere_law(dimension)
        return scale + c - (w @ (scale * t + c).clamp(-self.clip, self.clip).exp()).log().item()


def _fitted(constant: float | None) -> float:
    if constant is None:
        raise UserError("this estimator has nothing fitted yet; call fit first, or cross_fit")
    return constant


ESTIMATORS: dict[str, type[FixedCritic]] = {
    "cos_dv": CosDV,
    "cos_dv_calibrated": CalibratedCosDV,
    "row_wise_dv": RowWiseDV,
    "info_nce": InfoNCE,
    "nwj": NWJ,
    "jsd": JSD,
    "density_ratio": DensityRatio,
    "smile": SMILE,
}
TRACKED = {name: ESTIMATORS[name] for name in ("cos_dv", "cos_dv_calibrated", "info_nce", "jsd")}


def track(z_a: Tensor, z_b: Tensor, split: str) -> dict[str, MIEstimate]:
    """Every tracked estimate of the pairs (N, D), (N, D), in nats, by name; O(N) memory. Raises UserError."""
    return cross_fit_all({name: make() for name, make in TRACKED.items()}, z_a, z_b, split)
