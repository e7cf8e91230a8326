"""MI from correlations: exact where the embeddings, or monotone maps of their coordinates, are Gaussian."""

import math
from typing import Self

import torch
from torch import Tensor

from ..errors import UserError
from .result import MIEstimate

_RANK = 1e-6  # directions whose variance is this small a part of the largest are rounding, not signal
_Z95 = 1.959964


def paired(z_a: Tensor, z_b: Tensor) -> tuple[Tensor, Tensor]:
    """(N, D_a), (N, D_b) in float64. Raises UserError for what are no pairs, or not finite."""
    if z_a.ndim != 2 or z_b.ndim != 2 or len(z_a) != len(z_b) or len(z_a) < 8:
        raise UserError(f"pairs need (N, D_a) and (N, D_b), N ≥ 8; got {[*z_a.shape]} and {[*z_b.shape]}")
    if not (z_a.isfinite().all() and z_b.isfinite().all()):
        raise UserError("embeddings hold NaN or infinity, so mutual information is undefined; check the checkpoint")
    return z_a.detach().double(), z_b.detach().double()


class Gaussian:
    """I = −½ Σ_k log(1 − ρ_k²), ρ the canonical correlations, less the bias that Wishart matrices have

    Exact for jointly Gaussian embeddings, unbiased for them at any N > D_a + D_b (E log |Σ̂| = log |Σ| +
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

        Raises UserError for unusable pairs, too few of them, and where one view determines the other linearly.
        """
        a, b = (_whitened(self.prepare(z)) for z in paired(z_a, z_b))
        n, ranks = len(a), (a.shape[1], b.shape[1])
        if n <= sum(ranks):
            raise UserError(f"correlations of {sum(ranks)} dimensions need more than {n} pairs: use more, or a critic")
        left, rho, right = torch.linalg.svd(a.T @ b / n, full_matrices=False)
        if (rho > 1 - 1e-9).any():
            raise UserError("one view determines the other linearly, so Gaussian MI is infinite: use a critic")
        x, y = a @ left, b @ right.T  # canonical coordinates: pairs (x_k, y_k), all else uncorrelated
        # The influence of a pair on ½ (log |Σ_a| + log |Σ_b| − log |Σ_ab|): its Gaussian log-ratio, centred
        influence = ((rho * x * y - rho**2 * (x**2 + y**2) / 2) / (1 - rho**2)).sum(1)
        value = (-torch.log1p(-(rho**2)).sum() / 2).item() - _wishart_bias(n, *ranks)
        error = (influence.std() / math.sqrt(n)).item()
        full = ranks == (z_a.shape[1], z_b.shape[1])
        return MIEstimate(
            value=value,
            kind="closed_form",
            standard_error=error,
            low=value - _Z95 * error,
            high=value + _Z95 * error,
            ceiling=math.inf,  # a law that is known certifies beyond log n
            n=n,
            split=split,
            protocol=f"{self.what} of {ranks[0]} and {ranks[1]} dimensions, Wishart-corrected",
            warnings=() if full else (f"only {ranks[0]} and {ranks[1]} dimensions vary: the rest is left out",),
        )

    def prepare(self, z: Tensor) -> Tensor:
        """What is correlated: (N, D) -> (N, D)."""
        return z


class GaussianCopula(Gaussian):
    """I = −½ Σ_k log(1 − ρ_k²), ρ the canonical correlations of normal scores Φ⁻¹((rank − ½)/N)

    `Gaussian` of each coordinate made Gaussian by its ranks, so monotone maps of coordinates change nothing. Exact for
    Gaussian copulas, biased and with variance as there. NOT a bound for others. Source: semiparametric copulas of Liu,
    Lafferty and Wasserman (0903.0649).
    """

    what = "canonical correlations of normal scores"

    def prepare(self, z: Tensor) -> Tensor:
        columns = z.T.contiguous()
        ordered = columns.sort(1).values
        below, upto = (torch.searchsorted(ordered, columns, right=right) for right in (False, True))
        return torch.special.ndtri((below + upto).double() / (2 * len(z))).T  # equal values share their mean rank


def _whitened(z: Tensor) -> Tensor:
    """Uncorrelated coordinates of variance 1 that span what varies: (N, D) -> (N, rank)."""
    z = z - z.mean(0)
    std = z.square().mean(0).sqrt()
    z = z[:, std > 0] / std[std > 0]
    if not z.shape[1]:
        raise UserError("the embeddings of one side are all the same: there is nothing to correlate")
    values, vectors = torch.linalg.eigh(z.T @ z / len(z))
    kept = values > _RANK * values[-1]
    return z @ (vectors[:, kept] / values[kept].sqrt())


def _wishart_bias(n: int, d_a: int, d_b: int) -> float:
    """E of the uncorrected value, less the truth, for Gaussians."""
    psi = torch.special.digamma((n - torch.arange(1, d_a + d_b + 1, dtype=torch.float64)) / 2)
    return ((psi[:d_a].sum() + psi[:d_b].sum() - psi.sum()) / 2).item()


ESTIMATORS: dict[str, type] = {"gaussian": Gaussian, "gaussian_copula": GaussianCopula}
