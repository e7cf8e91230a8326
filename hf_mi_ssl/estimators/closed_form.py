"""MI from correlations: exact where the embeddings, or monotone maps of their coordinates, are Gaussian."""

import math
from typing import Self

import torch
from torch import Tensor

from ..errors import UserError
from .coordinates import normal_scores, standardize, varying, whitener
from .pairs import check_pairs
from .result import MIEstimate, around


class Gaussian:
    """I = −½ Σ_k log(1 − ρ_k²), ρ the canonical correlations, less the bias that Wishart matrices have

    Exact for jointly Gaussian embeddings, unbiased for them (E log |Σ̂| = log |Σ| +
    Σ_{i ≤ D} ψ((N − i)/2) + const; without it the value is too high by about D_a D_b / 2N), variance Σ_k ρ_k² / N.
    NOT a bound: for other laws it may be above the MI as well as below. A lower bound only where each side by itself
    is Gaussian. Source: Cover and Thomas, Elements of Information Theory, 8.5; bias of log |Σ̂|: Misra, Singh and
    Demchuk 2005.
    """

    fits = False
    what = "canonical correlations"

    def fit(self, z_a: Tensor, z_b: Tensor) -> Self:
        """Nothing to fit: every pair goes into the correlations."""
        return self

    def estimate(self, z_a: Tensor, z_b: Tensor, split: str = "held-out") -> MIEstimate:
        """Pairs (N, D_a), (N, D_b) -> nats; the interval is that of the correlations' value, not of the MI.

        Raises UserError for unusable pairs, two or fewer per dimension, and views of which one determines the other.
        """
        check_pairs(z_a, z_b, least=8)
        a, b = (z.detach()[:, varying(z.detach())].double() for z in (z_a, z_b))
        n, dimensions = len(a), a.shape[1] + b.shape[1]
        if not (a.shape[1] and b.shape[1]):
            raise UserError("the embeddings of one side are all the same: there is nothing to correlate")
        if n <= 2 * dimensions:  # fewer leave more error than information, after minutes of eigenvalues
            raise UserError(f"correlations of {dimensions} dimensions need more than {2 * dimensions} pairs, not {n}")
        a, b = (self.prepare(z) for z in (a, b))
        a, b = (whitener(z)(z) for z in (standardize(z)(z) for z in (a, b)))
        ranks = a.shape[1], b.shape[1]
        left, rho, right = torch.linalg.svd(a.T @ b / (n - 1), full_matrices=False)
        if (rho > 1 - 1e-9).any():
            raise UserError("one view determines the other linearly, so Gaussian MI is infinite: use a critic")
        x, y = a @ left, b @ right.T  # canonical coordinates: pairs (x_k, y_k), all else uncorrelated
        # The influence of a pair on ½ (log |Σ_a| + log |Σ_b| − log |Σ_ab|): its Gaussian log-ratio, centred
        influence = ((rho * x * y - rho**2 * (x**2 + y**2) / 2) / (1 - rho**2)).sum(1)
        value = (-torch.log1p(-(rho**2)).sum() / 2).item() - _wishart_bias(n, *ranks)
        error = (influence.std() / math.sqrt(n)).item()
        full = ranks == (z_a.shape[1], z_b.shape[1])
        return MIEstimate.of(
            around(value, error),
            kind="closed_form",
            ceiling=math.inf,  # a law that is known certifies beyond log n
            n=n,
            split=split,
            protocol=f"{self.what} of {ranks[0]} and {ranks[1]} dimensions, Wishart-corrected",
            warnings={f"of rank {ranks[0]} and {ranks[1]} only: what follows from the rest is left out": not full},
        )

    def prepare(self, z: Tensor) -> Tensor:
        """What is correlated: (N, D) -> (N, D)."""
        return z


class GaussianCopula(Gaussian):
    """I = −½ Σ_k log(1 − ρ_k²), ρ the canonical correlations of normal scores Φ⁻¹(rank/(N + 1))

    `Gaussian` of each coordinate made Gaussian by its ranks, so monotone maps of coordinates change nothing. Exact for
    Gaussian copulas, biased and with variance as there. NOT a bound for others. Source: semiparametric copulas of Liu,
    Lafferty and Wasserman (0903.0649).
    """

    what = "canonical correlations of normal scores"

    def prepare(self, z: Tensor) -> Tensor:
        return normal_scores(z)(z)


def _wishart_bias(n: int, d_a: int, d_b: int) -> float:
    """E of the uncorrected value, less the truth, for Gaussians."""
    psi = torch.special.digamma((n - torch.arange(1, d_a + d_b + 1, dtype=torch.float64)) / 2)
    return ((psi[:d_a].sum() + psi[:d_b].sum() - psi.sum()) / 2).item()


ESTIMATORS: dict[str, type] = {"gaussian": Gaussian, "gaussian_copula": GaussianCopula}
