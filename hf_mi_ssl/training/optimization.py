"""Optimisers from timm, and the schedules as pure functions of the step, so that there is no schedule to save."""

import math

import torch
from torch import nn

from ..errors import unknown
from .arguments import PretrainingArguments


def build_optimizer(model: nn.Module, args: PretrainingArguments) -> torch.optim.Optimizer:
    """An optimiser of timm over what learns in `model`. Norms and biases have no weight decay.

    The predictor's learning rate stays constant: it has to keep up with the embeddings (SimSiam, arXiv 2011.10566
    §4.2). Its groups carry `constant_learning_rate`.

    Raises:
        UserError: if timm has no optimiser of that name.
    """
    from timm.optim import create_optimizer_v2, list_optimizers

    known = list_optimizers()
    if args.optimizer.lower() not in known:
        raise unknown("optimizer", args.optimizer, known)
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            group = (name.startswith("predictor."), parameter.ndim > 1)
            groups.setdefault(group, []).append(parameter)
    return create_optimizer_v2(
        [
            {
                "params": parameters,
                "weight_decay": args.weight_decay if decays else 0.0,
                "constant_learning_rate": predictor,
            }
            for (predictor, decays), parameters in groups.items()
        ],
        opt=args.optimizer,
        lr=args.learning_rate,
        weight_decay=args.weight_decay,
        momentum=args.momentum,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float, factor: float) -> float:
    """Give every group `factor` × `learning_rate`, the constant ones `learning_rate`; returns the former."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * (1.0 if group.get("constant_learning_rate") else factor)
    return learning_rate * factor


def cosine_with_warmup(step: int, total_steps: int, warmup_steps: int) -> float:
    """The factor on the learning rate at `step` of 0 … total_steps − 1: linear warm-up, then a cosine to 0."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, total_steps - warmup_steps)))


def cosine_momentum(step: int, total_steps: int, initial: float) -> float:
    """The target's momentum: from `initial` to 1 along a cosine (BYOL, arXiv 2006.07733 §3.3)."""
    return 1 - (1 - initial) * 0.5 * (1 + math.cos(math.pi * step / total_steps))
