"""How far surrogates of the marginal term are from the exact one on given embeddings, and why. In nats, in float64.

Scores are T(a, b) = xᵀy/τ, x and y the embeddings in some coordinates. M̂ is the exact term, M₂ its second order, exact
for any law, M_G the term of a Gaussian with the same moments, and

    M̂ − M₂ = (M̂ − M_G) + (M_G − M₂)                           non-Gaussianity + truncation
    M_P − M₂ = (V_P^G − V_P)/2τ² + (V_P − V_Q)/2τ²              Isserlis + wrong measure

M_P, what Barlow Twins expands, has the variance of τT over positive pairs by Isserlis' theorem, V_P^G, in the place of
its variance over re-paired ones, V_Q. Whitened and of equal views M̂ − M₂ is β/6τ³ + (K − 3D²)/24τ⁴ + …, Mardia's
skewness and Koziol's kurtosis. Ours; the terms are those of `hf_mi_ssl.mi`.

All values are jackknifed over groups of images: that gives a standard error, and takes off the bias of order 1/N of
plug-in terms, of the log of a mean and of coordinates fitted on the sample.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from ..mi import CRITICS, MARGINAL_TERMS, Pairs
from .coordinates import COORDINATES
from .spectrum import leading

Key = tuple[str, str]  # (table, name)

LARGEST_SPREAD = 0.25  # of λ_max(Σ)/τ
LARGEST_SHARE = 0.1  # of the second cumulant's term, for what has to be far below it
_GROUPS = 8
_DIRECTIONS = 256  # in which M_G − M₂ is computed: the others are far within the radius of convergence
_LADDER = ("zeroth_order", "first_order", "second_order", "third_order")
_IN_LAMBDA = (0.5, 1.5, 3, 5, 10, 20)  # the default temperatures


@dataclass(frozen=True)
class Nats:
    """A value and its standard error, which is nan where the value is infinite."""

    value: float
    standard_error: float


@dataclass(frozen=True)
class SurrogateRow:
    """The exact marginal term at one temperature, and its surrogates.

    Args:
        values: of each surrogate, by name.
        errors: M̂ − M of each surrogate.
        parts: `non_gaussianity` and `truncation`, the sum of which is the error of `second_order`; `isserlis` and
            `wrong_measure`; of a prediction, `coloured_target`, M₂ less the predictor's term.
        gradients: of `second_order` and, of a prediction, `predictor`: cosine of its gradient with respect to x and
            the exact one's, and the ratio of their norms.
        spread: λ_max(Σ)/τ, λ_max² the largest eigenvalue of Σ_AΣ_B: M_G is infinite from 1.
        skewness: κ₃/6τ³ as a share of κ₂/2τ².
        reasons: why order 2 is unreliable here, by the validity rule, which needs no exact term, or as measured.
    """

    coordinates: str
    temperature: float
    n: int
    dimension: int
    exact: Nats
    values: dict[str, Nats]
    errors: dict[str, Nats]
    parts: dict[str, Nats]
    gradients: dict[str, tuple[float, float]]
    spread: float
    skewness: float
    reasons: tuple[str, ...]


def surrogate_rows(
    a: Tensor, b: Tensor, coordinates: str, temperatures: Sequence[float] = (), own: float | None = None
) -> list[SurrogateRow]:
    """A row for each temperature, of embeddings (N, D) of both views, or of a prediction and its target.

    Temperatures default to multiples of λ_max(Σ) from ½ to 20, and the row's own. Whitening keeps the leading
    directions, at most 64 and N/16. Raises UserError for embeddings that are not finite or have collapsed.
    """
    a, b = a.double(), b.double()
    if not (a.isfinite().all() and b.isfinite().all()):
        raise UserError("embeddings hold NaN or infinity: there is no marginal to compare; check the checkpoint")
    if coordinates == "whitened":
        centred = torch.cat([a - a.mean(0), b - b.mean(0)])
        a, b = leading(centred, max(1, min(64, len(a) // 16))).split(len(a))
    place = COORDINATES[coordinates]
    x, y = place(a, b)
    directions = _directions(x, y)
    largest = _largest(x @ directions, y @ directions).item()
    if not largest > 1e-9:
        raise UserError(f"{coordinates} embeddings do not vary, they have collapsed: there is no marginal to compare")
    temperatures = sorted({*(temperatures or [times * largest for times in _IN_LAMBDA]), *([own] if own else [])})
    group = torch.arange(len(a)) % _GROUPS

    def measure(kept: Tensor) -> dict[Key, Tensor]:
        return _measure(*place(a[kept], b[kept]), directions, temperatures, coordinates)

    found = _jackknife(measure, [group >= 0, *(group != g for g in range(_GROUPS))])
    return [_row(found, i, x, y, coordinates, tau) for i, tau in enumerate(temperatures)]


def _measure(
    x: Tensor, y: Tensor, directions: Tensor, temperatures: list[float], coordinates: str
) -> dict[Key, Tensor]:
    """Everything at every temperature, (T,) each, from x, y (N, D)."""
    tau, pairs = torch.tensor(temperatures, dtype=x.dtype), Pairs(x, y, CRITICS["bilinear"])
    reduced = Pairs(x @ directions, y @ directions, pairs.critic)
    orders = [MARGINAL_TERMS[name](pairs) for name in _LADDER]  # at τ = 1: κ_k/k! are their differences
    cumulants = [(high - low) / tau**k for k, (low, high) in enumerate(pairwise(orders), 1)]
    values = dict(zip(_LADDER, accumulate(cumulants, initial=torch.zeros_like(tau))))
    exact = torch.stack([MARGINAL_TERMS["exact"](replace(pairs, temperature=t)) for t in temperatures])
    beyond = torch.stack([_gaussian_beyond_second(replace(reduced, temperature=t)) for t in temperatures])
    values["gaussian"] = values["second_order"] + beyond
    if coordinates in ("standardised", "whitened"):  # means 0 and variances 1, which these terms take for granted
        diagonal = (x.square().mean(0) * y.square().mean(0)).sum()
        off = {"redundancy": MARGINAL_TERMS["redundancy"](pairs)}
        off["covariance"] = x.shape[1] / 2 * MARGINAL_TERMS["covariance"](pairs)
        values |= {name: (diagonal + value) / (2 * tau**2) for name, value in off.items()}
    cross = (x - x.mean(0)).T @ (y - y.mean(0)) / len(x)
    v_q, v_p = 2 * (orders[2] - orders[1]), pairs.positive_scores.var()
    v_p_gaussian = v_q + (cross * cross.T).sum() + 2 * y.mean(0) @ cross @ x.mean(0)
    parts = {
        "non_gaussianity": exact - values["gaussian"],
        "truncation": beyond,
        "isserlis": (v_p_gaussian - v_p) / (2 * tau**2),
        "wrong_measure": (v_p - v_q) / (2 * tau**2),
    }
    if coordinates == "predicted":
        values["predictor"] = x.square().sum(1).mean() / (2 * tau**2)
        parts["coloured_target"] = values["second_order"] - values["predictor"]
    found = {("", "exact"): exact, ("", "spread"): _largest(reduced.a, reduced.b) / tau}
    found |= {("", "second"): cumulants[1], ("", "third"): cumulants[2]}
    tables = {"values": values, "errors": {name: exact - value for name, value in values.items()}, "parts": parts}
    return found | {(of, name): value for of, table in tables.items() for name, value in table.items()}


def _row(found: dict[Key, Tensor], i: int, x: Tensor, y: Tensor, coordinates: str, tau: float) -> SurrogateRow:
    nats = {key: Nats(*value[:, i].tolist()) for key, value in found.items()}
    tables = {of: {name: value for (where, name), value in nats.items() if where == of} for of, _ in nats if of}
    error, spread = tables["errors"]["second_order"], nats["", "spread"].value
    second, skewness = nats["", "second"].value, (found["", "third"] / found["", "second"])[0, i].item()
    reasons = {
        f"λ_max(Σ)/τ = {spread:.2f} is not below {LARGEST_SPREAD}": spread >= LARGEST_SPREAD,
        f"skewness: κ₃/6τ³ is {skewness:+.0%} of κ₂/2τ²": abs(skewness) > LARGEST_SHARE,
        f"measured: M̂ − M₂ is {error.value / (second or math.nan):+.0%} of κ₂/2τ²": abs(error.value)
        > LARGEST_SHARE * second,
        f"M̂ − M₂ is known to ±{error.standard_error:.2g} only": error.standard_error > LARGEST_SHARE * min(second, 1),
    }
    return SurrogateRow(
        coordinates=coordinates,
        temperature=tau,
        n=len(x),
        dimension=x.shape[1],
        exact=nats["", "exact"],
        **tables,
        gradients=_gradients(x, y, tau, coordinates == "predicted"),
        spread=spread,
        skewness=skewness,
        reasons=tuple(reason for reason, holds in reasons.items() if holds),
    )


def _jackknife(measure: Callable[[Tensor], dict[Key, Tensor]], subsets: list[Tensor]) -> dict[Key, Tensor]:
    """G θ − (G − 1) mean_g θ_g and √((G − 1) var_g θ_g) of each entry, (2, T); θ and nan where any is infinite."""
    whole, *without = (measure(kept) for kept in subsets)
    found = {}
    for key, value in whole.items():
        left, more = torch.stack([part[key] for part in without]), len(without) - 1
        both = torch.stack([value + more * (value - left.mean(0)), (more * left.var(0, correction=0)).sqrt()])
        finite = value.isfinite() & left.isfinite().all(0)
        found[key] = torch.where(finite, both, torch.stack([value, torch.full_like(value, math.nan)]))
    return found


def _gradients(x: Tensor, y: Tensor, tau: float, predictor: bool) -> dict[str, tuple[float, float]]:
    pairs = Pairs(x.clone().requires_grad_(), y, CRITICS["bilinear"], tau)
    terms = {name: MARGINAL_TERMS[name](pairs) for name in ("exact", "second_order")}
    terms |= {"predictor": pairs.a.square().sum(1).mean() / (2 * tau**2)} if predictor else {}
    found = {name: torch.autograd.grad(term, pairs.a, retain_graph=True)[0] for name, term in terms.items()}
    exact = found.pop("exact")
    return {
        name: (F.cosine_similarity(one.flatten(), exact.flatten(), dim=0).item(), (one.norm() / exact.norm()).item())
        for name, one in found.items()
    }


def _gaussian_beyond_second(p: Pairs) -> Tensor:
    """M_G − M₂ of the sample's moments, M₂ = μ_Aᵀμ_B + ½ (tr Σ_AΣ_B + μ_AᵀΣ_Bμ_A + μ_BᵀΣ_Aμ_B)"""
    (mean_a, cov_a), (mean_b, cov_b) = (_moments(z) for z in p.both)
    variance = (cov_a * cov_b).sum() + mean_a @ cov_b @ mean_a + mean_b @ cov_a @ mean_b
    return MARGINAL_TERMS["gaussian"](p) - mean_a @ mean_b - variance / 2


def _largest(x: Tensor, y: Tensor) -> Tensor:
    """√λ_max(Σ_AΣ_B), which is λ_max(Σ) where views are alike."""
    return torch.linalg.eigvals(_moments(x)[1] @ _moments(y)[1]).real.max().clamp_min(0).sqrt()


def _moments(z: Tensor) -> tuple[Tensor, Tensor]:
    mean = z.mean(0)
    return mean, (z - mean).T @ (z - mean) / len(z)


def _directions(x: Tensor, y: Tensor) -> Tensor:
    """(D, 256), the leading principal directions of both views; all, where there are no more."""
    if x.shape[1] <= _DIRECTIONS:
        return torch.eye(x.shape[1], dtype=x.dtype)
    both = torch.cat([x - x.mean(0), y - y.mean(0)])
    return torch.linalg.svd(both, full_matrices=False).Vh[:_DIRECTIONS].T
