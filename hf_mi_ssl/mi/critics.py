"""The critics T(a, b): how strongly a and b claim to belong together. All of them are fixed: nothing in them learns.

A critic maps (N, D), (M, D) to factors (N, F), (M, F); the score of a pairing is the inner product of its factors,
divided by the temperature. That form makes the scores of all pairings one matrix product, and lets terms sum over them
without holding them. The first line of a critic's docstring is its formula.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .pairs import Critic, register

CRITICS: dict[str, Critic] = {}


def critic(factors: Critic) -> Critic:
    """Register a critic under its own name. Its docstring must begin with the formula, "T(a, b) = …"."""
    return register(CRITICS, factors, "T(a, b) = ")


def score_matrix(critic: Critic, a: Tensor, b: Tensor) -> Tensor:
    """T(a_i, b_j) of all pairings: (N, D), (M, D) -> (N, M)"""
    left, right = critic(a, b)
    return left @ right.T


@critic
def cosine(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """T(a, b) = aᵀb / (‖a‖ ‖b‖)"""
    return F.normalize(a, dim=-1), F.normalize(b, dim=-1)


@critic
def bilinear(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """T(a, b) = aᵀb"""
    return a, b


@critic
def bounded_bilinear(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """T(a, b) = aᵀb / (max(1, ‖a‖) max(1, ‖b‖))

    Embeddings stay in the unit ball (spectral contrastive learning, arXiv 2106.04156, official code): a cosine that
    may be small because an embedding is.
    """
    return tuple(z / z.norm(dim=-1, keepdim=True).clamp_min(1) for z in (a, b))


@critic
def negative_squared_distance(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """T(a, b) = −½ ‖a − b‖²"""
    half_a, half_b = (-z.square().sum(-1, keepdim=True) / 2 for z in (a, b))
    return torch.cat([a, half_a, torch.ones_like(half_a)], -1), torch.cat([b, torch.ones_like(half_b), half_b], -1)


@critic
def normalized_l2(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """T(a, b) = −½ ‖a/‖a‖ − b/‖b‖‖²"""
    return negative_squared_distance(*cosine(a, b))


@critic
def whitened_cosine(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """T(a, b) = cos(W_A (a − μ_A), W_B (b − μ_B)), W Σ Wᵀ = I

    W-MSE (arXiv 2007.06346 §3): W is the inverse of the Cholesky factor of the covariance of each view's batch, shrunk
    by 1e-3 towards the identity. Before they are normalised embeddings are white, so that tr(Σ_AΣ_B), the second-order
    marginal, is a constant: the critic stands in for M.
    """
    return F.normalize(_whiten(a), dim=-1), F.normalize(_whiten(b), dim=-1)


def _whiten(z: Tensor, shrinkage: float = 1e-3) -> Tensor:
    centred = z - z.mean(0)
    identity = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    covariance = (1 - shrinkage) * (centred.T @ centred) / (len(z) - 1) + shrinkage * identity
    return torch.linalg.solve_triangular(torch.linalg.cholesky_ex(covariance).L, centred.T, upper=False).T
