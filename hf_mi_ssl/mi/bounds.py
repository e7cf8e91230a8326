"""The bounds L as estimators on a score matrix: the mathematics of the objective, used to measure.

Each maps scores S_ij = T(a_i, b_j), shape (N, N), positives on the diagonal, to a scalar, in nats for the bounds on
mutual information. Rows are a, columns are b; the pairs with i ≠ j sample the product of the marginals.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .pairs import log_mean_exp, off_diagonal


def dv(scores: Tensor) -> Tensor:
    """L = mean_i S_ii − log mean_{i≠j} e^{S_ij}

    Donsker–Varadhan; a lower bound on MI in the population, biased up by about var(mean)/2 mean² on a sample.
    """
    return scores.diagonal().mean() - log_mean_exp(off_diagonal(scores))


def row_wise_dv(scores: Tensor) -> Tensor:
    """L = mean_i [S_ii − log mean_{j≠i} e^{S_ij}]

    A lower bound, at least as tight as `dv` (Jensen): each a_i has its own partition function. Its negative is the
    decoupled contrastive loss (arXiv 2110.06848) up to a constant.
    """
    return (scores.diagonal() - log_mean_exp(off_diagonal(scores), dim=1)).mean()


def info_nce(scores: Tensor) -> Tensor:
    """L = mean_i [S_ii − log mean_j e^{S_ij}]

    A lower bound, at most log N (arXiv 1807.03748): the mean includes the positive.
    """
    return (scores.diagonal() - log_mean_exp(scores, dim=1)).mean()


def nwj(scores: Tensor) -> Tensor:
    """L = mean_i S_ii − e⁻¹ mean_{i≠j} e^{S_ij}

    A lower bound, unbiased on a sample; its variance grows like e^{2 MI} (Nguyen, Wainwright and Jordan; 1905.06922).
    Scores of some hundreds make it −inf, as it then is but for the precision: `estimators.NWJ` fits scale and offset.
    """
    return scores.diagonal().mean() - (off_diagonal(scores) - 1).exp().mean()


def jsd(scores: Tensor) -> Tensor:
    """L = −mean_i softplus(−S_ii) − mean_{i≠j} softplus(S_ij)

    Half of it plus log 2 is a lower bound on the Jensen–Shannon divergence between joint and product, at most log 2
    (arXiv 1808.06670); not a bound on MI.
    """
    return -F.softplus(-scores.diagonal()).mean() - F.softplus(off_diagonal(scores)).mean()


def smile(scores: Tensor, clip: float = 5.0) -> Tensor:
    """L = mean_i S_ii − log mean_{i≠j} e^{clip(S_ij − c, −clip, clip)} − c, with c = log mean_{i≠j} e^{S_ij}

    DV with the marginal scores clipped around their own log-mean (arXiv 1910.06222): less variance, and not a bound.
    """
    negatives = off_diagonal(scores)
    centre = log_mean_exp(negatives)
    return scores.diagonal().mean() - log_mean_exp((negatives - centre).clamp(-clip, clip)) - centre


def uniform_sphere_dv(dimension: int, temperature: float, points: int = 20_001) -> float:
    """L = 1/τ − log E_t[e^{t/τ}], t the cosine of two uniform directions in R^D: what cosine/τ reaches at best there

    The value of `dv` when views agree perfectly and embeddings are uniform on the sphere: its ceiling in the
    population, in nats, because e^{t/τ} is positive definite and so the uniform law has the least mean of it. The
    density of t is ∝ (1 − t²)^{(D−3)/2}; with t = sin φ the integrand is smooth for every D ≥ 2.
    """
    if dimension == 1:
        return 1 / temperature - math.log(math.cosh(1 / temperature))
    phi = math.pi * ((torch.arange(points, dtype=torch.float64) + 0.5) / points - 0.5)  # midpoints
    log_density = (dimension - 2) * phi.cos().log()
    log_moment = torch.logsumexp(log_density + phi.sin() / temperature, 0) - torch.logsumexp(log_density, 0)
    return 1 / temperature - log_moment.item()
