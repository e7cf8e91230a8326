"""MI from the distances of nearest neighbours, for few dimensions."""

import math
from typing import Self

import torch
from torch import Tensor

from ..errors import UserError
from .pairs import check_pairs
from .result import MIEstimate, around

_MOST_DIMENSIONS = 6
_BLOCK = 2**20  # distances at once
_SHARED = 1.65  # terms share neighbours: repeated samples spread 1.3 to 1.65 times as wide as independent terms would


class KSG:
    """I = ψ(k) + ψ(N) − mean_i [ψ(n_a(i) + 1) + ψ(n_b(i) + 1)]

    n_a(i) counts the a_j strictly closer to a_i than the k-th neighbour of the pair (a_i, b_i), in the maximum norm of
    standardised coordinates. NOT a bound: a plug-in, nearly unbiased in 1 dimension, with a bias towards 0 of order
    N^{−1/D}: of 500 Gaussian pairs, −0.06 of 1 nat in 2 dimensions and −0.4 of 2 in 3; above D ≈ 6, where it is a nat
    or more, it is refused. Its variance is that of the terms i as if they were
    independent, times 1.65². At most
    ψ(N) − ψ(k). Source: Kraskov, Stögbauer and Grassberger (cond-mat/0305641), estimator 1.
    """

    fits = False

    def __init__(self, neighbours: int = 5):
        if neighbours < 1:
            raise UserError(f"KSG needs at least 1 neighbour, not {neighbours}")
        self.neighbours = neighbours

    def fit(self, z_a: Tensor, z_b: Tensor) -> Self:
        """Nothing to fit: every pair is a neighbour of the others."""
        return self

    def estimate(self, z_a: Tensor, z_b: Tensor, split: str = "held-out") -> MIEstimate:
        """Pairs (N, D_a), (N, D_b) -> nats, in memory that is linear in N and time in N².

        Raises UserError above 6 dimensions, for repeated pairs and for unusable ones.
        """
        check_pairs(z_a, z_b, least=8)
        a, b = z_a.detach().double(), z_b.detach().double()
        n, k, most = len(a), self.neighbours, max(a.shape[1], b.shape[1])
        if most > _MOST_DIMENSIONS:
            raise UserError(
                f"KSG is off by nats in {most} dimensions: project to at most {_MOST_DIMENSIONS}, or use a critic"
            )
        if n <= k:
            raise UserError(f"KSG with {k} neighbours needs more than {n} pairs")
        a, b = (((z - z.mean(0)) / z.std(0).clamp_min(1e-12)).float() for z in (a, b))
        local = torch.cat([self._local(a, b, rows) for rows in torch.arange(n).split(max(1, _BLOCK // n))])
        psi = torch.special.digamma(torch.tensor([k, n], dtype=torch.float64))
        value, error = (psi.sum() - local.mean()).item(), _SHARED * (local.std() / math.sqrt(n)).item()
        return MIEstimate.of(
            around(value, error),
            kind="plugin",
            ceiling=(psi[1] - psi[0]).item(),
            n=n,
            split=split,
            protocol=f"{k} nearest neighbours in the maximum norm of standardised coordinates",
            warnings={f"too low in {most} dimensions, by an unknown part of a nat": most > 2},
        )

    def _local(self, a: Tensor, b: Tensor, rows: Tensor) -> Tensor:
        """ψ(n_a(i) + 1) + ψ(n_b(i) + 1) for the pairs i of `rows`."""
        to_a, to_b = (torch.cdist(z[rows], z, p=torch.inf) for z in (a, b))
        nearest = torch.maximum(to_a, to_b).topk(self.neighbours + 1, largest=False).values  # the first is itself
        reach = nearest.amax(1, keepdim=True)
        if (reach == 0).any():
            raise UserError("KSG needs embeddings that have a density, but here pairs repeat exactly: use a critic")
        return sum(torch.special.digamma((to < reach).sum(1).double()) for to in (to_a, to_b))


ESTIMATORS: dict[str, type] = {"ksg": KSG}
