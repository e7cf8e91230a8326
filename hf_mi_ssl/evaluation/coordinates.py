"""Coordinates x, y in which embeddings a, b are scored by xᵀy/τ when marginal terms are compared, and a row's own."""

import torch
from torch import Tensor

from ..configuration import MISSLConfig
from ..errors import UserError
from ..mi import CRITICS


def cosine(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """x = a/‖a‖"""
    return CRITICS["cosine"](a, b)


def standardised(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """x_k = (a_k − μ_k)/σ_k, of each view"""
    return tuple((z - z.mean(0)) / z.std(0, correction=0).clamp_min(1e-12) for z in (a, b))


def whitened(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """x = W(a − μ_A), W (Σ_A + Σ_B) Wᵀ = 2I: one W, so that xᵀy does not depend on the choice of W"""
    a, b = (z - z.mean(0) for z in (a, b))
    factor, failed = torch.linalg.cholesky_ex((a.T @ a + b.T @ b) / (2 * len(a)))
    if failed:
        raise UserError("embeddings hardly vary, they have collapsed: there is nothing to whiten")
    return tuple(torch.linalg.solve_triangular(factor, z.T, upper=False).T for z in (a, b))


def predicted(p: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """x = α (p/‖p‖ − μ_p), y = c (t/‖t‖ − μ_t), μ their means, c: tr Σ_B = D, α: the least E‖x − y‖²

    The cosine loss leaves the scales open: these are those of the regression on a white target (arXiv 2006.07733).
    A mean that all targets share, as in a cone, is a bias of that regression and no score.
    """
    x, y = (z - z.mean(0) for z in CRITICS["cosine"](p, t))
    y = y * _scale_of(y)
    return (x * y).sum() / x.square().sum().clamp_min(1e-12) * x, y


COORDINATES = {function.__name__: function for function in (cosine, standardised, whitened, predicted)}


def own_coordinates(config: MISSLConfig) -> tuple[str, float | None]:
    """The coordinates and the temperature of a row; None where its columns do not say one.

    Where aᵀb weighs 1/τ, order 2 weighs Σ_{k≠l} Σ_kl² by 1/2τ². Barlow Twins weighs 2 aᵀb, near C = 0, and that sum:
    the ratio of its weights is τ. VICReg weighs 2 aᵀb/D and 2/D of that sum: the ratio of its weights is 2τ.
    """
    for joint, marginal, scale in (("invariance", "redundancy", 1), ("negative_mse", "covariance", 2)):
        if joint in config.joint and marginal in config.marginal:
            return "standardised", config.joint[joint] / config.marginal[marginal] / scale
    if config.critic in ("cosine", "normalized_l2"):
        return "cosine", config.temperature if "expected_score" in config.joint else None
    places = {"whitened_cosine": "whitened", "negative_squared_distance": "standardised"}
    return places.get(config.critic, "cosine"), None


def target_whiteness(t: Tensor) -> tuple[float, float]:
    """‖Σ_B − I‖/√D, Frobenius, and ‖μ_B‖/√D of c t/‖t‖, t a target (N, D): for the cosine loss as it is, the
    predictor's term is M₂ where both are 0"""
    y, scale = CRITICS["cosine"](t.double(), t.double())[0], t.shape[1] ** 0.5
    y = y * _scale_of(y)
    rest = torch.cov(y.T, correction=0) - torch.eye(y.shape[1], dtype=torch.float64)
    return rest.norm().item() / scale, y.mean(0).norm().item() / scale


def _scale_of(y: Tensor) -> Tensor:
    """c, a scalar: the variances of c y sum to D."""
    variance = y.var(0, correction=0).sum()
    if not variance > 1e-9:
        raise UserError("the predictor's targets do not vary, they have collapsed: there is no marginal to compare")
    return (y.shape[1] / variance).sqrt()
