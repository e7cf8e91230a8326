"""Coordinates for critics, fitted on training pairs only, in float64: MI is the same in all, learning is not."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]  # (n, D) -> (n, D), float64
Coordinates = tuple[Map, Map]  # of a and of b

_RANK = 1e-6  # directions whose variance is this small a part of the largest are rounding, not signal
_FAR = 4.0  # standard deviations: further out a log-ratio that is quadratic would rule the marginal term


def varying(z: Tensor) -> Tensor:
    """Which dimensions of z (n, D) vary by more than rounding: bool (D,)."""
    mean, std = z.double().mean(0), z.double().std(0)
    return std > 1e-6 * (mean.abs() + std.max())


def standardize(z: Tensor) -> Map:
    """(z − mean)/std of each dimension; dimensions that do not vary are silent."""
    z = z.double()
    return partial(_affine, mean=z.mean(0), matrix=torch.where(varying(z), 1 / z.std(0), 0))


def normal_scores(z: Tensor) -> Map:
    """Φ⁻¹(rank/(n + 1)) of each dimension, the rank taken among the rows z: marginals become Gaussian."""
    return partial(_ranks, known=z.T.contiguous().sort(1).values)


def whitener(z: Tensor) -> Map:
    """Uncorrelated coordinates of variance 1 that span what varies in z (n, D): (n, D) -> (n, rank)."""
    values, vectors = torch.linalg.eigh(torch.cov(z.T).reshape(z.shape[1], -1))
    kept = values > _RANK * values[-1]
    return partial(_affine, mean=z.mean(0), matrix=vectors[:, kept] * values[kept].rsqrt())


def leading(z: Tensor) -> Map:
    """The leading principal directions of z (n, D), n/20 of them at most, by subspace iteration; all where D is less.

    In more directions than that, correlations of n pairs are mostly chance.
    """
    most = max(1, len(z) // 20)
    if z.shape[1] <= most:
        return partial(_affine, mean=z.mean(0), matrix=torch.ones_like(z[0]))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        directions = torch.svd_lowrank((z - z.mean(0)).cpu(), most)[2].to(z)  # it draws where the tensor is
    return partial(_affine, mean=z.mean(0), matrix=directions)


def canonical(z_a: Tensor, z_b: Tensor) -> Coordinates:
    """Canonical coordinates of z_a (n, D) and z_b (n, E): white, correlated only k with k, and cut at four standard
    deviations."""
    few = [leading(z) for z in (z_a, z_b)]
    white = after(few, [whitener(to(z)) for to, z in zip(few, (z_a, z_b))])
    left, _, right = torch.linalg.svd(white[0](z_a).T @ white[1](z_b) / len(z_a))
    return tuple(partial(_turned, first=w, rotation=rotation) for w, rotation in zip(white, (left, right.T)))


def after(first: Coordinates, second: Coordinates) -> Coordinates:
    """The coordinates `second` of the coordinates `first`."""
    return tuple(partial(_chain, first=f, second=s) for f, s in zip(first, second))


def _affine(z: Tensor, mean: Tensor, matrix: Tensor) -> Tensor:
    z = z.double() - mean
    return z * matrix if matrix.ndim == 1 else z @ matrix


def _turned(z: Tensor, first: Map, rotation: Tensor) -> Tensor:
    return (first(z) @ rotation).clamp(-_FAR, _FAR)


def _ranks(z: Tensor, known: Tensor) -> Tensor:
    z, order = z.to(known.dtype).T.contiguous().sort(1)  # in order they are found three times as fast
    twice = torch.searchsorted(known, z) + torch.searchsorted(known, z, right=True)  # ties: the middle rank
    twice = torch.empty_like(twice).scatter_(1, order, twice)
    return torch.special.ndtri((twice.T.double() + 1) / (2 * known.shape[1] + 2))


def _chain(z: Tensor, first: Map, second: Map) -> Tensor:
    return second(first(z))
