"""The interface of all data of the experiments: a law of two views, and their mutual information where it is known."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

INTEGRATED = 2**14  # draws for the integrals that have no formula: standard error about 0.005 nats


@dataclass(frozen=True)
class Views:
    """Row i of a and of b: two views of one thing. `factors` are what it was made of, int64 (n,) each."""

    a: Tensor
    b: Tensor
    factors: dict[str, Tensor]

    @property
    def labels(self) -> Tensor:
        return self.factors["content"]


@dataclass(frozen=True)
class Source:
    """A law of two views.

    Args:
        draw: n and a generator -> Views.
        truth: the mutual information of the views, in nats; nan where nobody knows it.
        towers: of the encoder.
        classes: how many values the label has.
        draw_held_out: as `draw`, of what is not trained on; by default the same law.
    """

    draw: Callable[[int, Generator], Views]
    truth: Callable[[], float]
    towers: list = field(default_factory=list)
    classes: int = 0
    draw_held_out: Callable[[int, Generator], Views] | None = None

    def held_out(self, n: int, generator: Generator) -> Views:
        return (self.draw_held_out or self.draw)(n, generator)


def seeded(*numbers: int) -> Generator:
    return torch.Generator().manual_seed(math.prod(numbers) + len(numbers))
