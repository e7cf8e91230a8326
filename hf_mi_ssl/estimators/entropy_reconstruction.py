"""MI from the entropy of one view and how well the other reconstructs it, on the sphere."""

import math
from typing import Self

import torch
from torch import Tensor

from ..errors import UserError
from ..mi.bounds import uniform_sphere_dv
from ..mi.critics import cosine
from .calibration import MAX_SCALE, root
from .pairs import check_pairs
from .result import MIEstimate, around
from .streamed import to_unit_size

_FITTED_ON = 1024  # pairs that decide the one constant κ
_BLOCK = 2**20  # scores at once


class EntropyReconstruction:
    """I = κ mean_i cos(a_i, b_i) − mean_i log mean_{j≠i} e^{κ cos(b_i, b_j)}

    H(b) by a leave-one-out kernel density, plus E log q(b|a), both von Mises–Fisher with one κ: the normalisers
    cancel, so that no Bessel function is needed. κ is the best on the pairs of `fit`, a concave problem. A lower bound
    where both views have one law, as for a shared encoder: it is then row-wise Donsker–Varadhan with negatives of the
    same view. NOT one in general, since the density over-estimates H(b): a plug-in. Bias up by about half the relative
    variance of the inner mean, small variance. Source: Rodríguez-Gálvez et al. (2307.10907), with Joe's estimator of
    entropy.
    """

    fits = True
    scale: float | None = None

    def fit(self, z_a: Tensor, z_b: Tensor) -> Self:
        """Set κ on pairs (N, D), (N, D), the first 1024 of them. Raises UserError for unusable pairs."""
        a, b = (z[:_FITTED_ON] for z in _directions(z_a, z_b))
        positive, kernel = (a * b).sum(1).mean().item(), b @ b.T

        def slope(scale: float) -> tuple[float, float]:
            weights = torch.softmax((scale * kernel).fill_diagonal_(-torch.inf), 1)
            mean = (weights * kernel).sum(1)
            variance = (weights * kernel.square()).sum(1) - mean.square()
            return positive - mean.mean().item(), -variance.mean().item()

        self.scale = root(slope, 0.0, MAX_SCALE)
        return self

    def estimate(self, z_a: Tensor, z_b: Tensor, split: str = "held-out") -> MIEstimate:
        """Pairs (N, D), (N, D) that `fit` has not seen -> nats, in memory that is linear in N.

        Raises UserError for unusable pairs and before `fit`.
        """
        if self.scale is None:
            raise UserError("this estimator has nothing fitted yet; call fit first")
        a, b = _directions(z_a, z_b)
        n, used = len(a), torch.zeros_like(a[:, 0])  # how much others' means rest on each b_j
        own = self.scale * (a * b).sum(1)
        for rows in torch.arange(n).split(max(1, _BLOCK // n)):
            scores = self.scale * b[rows] @ b.T
            scores[torch.arange(len(rows)), rows] = -torch.inf
            log_sum = torch.logsumexp(scores, 1)
            own[rows] -= log_sum - math.log(n - 1)
            used += (scores - log_sum[:, None]).exp().sum(0)
        most = math.log(n)
        mean, error = own.mean().item(), ((own - used).std() / math.sqrt(n)).item()
        found = around(mean, error, 0.0, most)
        ceiling = min(most, uniform_sphere_dv(a.shape[1], 1 / MAX_SCALE))
        return MIEstimate.of(
            found,
            kind="plugin",
            ceiling=ceiling,
            n=n,
            split=split,
            protocol=f"von Mises–Fisher, κ = {self.scale:.4g} fitted on other pairs, negatives of the same view",
            warnings={},
        )


def _directions(z_a: Tensor, z_b: Tensor) -> tuple[Tensor, Tensor]:
    check_pairs(z_a, z_b, least=8, one_size=True)
    return cosine(*(to_unit_size(z.detach().double()) for z in (z_a, z_b)))


ESTIMATORS: dict[str, type] = {"entropy_reconstruction": EntropyReconstruction}
