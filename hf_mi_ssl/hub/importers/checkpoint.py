"""Checkpoints of others as plain tensors: the one place that reads pickled files, and only tensors of them."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ...errors import UserError

# What training scripts put the weights under, and what wraps a model for several processes or a compiler.
_INSIDE = ("state_dict", "model", "model_state_dict")
_WRAPPERS = ("module.", "_orig_mod.")


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """{name: tensor} of a `.safetensors` file or one of `torch.save`, without the wrappers that all names share.

    Raises:
        UserError: if there is no such file, it holds more than tensors and plain values, or no weights at all.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no file {str(path)!r}: give the checkpoint to import")
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise every kind
        reason = _reason(error)
        if "weights_only" in str(error):
            raise UserError(
                f"{path.name} is no checkpoint, or holds more than weights, which could run code when read ({reason}):"
                f" where you trust it, save its state_dict by itself and import that"
            ) from error
        raise UserError(f"{path.name} cannot be read as a checkpoint: {reason}") from error
    weights = _weights(content)
    if not weights:
        raise UserError(f"{path.name} holds no weights: neither by itself nor under {', '.join(_INSIDE)}")
    for wrapper in _WRAPPERS:
        if all(name.startswith(wrapper) for name in weights):
            weights = {name.removeprefix(wrapper): tensor for name, tensor in weights.items()}
    return weights


def _weights(content: object) -> dict[str, Tensor]:
    if not isinstance(content, dict):
        return {}
    for key in _INSIDE:
        if isinstance(content.get(key), dict):
            return _weights(content[key])
    return {str(name): tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}


def _reason(error: Exception) -> str:
    """The line that names what was refused, else the first one: torch's errors run over paragraphs."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return next((line for line in lines if "Unsupported" in line), lines[0])[:160]
