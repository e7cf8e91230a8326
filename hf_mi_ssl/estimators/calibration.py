"""The best scale of a fixed critic, and what a divergence says about mutual information: small concave problems.

Negatives enter as a law (values t, weights w): the histogram of the off-diagonal scores of a sample, or the law of the
cosine of two random directions. Fits and ceilings are the same code on the two, in float64.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from .streamed import Law

MAX_SCALE = 200.0  # of the cosine; a sample whose positives and negatives separate would send the scale to infinity


def root(function: Callable[[float], tuple[float, float]], low: float, high: float) -> float:
    """x in [low, high] with f(x) = 0, for a falling f given as x -> (f(x), f′(x)); the nearer end where there is none.

    Newton's method kept inside a shrinking bracket: a step that leaves it, or hardly shrinks f, becomes a bisection.
    """
    if function(low)[0] <= 0:
        return low
    if function(high)[0] >= 0:
        return high
    x, previous = (low + high) / 2, math.inf
    for _ in range(100):
        value, slope = function(x)
        low, high = (x, high) if value > 0 else (low, x)
        step = x - value / slope if slope < 0 else math.inf
        inside = low < step < high and abs(value) < previous / 2
        new = step if inside else (low + high) / 2
        if value == 0 or abs(new - x) <= 1e-10 * max(1.0, abs(x)):
            return new if value else x
        x, previous = new, abs(value)
    return x


def sphere_law(dimension: int, points: int = 2048) -> Law:
    """The cosine of two uniform directions of R^D: density ∝ (1 − t²)^{(D−3)/2}; t = ±1 for D = 1."""
    if dimension == 1:
        return torch.tensor([-1.0, 1.0], dtype=torch.float64), torch.tensor([0.5, 0.5], dtype=torch.float64)
    phi = math.pi * ((torch.arange(points, dtype=torch.float64) + 0.5) / points - 0.5)  # t = sin φ: smooth for D ≥ 2
    return phi.sin(), torch.softmax((dimension - 2) * phi.cos().log(), 0)


def best_dv_scale(positives: Tensor, law: Law) -> float:
    """argmax_{0 ≤ β ≤ 200} [β mean_i s_i − log E_q e^{βt}], a concave problem; 0 where positives score no higher.

    Its maximum is the Cramér rate function of the negative cosines at the mean positive one.
    """
    positive, (t, w) = positives.double().mean().item(), law

    def slope(scale: float) -> tuple[float, float]:
        tilted = torch.softmax(w.log() + scale * t, 0)
        mean = (tilted @ t).item()
        return positive - mean, -(tilted @ (t - mean).square()).item()

    return root(slope, 0.0, MAX_SCALE)


def platt(positives: Tensor, law: Law) -> tuple[float, float]:
    """argmax_{0 ≤ β ≤ 200, c} [−mean softplus(−(β s + c)) − E_q softplus(β t + c)], concave in (β, c).

    The logistic regression "joint or product?" on one score. c is maximised out, so that two nested
    one-dimensional searches stay safe where the classes separate.
    """
    s, (t, w) = positives.double().cpu(), law

    def offset(scale: float) -> float:
        def slope(c: float) -> tuple[float, float]:
            miss, alarm = torch.sigmoid(-(scale * s + c)), torch.sigmoid(scale * t + c)
            return (miss.mean() - w @ alarm).item(), -((miss * (1 - miss)).mean() + w @ (alarm * (1 - alarm))).item()

        return root(slope, -scale - 40, scale + 40)

    def slope(scale: float) -> tuple[float, float]:
        c = offset(scale)
        miss, alarm = torch.sigmoid(-(scale * s + c)), torch.sigmoid(scale * t + c)
        p, q = miss * (1 - miss) / len(s), alarm * (1 - alarm) * w
        curvature = p @ s.square() + q @ t.square() - (p @ s + q @ t) ** 2 / (p.sum() + q.sum()).clamp_min(1e-300)
        return ((miss * s).mean() - w @ (alarm * t)).item(), -curvature.item()

    scale = root(slope, 0.0, MAX_SCALE)
    return scale, offset(scale) if scale else 0.0  # the classes weigh alike


def jsd_of_mi(mi: float) -> float:
    """Ξ(I) = ½ [log(2/(1+s)) + s log(2s/(1+s)) + (1−s) log 2], s = e^{−I}: the most JSD that MI of I nats allows.

    Attained by P = (1, 0), Q = (s, 1 − s) (arXiv 2510.20644), so MI ≥ Ξ⁻¹(JSD) holds and is tight.
    """
    s = math.exp(-mi)
    return (-math.log1p((s - 1) / 2) + s * (math.log(s) - math.log1p((s - 1) / 2)) + (1 - s) * math.log(2)) / 2


def mi_of_jsd(jsd: float) -> float:
    """Ξ⁻¹(JSD): the least MI, in nats, that a Jensen–Shannon divergence implies, 30 where it saturates.

    A sample's negative value goes on along the tangent at 0, so that errors keep their size there.
    """
    if jsd <= 0:
        return 2 * jsd / math.log(2)
    return root(lambda mi: (jsd - jsd_of_mi(mi), -math.exp(-mi) * math.log1p(math.exp(mi)) / 2), 0.0, 30.0)


@lru_cache
def sphere_platt(dimension: int) -> tuple[float, float]:
    """`platt` of perfect alignment against uniform pairings: the scale and offset of the best possible cosines."""
    return platt(torch.ones(1), sphere_law(dimension))
