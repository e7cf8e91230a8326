"""Representations of clean images from a frozen encoder: computed once, then probed as often as one likes."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError


@contextmanager
def _evaluation_mode(encoder: Any) -> Iterator[None]:
    """Eval mode for a while. Each submodule gets its own mode back: part of an encoder may be frozen in eval mode."""
    modules = list(encoder.modules()) if isinstance(encoder, nn.Module) else []
    modes = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, mode in zip(modules, modes):
            module.training = mode


def extract(encoder: Callable[[Tensor], Any], batches: Iterable[Tensor]) -> Tensor:
    """h = encoder(x).pooler_output, (N, D), float32, on the CPU.

    `batches` are clean, normalised images (n, C, H, W); a module gets them on its own device, in eval mode. A plain
    function may return the representations themselves. Raises UserError when there are no images or no representation.
    """
    parameter = next(encoder.parameters(), None) if isinstance(encoder, nn.Module) else None
    parts = []
    with _evaluation_mode(encoder), torch.inference_mode():
        for x in batches:
            output = encoder(x if parameter is None else x.to(parameter.device))
            h = output if isinstance(output, Tensor) else getattr(output, "pooler_output", None)
            if h is None:
                raise UserError(f"{type(encoder).__name__} gives no pooler_output; choose an encoder that pools")
            parts.append(h.flatten(1).to("cpu", torch.float32))
    if not parts:
        raise UserError("there are no images to evaluate on; check the split's name")
    return torch.cat(parts)  # outside inference mode, so that what comes back is an ordinary tensor
