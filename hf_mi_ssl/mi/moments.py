"""Marginal terms written in moments of the embeddings, not in scores: each says which approximation got rid of T.

They cost the smaller of D² and N²: with fewer images than dimensions they work on the Gram matrix of the images.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .gram import log_det_shifted, squared_norm
from .marginal import marginal_term
from .pairs import Pairs


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


@marginal_term
def log_det(p: Pairs) -> Tensor:
    """M = −(1/D) Σ_z log det(Σ_z + 1e-8 I), Σ_z the covariance of z/‖z‖, z = a and b

    CorInfoMax (arXiv 2209.07999, official code with its running mean and covariance at forgetting factor 0: those of
    the batch). Relations: for Gaussian embeddings of equal covariance the exact marginal of T = −‖a − b‖²/2τ is
    −½ log det(I + 2Σ/τ), so that this is 4/D times it, τ/2 = 1e-8, up to a constant. In float64: a shift of 1e-8 is
    lost in float32.
    """
    n, d = p.a.shape
    on_sphere = (F.normalize(z.double(), dim=1) for z in (p.a, p.b))
    return -sum(log_det_shifted((z - z.mean(0)) / n**0.5, 1e-8) for z in on_sphere).to(p.a.dtype) / d


@marginal_term
def sketched_gaussianity(p: Pairs) -> Tensor:
    """M = ½ Σ_z mean_w N ∫ |mean_i exp(i t wᵀz_i) − e^{−t²/2}|² e^{−t²/2} dt, w 256 random directions, z = a and b

    SIGReg of LeJEPA (arXiv 2511.08544; official code: |t| ≤ 3, trapezoids): a test, one direction at a time, for the
    isotropic Gaussian, whose covariance leaves no dimension unused. New directions in each draw, the same on every
    process.
    """
    generator = torch.Generator().manual_seed(int(p.draw))
    directions = torch.randn(p.a.shape[1], 256, generator=generator, dtype=torch.float64).to(p.a)
    t = torch.linspace(0, 3, 17, dtype=p.a.dtype, device=p.a.device)
    normal = torch.exp(-t.square() / 2)
    total = 0.0
    for z in (p.a, p.b):
        angles = (z @ F.normalize(directions, dim=0)).unsqueeze(-1) * t  # (N, 256, 17)
        distance = (angles.cos().mean(0) - normal).square() + angles.sin().mean(0).square()
        total = total + 2 * len(z) * torch.trapezoid(distance * normal, t).mean()
    return total / 2


def _variances(centred: Tensor) -> Tensor:
    return centred.square().sum(0) / (len(centred) - 1)
