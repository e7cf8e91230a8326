"""Samples of p(z_A, z_B), and what terms ask of them, computed when a term first asks."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .gram import squared_norm
from .streaming import log_sum_exp_rows, sum_of_powers

# A critic makes factors (N, F), (M, F) of a (N, D), b (M, D): T(a_i, b_j) is the inner product of row i and row j.
# It is symmetric, T(x, y) = T(y, x): terms that pair embeddings within a view count on it.
Critic = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def register(registry: dict[str, Callable], function: Callable, formula: str) -> Callable:
    """Add a critic or a term under its own name; returns it.

    Raises ValueError if its docstring does not begin with the formula, or if another module has taken the name.
    """
    name = function.__name__
    if not (function.__doc__ or "").startswith(formula):
        raise ValueError(f"the docstring of {name!r} must begin with its formula: '{formula}…'")
    if name in registry and registry[name].__module__ != function.__module__:
        raise ValueError(f"{name!r} exists already, in {registry[name].__module__}: choose another name")
    registry[name] = function
    return function


def off_diagonal(matrix: Tensor) -> Tensor:
    """The entries with i ≠ j of a square matrix: (N, N) -> (N, N − 1)."""
    n = len(matrix)
    return matrix.flatten()[1:].view(n - 1, n + 1)[:, :-1].reshape(n, n - 1)


@dataclass(frozen=True)
class Pairs:
    """Row i of (a, b) is one draw of the joint p(z_A, z_B); rows i ≠ j re-paired are draws of p(z_A) p(z_B).

    Every joint and marginal term is a function of this object.

    Args:
        a, b: embeddings (N, D), in float32 or wider.
        critic: T, whose scores are divided by `temperature`.
        negatives: (K, D), more draws of p(z_B): the queue, for rows that have one.
        draw: the number of this evaluation; a term that draws at random is a function of it.
    """

    a: Tensor
    b: Tensor
    critic: Critic
    temperature: float = 1.0
    negatives: Tensor | None = None
    draw: int = 0

    def factors(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """(N, F), (M, F) whose inner products are the scores T(x_i, y_j)/τ."""
        left, right = self.critic(x, y)
        return left / self.temperature, right

    @cached_property
    def both(self) -> tuple[Tensor, Tensor]:
        """The factors of a and of b."""
        return self.factors(self.a, self.b)

    @property
    def scores(self) -> Tensor:
        """T(a_i, b_j), shape (N, N): the diagonal samples the joint, the rest the product of the marginals."""
        left, right = self.both
        return left @ right.T

    @cached_property
    def positive_scores(self) -> Tensor:
        """T(a_i, b_i), shape (N,)."""
        left, right = self.both
        return (left * right).sum(1)

    @cached_property
    def log_means(self) -> Tensor:
        """log mean_{j≠i} exp T(a_i, b_j), shape (N,): the partition function of each row."""
        return self.log_means_of(self.a, self.b)

    def log_means_of(self, x: Tensor, y: Tensor, positives: bool = False) -> Tensor:
        """log mean_j exp T(x_i, y_j), j = i among them if `positives`, for x, y (N, D): (N,), memory linear in N."""
        left, right = self.both if x is self.a and y is self.b else self.factors(x, y)
        skip = () if positives else (0,)
        return log_sum_exp_rows(left, right, skip, symmetric=x is y) - math.log(len(y) - len(skip))

    def log_means_of_both(self, positives: bool) -> Tensor:
        """log mean exp T(z, z') for each of the 2N embeddings z of both views: (2N,), T symmetric.

        z' are the 2N − 1 others or, without `positives`, the 2N − 2 of other images.
        """
        n = len(self.a)
        (left_a, right_b), (left_b, right_a) = self.both, self.factors(self.b, self.a)
        left, right = torch.cat([left_a, left_b]), torch.cat([right_a, right_b])
        skip = (0,) if positives else (0, n)
        return log_sum_exp_rows(left, right, skip, symmetric=True) - math.log(2 * n - len(skip))

    @property
    def log_means_over_negatives(self) -> Tensor:
        """log mean_k exp T(a_i, negative_k), shape (N,)."""
        left, right = self.factors(self.a, self.negatives)
        return log_sum_exp_rows(left, right) - math.log(len(right))

    @cached_property
    def mean_negative_score(self) -> Tensor:
        """mean_{i≠j} T(a_i, b_j), a scalar."""
        left, right = self.both
        n = len(left)
        return (left.sum(0) @ right.sum(0) - self.positive_scores.sum()) / (n * (n - 1))

    @cached_property
    def negative_score_variance(self) -> Tensor:
        """var_{i≠j} T(a_i, b_j), a scalar: from second moments of the factors, at the smaller of N² and F²."""
        left, right = self.both
        n, mean_left, mean_right = len(left), left.mean(0), right.mean(0)
        left, right = left - mean_left, right - mean_right
        # T − mean is left·right + mean_left·right + left·mean_right + a constant, in centred factors uncorrelated.
        moments = squared_norm(left.T, right.T) / n**2
        moments = moments + (left @ mean_right).square().mean() + (right @ mean_left).square().mean()
        moments = moments + (mean_left @ mean_right - self.mean_negative_score).square()
        on_diagonal = (self.positive_scores - self.mean_negative_score).square().sum()
        return (n**2 * moments - on_diagonal) / (n * (n - 1))

    @property
    def third_central_moment(self) -> Tensor:
        """mean_{i≠j} (T(a_i, b_j) − mean)³, a scalar, in memory that is linear in N."""
        left, right = self.both
        n, mean = len(left), self.mean_negative_score
        on_diagonal = ((self.positive_scores - mean) ** 3).sum()
        return (sum_of_powers(left, right, mean, 3) - on_diagonal) / (n * (n - 1))

    @cached_property
    def centred(self) -> tuple[Tensor, Tensor]:
        """a and b less their means over the batch, (N, D)."""
        return self.a - self.a.mean(0), self.b - self.b.mean(0)

    @cached_property
    def standardized(self) -> tuple[Tensor, Tensor]:
        """a and b with mean 0 and variance 1 in each dimension, (N, D): batch norm, its 1e-5 included."""
        return tuple(z * torch.rsqrt(z.square().mean(0) + 1e-5) for z in self.centred)


def pooled_log_mean(*parts: tuple[Tensor, int]) -> Tensor:
    """The log of the mean over everything, from the log mean (N,) and the count of each part."""
    total = sum(count for _, count in parts)
    logs = torch.stack([log_mean + math.log(count / total) for log_mean, count in parts])
    return torch.logsumexp(logs, 0)


def log_mean_exp(x: Tensor, dim: int | tuple[int, ...] | None = None) -> Tensor:
    """log mean e^x over `dim` (all of it by default), stable for large x."""
    dim = tuple(range(x.ndim)) if dim is None else dim
    total = torch.logsumexp(x, dim)
    return total - math.log(x.numel() / total.numel())
