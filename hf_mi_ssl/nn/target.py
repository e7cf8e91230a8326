"""The M-step: how the target branch g_ξ moves. JMI has none.

A target maps a view (`reset`: its online embedding) to its embedding (its scores, where there are prototypes), and
says in `phases` which steps a training step is made of: "E" ascends in θ with ξ fixed, "M" ascends in ξ with θ fixed.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class ResetTarget(nn.Identity):
    """ξ ← θ after every step: the target is the online branch, and the stop-gradient is all that sets it apart."""

    phases = ("E",)
    has_own_encoder = False

    def follow(self, online: Iterable[nn.Module], momentum: float) -> None:
        """Nothing to move."""


class GradientTarget(nn.Module):
    """ξ ascends L(sg f_θ, g_ξ) in a step of its own: two encoders that take turns (arXiv 2510.01345, §3.1)."""

    phases = ("E", "M")
    has_own_encoder = True

    def __init__(self, encoder: nn.Module, projector: nn.Module, prototypes: nn.Module | None = None):
        super().__init__()
        self.encoder = encoder
        self.projector = projector
        self.prototypes = prototypes

    def forward(self, view: Tensor) -> Tensor:
        z = self.projector(self.encoder(view).pooler_output.flatten(1))
        return z if self.prototypes is None else self.prototypes(z)

    def follow(self, online: Iterable[nn.Module], momentum: float) -> None:
        """Nothing to move: the M-step has done it."""

    @torch.no_grad()
    def copy_from(self, online: Iterable[nn.Module]) -> None:
        """ξ ← θ, buffers included: where a target that starts as the online branch begins."""
        for own, other in zip(self.children(), online, strict=True):
            own.load_state_dict(other.state_dict())


class EMATarget(GradientTarget):
    """ξ ← m ξ + (1 − m) θ after every step (MoCo arXiv 1911.05722 eq. 2, BYOL arXiv 2006.07733 eq. 1)."""

    phases = ("E",)

    @torch.no_grad()
    def follow(self, online: Iterable[nn.Module], momentum: float) -> None:
        for own, other in zip(self.children(), online, strict=True):
            torch._foreach_lerp_(list(own.parameters()), list(other.parameters()), 1 - momentum)
            for buffer, followed in zip(own.buffers(), other.buffers(), strict=True):
                buffer.copy_(followed)  # statistics and counters are copied: averaging an integer would lose it


TARGETS = {"reset": ResetTarget, "ema": EMATarget, "gradient": GradientTarget}
