"""Batch-norm statistics for models that have not been trained, so that they stand fairly beside those that have."""

import copy
from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PreTrainedModel

from ..distributed import GlobalBatchNorm, GroupBatchNorm
from ..errors import UserError

Branches = TypeVar("Branches", bound=dict[str, tuple[PreTrainedModel, nn.Module]])  # (encoder, projector) by name


@torch.no_grad()
def with_statistics(branches: Branches, batches: Iterable[Tensor]) -> Branches:
    """A copy of the branches in eval mode, the statistics of their batch norms the mean over `batches`, (n, 3, S, S).

    At initialisation they are 0 and 1, which no image has. Every process has to be given the same whole batches, and
    all arrive at the same. Only batch norms are in train mode: nothing is drawn at random. Images beyond the last
    whole group of group batch norm are left out; fewer images than a group are one group.
    """
    branches = copy.deepcopy(branches)
    modules = [module for branch in branches.values() for half in branch for module in half.eval().modules()]
    layers = [module for module in modules if isinstance(module, _BatchNorm) and module.track_running_stats]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a cumulative mean
        layer.train()
        if isinstance(layer, GlobalBatchNorm):
            layer.alone = True
    grouped = [layer for layer in layers if isinstance(layer, GroupBatchNorm)]
    largest, seen = max((layer.group_size for layer in grouped), default=1), 0
    for batch in batches if layers else ():
        group = min(largest, len(batch))
        batch = batch[: len(batch) // group * group]
        seen += len(batch)
        for layer in grouped:
            layer.group_size = min(layer.group_size, group)
        for encoder, projector in branches.values():
            projector(encoder(batch).pooler_output.flatten(1))
    if layers and not seen:
        raise UserError("none of the training images that batch norms take their statistics from can be read", 1)
    for layer in layers:
        layer.eval()
    return branches
