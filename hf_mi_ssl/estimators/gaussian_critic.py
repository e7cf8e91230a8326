"""The Gaussian log-ratio as a critic: what the closed form of the Gaussian MI knows, but as a lower bound, in nats."""

import torch
from torch import Tensor

from .coordinates import Coordinates, after, canonical, normal_scores, standardize
from .learned import LearnedCritic, Member, Network, Split

_MOST = 0.995  # of a canonical correlation: 2.3 nats from one pair of coordinates


class GaussianLogRatio(Network):
    """T(a, b) = Σ_k [ρ_k a_k b_k − ½ ρ_k² (a_k² + b_k²)]/(1 − ρ_k²), a and b in canonical coordinates

    log p(a, b)/p(a)p(b) of Gaussian pairs, up to a constant; ρ (K,), K the smaller of the two dimensions.
    """

    dtype = torch.float64

    def __init__(self, rho: Tensor):
        super().__init__()
        self.register_buffer("rho", rho)
        self.register_buffer("scale", rho.new_ones(()))

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        rest = 1 - self.rho.square()
        a, b = a[:, : len(rest)], b[:, : len(rest)]
        own_a, own_b = (-(z.square() @ (self.rho.square() / rest) / 2)[:, None] for z in (a, b))
        left, right = (a * self.rho / rest, own_a, torch.ones_like(own_a)), (b, torch.ones_like(own_b), own_b)
        return self.scale * torch.cat(left, 1), torch.cat(right, 1)


def gaussian_member(first: Coordinates, train: Split, validation: Split) -> Member:
    """The Gaussian log-ratio in the canonical coordinates of `first`: directions from `train`, ρ from `validation`.

    On the pairs that directions were chosen on, they correlate more than they do.
    """
    directions = canonical(*(to(z) for to, z in zip(first, train)))
    coordinates = after(first, directions)
    a, b = (to(z) for to, z in zip(coordinates, validation))
    k = min(a.shape[1], b.shape[1])
    a, b = (z[:, :k] - z[:, :k].mean(0) for z in (a, b))
    norms = a.square().sum(0).sqrt() * b.square().sum(0).sqrt()
    return coordinates, GaussianLogRatio(((a * b).sum(0) / norms.clamp_min(1e-12)).clamp(0, _MOST))


class GaussianCritic(LearnedCritic):
    """L = held-out DV of Σ_k w_k T_k, T_k the Gaussian log-ratio of standardised pairs and of their normal scores

    A lower bound, unlike the Gaussian closed form, and equal to MI for Gaussians and for their coordinate-wise
    monotone transforms (Gaussian copulas). Nothing is trained by gradient: canonical directions and correlations are
    fitted, and two weights. Bias and variance are those of `LearnedCritic`. Source: ours; Gaussians as in Cover and
    Thomas, Elements of Information Theory, 8.5.
    """

    def train(self, train: Split, validation: Split) -> list[Member]:
        return [
            gaussian_member(tuple(fit(z) for z in train), train, validation) for fit in (standardize, normal_scores)
        ]

    def describe(self) -> str:
        weights = ", ".join(f"{w:.3g}" for w in self.weights[:2])
        return f"Gaussian log-ratios of standardised pairs and of normal scores, weights {weights}"


ESTIMATORS = {"gaussian_critic": GaussianCritic}
