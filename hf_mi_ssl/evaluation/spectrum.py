"""How many directions embeddings use, and whether they use any: rank and collapse, from one decomposition.

`rankme` does not centre and `effective_rank` does: a cone of embeddings with a little noise has a low first and a high
second, a few clusters the other way round. `embedding_std` sees only complete collapse. Report all three.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def rankme(z: Tensor) -> float:
    """exp(−Σ_k p_k log p_k), p = σ/Σσ, σ the singular values of z, (N, D), not centred (arXiv 2210.02885)"""
    return _exponential_entropy(_squared_singular_values(z.double()).sqrt())


def effective_rank(z: Tensor) -> float:
    """exp(−Σ_k p_k log p_k), p = λ/Σλ, λ the eigenvalues of the covariance of z, (N, D) (Roy & Vetterli 2007)"""
    z = z.double()
    centred = z - z.mean(0)
    if centred.norm() <= torch.finfo(torch.float32).eps * z.norm():  # constant: what is left is rounding
        return 1.0
    return _exponential_entropy(_squared_singular_values(centred))


def embedding_std(z: Tensor) -> float:
    """√D · mean_k std_i(z_ik / ‖z_i‖) for z (N, D): 1 when isotropic, 0 when collapsed (arXiv 2011.10566)"""
    unit = F.normalize(z.double(), dim=1)
    return (z.shape[1] ** 0.5 * unit.std(0, correction=0).mean()).item()


def _squared_singular_values(z: Tensor) -> Tensor:
    gram = z.T @ z if z.shape[0] > z.shape[1] else z @ z.T  # the cheaper side has the same nonzero spectrum
    squares = torch.linalg.eigvalsh(gram).clamp_min(0)
    return squares * (squares > max(z.shape) * torch.finfo(torch.float64).eps * squares.max())


def _exponential_entropy(spectrum: Tensor) -> float:
    if not spectrum.sum() > 0:
        return 1.0
    p = spectrum / spectrum.sum()
    return torch.exp(-torch.special.xlogy(p, p).sum()).item()
