"""The critics T(a, b): how strongly a and b claim to belong together. All of them are fixed: nothing in them learns.

A critic maps (N, D), (M, D) to the scores of all pairings, (N, M). The objective divides them by the temperature.
"""

import torch.nn.functional as F
from torch import Tensor

from .pairs import Critic


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """T(a, b) = aᵀb / (‖a‖ ‖b‖)"""
    return F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T


def bilinear(a: Tensor, b: Tensor) -> Tensor:
    """T(a, b) = aᵀb"""
    return a @ b.T


def negative_squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """T(a, b) = −½ ‖a − b‖²"""
    return a @ b.T - (a.square().sum(-1)[:, None] + b.square().sum(-1)[None, :]) / 2


def normalized_l2(a: Tensor, b: Tensor) -> Tensor:
    """T(a, b) = −½ ‖a/‖a‖ − b/‖b‖‖²  (= cosine − 1)"""
    return cosine(a, b) - 1


CRITICS: dict[str, Critic] = {
    critic.__name__: critic for critic in (cosine, bilinear, negative_squared_distance, normalized_l2)
}
