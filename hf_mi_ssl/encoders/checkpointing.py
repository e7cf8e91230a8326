"""Activations that are computed again in the backward pass instead of being kept: less memory, one more forward."""

from torch import nn
from transformers import PreTrainedModel

from ..errors import UserError


def checkpoint_activations(encoder: PreTrainedModel) -> None:
    """Keep only what enters each block of the encoder, in place; gradients stay what they are.

    Raises:
        UserError: for an encoder that does not offer it, or whose batch norms would count each batch twice.
    """
    flag, out = "--gradient_checkpointing", "leave it out, or take an encoder like dinov2_small or timm/convnext_tiny"
    if not encoder.supports_gradient_checkpointing:
        raise UserError(f"{flag}: {type(encoder).__name__} does not offer it; {out}")
    if any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in encoder.modules()):
        raise UserError(f"{flag}: the second forward would enter batch norm's running statistics again; {out}")
    # The second is its name until transformers 5.22
    enable = getattr(encoder, "activation_checkpointing_enable", None) or encoder.gradient_checkpointing_enable
    enable({"use_reentrant": False})
