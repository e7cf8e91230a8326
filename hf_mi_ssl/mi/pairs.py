"""Samples of p(z_A, z_B), and the scores of all pairings, computed when a term first asks for them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

Critic = Callable[[Tensor, Tensor], Tensor]  # T: (N, D), (M, D) -> (N, M), the score of every pairing


def off_diagonal(matrix: Tensor) -> Tensor:
    """The entries with i ≠ j of a square matrix: (N, N) -> (N, N − 1)."""
    n = len(matrix)
    return matrix.flatten()[1:].view(n - 1, n + 1)[:, :-1].reshape(n, n - 1)


@dataclass(frozen=True)
class Pairs:
    """Row i of (a, b) is one draw of the joint p(z_A, z_B); rows i ≠ j re-paired are draws of p(z_A) p(z_B).

    `a` and `b` have shape (N, D), in float32 or wider. Every joint and marginal term is a function of this object.
    """

    a: Tensor
    b: Tensor
    critic: Critic

    @cached_property
    def scores(self) -> Tensor:
        """T(a_i, b_j), shape (N, N): the diagonal samples the joint, the rest the product of the marginals."""
        return self.critic(self.a, self.b)

    @property
    def positive_scores(self) -> Tensor:
        """T(a_i, b_i), shape (N,)."""
        return self.scores.diagonal()

    @cached_property
    def negative_scores(self) -> Tensor:
        """T(a_i, b_j) for i ≠ j, shape (N, N − 1)."""
        return off_diagonal(self.scores)

    @cached_property
    def within_view_scores(self) -> tuple[Tensor, Tensor]:
        """T(a_i, a_j) and T(b_i, b_j) for i ≠ j, two tensors of shape (N, N − 1)."""
        return off_diagonal(self.critic(self.a, self.a)), off_diagonal(self.critic(self.b, self.b))


def log_mean_exp(x: Tensor, dim: int | tuple[int, ...] | None = None) -> Tensor:
    """log mean e^x over `dim` (all of it by default), stable for large x."""
    dim = tuple(range(x.ndim)) if dim is None else dim
    total = torch.logsumexp(x, dim)
    return total - torch.log(torch.tensor(x.numel() / total.numel(), dtype=x.dtype, device=x.device))
