"""What a prediction is compared with, made of the target embeddings of the global batch: themselves, an assignment to
prototypes, or their nearest neighbours in the queue.

An assignment maps targets (N, D) to what takes their place, and `observe` lets it learn from them after the loss.
"""

import torch
from torch import Tensor, nn

from .queue import Queue

_CENTRE_MOMENTUM = 0.9
_SINKHORN_ITERATIONS = 3


class Centering(nn.Module):
    """t -> softmax((t − c)/τ), c the running mean of t: centring and sharpening (DINO, arXiv 2104.14294 §3.1, eq. 4).

    Centring alone would drive the assignments to the uniform one, sharpening alone to a single prototype.
    """

    def __init__(self, temperature: float, num_prototypes: int):
        super().__init__()
        self.temperature = temperature
        self.register_buffer("centre", torch.zeros(num_prototypes))

    def forward(self, scores: Tensor) -> Tensor:
        return ((scores - self.centre) / self.temperature).softmax(1)

    @torch.no_grad()
    def observe(self, *scores: Tensor) -> None:
        mean = torch.cat(scores).mean(0).to(self.centre.dtype)
        self.centre.lerp_(mean, 1 - _CENTRE_MOMENTUM)


class Sinkhorn(nn.Module):
    """t -> codes: exp(t/ε), its columns and rows scaled in turn until each prototype has as many images (SwAV, arXiv
    2006.09882 §3.1, eq. 3–5). The entropy of the assignments is then log K, as large as it can be."""

    def __init__(self, temperature: float):
        super().__init__()
        self.temperature = temperature

    def forward(self, scores: Tensor) -> Tensor:
        log_codes = scores / self.temperature  # scaling is subtraction: nothing overflows at any ε
        for _ in range(_SINKHORN_ITERATIONS):
            log_codes = log_codes.log_softmax(0)
            log_codes = log_codes.log_softmax(1)
        return log_codes.exp()

    def observe(self, *scores: Tensor) -> None:
        """Nothing to learn: the codes are those of the batch."""


class NoAssignment(nn.Identity):
    """t -> t."""

    def observe(self, *t: Tensor) -> None:
        """Nothing to learn."""


class NearestNeighbor(NoAssignment):
    """t -> its nearest neighbour in the queue (NNCLR, arXiv 2104.14548, eq. 2)."""

    def __init__(self, queue: Queue):
        super().__init__()
        self.nearest = queue.nearest  # not the module: its buffers are the model's

    def forward(self, t: Tensor) -> Tensor:
        return self.nearest(t)


def build_assignment(name: str, temperature: float, num_prototypes: int | None, queue: Queue | None) -> nn.Module:
    """The assignment of that name."""
    return {
        "none": NoAssignment,
        "centering": lambda: Centering(temperature, num_prototypes),
        "sinkhorn": lambda: Sinkhorn(temperature),
        "nearest_neighbor": lambda: NearestNeighbor(queue),
    }[name]()
