"""Images through frozen modules, once: each process does a share, all get the whole."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from ..data import Part
from ..distributed import gather, num_processes, process_index


@torch.no_grad()
def map_images(
    function: Callable[[Tensor, Tensor], dict[str, Tensor]],
    part: Part,
    modules: Iterable[nn.Module],
    batch_size: int,
    before_each: Callable[[], None],
) -> dict[str, Tensor]:
    """`function(indices, images)` of the images of a part in their order, float32, on the CPU; `modules` are in eval
    mode meanwhile. `before_each` batch is called; what it raises ends the pass."""
    modes = [(inner, inner.training) for module in modules for inner in module.modules()]
    for module in modules:
        module.eval()
    n = len(part.indices)
    share = -(-n // num_processes())
    padded = torch.cat([part.indices, part.indices[:1].expand(share * num_processes() - n)])
    mine = padded[process_index() * share : (process_index() + 1) * share]
    batches = []
    try:
        for indices, images in part.images.batches(mine.split(batch_size)):
            before_each()
            batches.append(function(indices, images))
    finally:
        for inner, was_training in modes:
            inner.training = was_training
    return {name: gather(torch.cat([batch[name].float() for batch in batches]))[:n].cpu() for name in batches[0]}
