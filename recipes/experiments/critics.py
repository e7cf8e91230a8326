"""Critics of the experiments, beside those of the package: importing this registers them."""

import torch
from torch import Tensor, nn

from hf_mi_ssl.mi import CRITICS
from hf_mi_ssl.mi.critics import _whiten, cosine, critic


@critic
def white_target(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """T(a, b) = −½ ‖a − W(b − μ)‖², W Σ_B Wᵀ = I

    The mean of it over positive pairs is, up to a constant, the second-order bound of the critic aᵀW(b − μ): the
    regression of a predictor on a white target. Not symmetric: for `expected_score` alone.
    """
    return CRITICS["negative_squared_distance"](a, _whiten(b))


@critic
def white_target_of_any_scale(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """T(a, b) = −½ ‖a − W(c b − μ)‖², W Σ_cB Wᵀ = I, c: tr Σ_cB = D

    `white_target` without its way out: its covariance is shrunk towards the identity by 1e-3, so that targets which
    shrink far below that are not white any more.
    """
    return white_target(a, b * (b.shape[1] / b.var(0, correction=0).sum()).sqrt())


@critic
def exactly_white_target(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """T(a, b) = −½ ‖a − W(b − μ)‖², W Σ_B Wᵀ = I, in float64 and without shrinkage: white at any scale and rank"""
    return CRITICS["negative_squared_distance"](a, _whiten(b.double(), 0.0).to(b.dtype))


@critic
def cosine_2(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """T(a, b) = cos 2∠(a, b)

    2 cos² − 1: opposite embeddings agree, so that there is a spurious maximum.
    """
    return _chebyshev(a, b, 2)


@critic
def cosine_3(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """T(a, b) = cos 3∠(a, b)

    4 cos³ − 3 cos: spurious maxima at a third of a turn.
    """
    return _chebyshev(a, b, 3)


def _chebyshev(a: Tensor, b: Tensor, k: int) -> tuple[Tensor, Tensor]:
    x, y = cosine(a, b)
    squares = [torch.einsum("ni,nj->nij", z, z).flatten(1) for z in (x, y)]
    if k == 2:
        one = x.new_ones(len(x), 1), y.new_ones(len(y), 1)
        return torch.cat([2 * squares[0], -one[0]], 1), torch.cat([squares[1], one[1]], 1)
    cubes = [torch.einsum("ni,nj->nij", square, z).flatten(1) for square, z in zip(squares, (x, y))]
    return torch.cat([4 * cubes[0], -3 * x], 1), torch.cat([cubes[1], y], 1)


@critic
def absolute_cosine(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """T(a, b) = |cos ∠(a, b)|

    Opposite embeddings agree, and between them there is a kink. It has no factors: they are all scores and 1.
    """
    left, right = cosine(a, b)
    return (left @ right.T).abs(), torch.eye(len(b), dtype=b.dtype)


class LearnedCritic(nn.Module):
    """T(a, b) = vᵀ relu(A a/‖a‖ + B b/‖b‖ + c), learned; its factors are all scores and 1, as in `absolute_cosine`."""

    def __init__(self, size: int, seed: int, hidden: int = 16):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.a, self.b, self.out = (
                nn.Linear(size, hidden),
                nn.Linear(size, hidden, bias=False),
                nn.Linear(hidden, 1),
            )

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        a, b = cosine(a, b)
        scores = self.out((self.a(a)[:, None] + self.b(b)[None]).relu()).squeeze(2)
        return scores, torch.eye(len(b), dtype=b.dtype)
