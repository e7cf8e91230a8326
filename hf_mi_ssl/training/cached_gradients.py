"""Forward and backward of −L, in one piece or, for batches larger than what fits, in parts by cached gradients."""

import contextlib

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..counter import bits
from ..modeling_base import MIPreTrainingOutput, MISSLForPreTraining

Views = tuple  # view_a, view_b and, where there are, a list of local views


def forward_backward(
    accelerator: Accelerator, network: nn.Module, views: Views, part_size: int, phase: str = "E"
) -> MIPreTrainingOutput:
    """The output of `network(*views)`, and its gradients in `.grad`; `part_size` images at a time.

    With more images than that (GradCache, arXiv 2101.06983) a first pass without graph embeds the parts, the loss of
    all of them gives the gradient of each embedding, and a second pass carries these on through the parts in turn.
    Equal to the plain large batch in loss and gradient where no image sees another before the loss: without batch
    norm, or with `batch_norm_group_size` dividing `part_size` (and no `target_shuffle`). Other batch norm takes its
    statistics from a part.
    """
    parts = _split(views, part_size)
    if len(parts) == 1:
        outputs = network(*views, phase=phase)
        accelerator.backward(outputs.loss)
        return outputs
    model: MISSLForPreTraining = accelerator.unwrap_model(network, keep_torch_compile=False)
    seed = torch.initial_seed() & 0x7FFF_FFFF
    untouched = [buffer.clone() for buffer in model.buffers()]
    found = []
    for number, part in enumerate(parts):
        _draw_from(seed, number)
        with torch.no_grad(), accelerator.autocast():
            found.append(model.sides(*part, phase=phase))
    for buffer, before in zip(model.buffers(), untouched, strict=True):
        buffer.copy_(before)  # the second pass updates the running statistics

    left, right = (_join(sides) for sides in zip(*found, strict=True))
    outputs = model.compare(left, right, phase)
    outputs.loss.backward()  # as far as the embeddings, and without the scaling that the second pass brings
    gradients = [_split_gradients(side, part_size) for side in (left, right)]

    for number, part in enumerate(parts):
        _draw_from(seed, number)
        pull = tuple(side[number] for side in gradients)
        last = number == len(parts) - 1
        with contextlib.nullcontext() if last else accelerator.no_sync(network):
            accelerator.backward(network(*part, phase=phase, pull=pull).loss)
    return outputs


def _split(views: Views, size: int) -> list[Views]:
    """The views of `size` images after another."""
    view_a, view_b, *local = views
    halves = [view_a.split(size), view_b.split(size)]
    if not local:
        return list(zip(*halves, strict=True))
    return list(zip(*halves, zip(*(view.split(size) for view in local[0]), strict=True), strict=True))


def _join(sides: tuple[dict[str, Tensor], ...]) -> dict[str, Tensor]:
    """The embeddings of all parts as leaves of a graph of their own."""
    joined = {name: torch.cat([side[name] for side in sides]) for name in sides[0]}
    return {name: (z if z.dtype == torch.float64 else z.float()).requires_grad_() for name, z in joined.items()}


def _split_gradients(side: dict[str, Tensor], size: int) -> list[dict[str, Tensor]]:
    """For each part, the gradients of the embeddings that have one."""
    split = {name: z.grad.split(size) for name, z in side.items() if z.grad is not None}
    parts = -(-len(next(iter(side.values()))) // size)
    return [{name: gradients[number] for name, gradients in split.items()} for number in range(parts)]


def _draw_from(seed: int, part: int) -> None:
    """Dropout and its like draw the same in both passes."""
    torch.manual_seed(int(bits("part", seed, part)) & 0x7FFF_FFFF)
