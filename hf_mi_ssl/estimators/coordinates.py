"""Coordinates for critics, fitted on training pairs only, in float64: MI is the same in all, learning is not."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]  # (n, D) -> (n, D), float64
Coordinates = tuple[Map, Map]  # of a and of b

_FAR = 4.0  # standard deviations: further out a log-ratio that is quadratic would rule the marginal term


def standardize(z: Tensor) -> Map:
    """(z − mean)/std of each dimension; dimensions that do not vary are silent."""
    z = z.double()
    mean, std = z.mean(0), z.std(0)
    return partial(_affine, mean=mean, matrix=torch.where(std > 1e-6 * (mean.abs() + std.max()), 1 / std, 0))


def normal_scores(z: Tensor) -> Map:
    """Φ⁻¹(rank/(n + 1)) of each dimension, the rank taken among the rows z: marginals become Gaussian."""
    return partial(_ranks, known=z.double().T.contiguous().sort(1).values)


def canonical(z_a: Tensor, z_b: Tensor, shrinkage: float = 1e-5) -> Coordinates:
    """Canonical coordinates of z_a (n, D) and z_b (n, E), which have one scale: white, correlated only k with k.

    Covariances are shrunk towards the identity. Coordinates are cut at four standard deviations.
    """
    means, whiteners = zip(*((z.mean(0), _whitener(z, shrinkage)) for z in (z_a, z_b)))
    white_a, white_b = ((z - m) @ w for z, m, w in zip((z_a, z_b), means, whiteners))
    left, _, right = torch.linalg.svd(white_a.T @ white_b / len(z_a))
    return tuple(
        partial(_cut, mean=m, matrix=w @ rotation) for m, w, rotation in zip(means, whiteners, (left, right.T))
    )


def after(first: Coordinates, second: Coordinates) -> Coordinates:
    """The coordinates `second` of the coordinates `first`."""
    return tuple(partial(_chain, first=f, second=s) for f, s in zip(first, second))


def _whitener(z: Tensor, shrinkage: float) -> Tensor:
    identity = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    values, vectors = torch.linalg.eigh((1 - shrinkage) * torch.cov(z.T).reshape_as(identity) + shrinkage * identity)
    return vectors * values.rsqrt()


def _affine(z: Tensor, mean: Tensor, matrix: Tensor) -> Tensor:
    z = z.double() - mean
    return z * matrix if matrix.ndim == 1 else z @ matrix


def _cut(z: Tensor, mean: Tensor, matrix: Tensor) -> Tensor:
    return _affine(z, mean, matrix).clamp(-_FAR, _FAR)


def _ranks(z: Tensor, known: Tensor) -> Tensor:
    z = z.double().T.contiguous()
    twice = torch.searchsorted(known, z) + torch.searchsorted(known, z, right=True)  # ties: the middle rank
    return torch.special.ndtri((twice.T.double() + 1) / (2 * known.shape[1] + 2))


def _chain(z: Tensor, first: Map, second: Map) -> Tensor:
    return second(first(z))
