"""Marginal terms written in moments of the embeddings, not in scores: each says which approximation got rid of T.

They cost the smaller of D² and N²: with fewer images than dimensions they work on the Gram matrix of the images.
"""

import torch
from torch import Tensor

from .gram import log_det_shifted, squared_norm
from .marginal import marginal_term
from .pairs import Pairs

_EPSILON = 1e-8
_DIRECTIONS = 256


@marginal_term
def redundancy(p: Pairs) -> Tensor:
    """M = Σ_{k≠l} C_kl², C the correlation of the two views

    Barlow Twins (arXiv 2103.03230, eq. 1). The variance of T = aᵀb under p(a)p(b) is D + Σ_{k≠l} (Σ_A)_kl (Σ_B)_kl for
    standardised embeddings: correlations *within* each view. This is a surrogate of it only near invariance, where
    C → Σ_A = Σ_B.
    """
    a, b = p.standardized
    n = len(a)
    return squared_norm(a, b) / n**2 - (a * b).mean(0).square().sum()


@marginal_term
def variance(p: Pairs) -> Tensor:
    """M = ½ Σ_z mean_k max(0, 1 − √(var z_k + 1e-4)), z = a and b

    VICReg (arXiv 2105.04906, eq. 1; the ½ is the official code's: without it a weight of 25 is one of 50). The first
    cumulant of T = −½ ‖a − b‖² under p(a)p(b) rewards variance without end; the hinge stops it at 1.
    """
    return sum(torch.relu(1 - (_variances(z) + 1e-4).sqrt()).mean() for z in p.centred) / 2


@marginal_term
def covariance(p: Pairs) -> Tensor:
    """M = Σ_z (1/D) Σ_{k≠l} (Σ_z)_kl², z = a and b

    VICReg (arXiv 2105.04906, eq. 3). The off-diagonal part of the second cumulant of T = −½ ‖a − b‖² under p(a)p(b)
    for Gaussian embeddings whose views have the same covariance.
    """
    n, d = p.a.shape
    return sum((squared_norm(z, z) / (n - 1) ** 2 - _variances(z).square().sum()) / d for z in p.centred)


def _variances(centred: Tensor) -> Tensor:
    return centred.square().sum(0) / (len(centred) - 1)


@marginal_term
def log_det(p: Pairs) -> Tensor:
    """M = −(1/D) Σ_z log det(Σ_z + ε I), ε = 1e-8, z = a and b

    CorInfoMax.
    """
    n, d = p.a.shape
    return -sum(log_det_shifted(z / n**0.5, _EPSILON) for z in p.centred) / d


@marginal_term
def sketched_gaussianity(p: Pairs) -> Tensor:
    """M = ½ Σ_z mean_w N ∫ |mean_i exp(i t wᵀz_i) − e^{−t²/2}|² e^{−t²/2} dt, w random directions, z = a and b

    SIGReg.
    """
    generator = torch.Generator().manual_seed(p.draw)
    directions = torch.randn(p.a.shape[1], _DIRECTIONS, generator=generator, dtype=p.a.dtype).to(p.a.device)
    directions = directions / directions.norm(dim=0)
    t = torch.linspace(0, 3, 17, dtype=p.a.dtype, device=p.a.device)
    normal = torch.exp(-t.square() / 2)
    weights = normal * (t[1] - t[0]) * 2
    weights[[0, -1]] /= 2
    total = 0.0
    for z in (p.a, p.b):
        angle = (z @ directions).unsqueeze(-1) * t  # (N, S, 17)
        distance = (angle.cos().mean(0) - normal).square() + angle.sin().mean(0).square()
        total = total + len(z) * (distance @ weights).mean()
    return total / 2
