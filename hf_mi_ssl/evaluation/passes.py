"""Images through frozen modules, once: each process does a share, all get the whole."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data import Part
from ..distributed import gather, num_processes, process_index
from ..errors import ExitCode, UserError


@torch.no_grad()
def map_images(
    function: Callable[[Tensor, Tensor], dict[str, Tensor]],
    part: Part,
    modules: Iterable[nn.Module],
    batch_size: int,
    before_each: Callable[[], None],
) -> tuple[dict[str, Tensor], Tensor]:
    """`function(indices, images)` of the images of a part in their order, float32, and the indices, on the CPU; images
    that cannot be read are left out. `modules` are in eval mode meanwhile. `before_each` batch is called, as
    often on every process; what it raises ends the pass.

    Raises:
        UserError: with exit code 1, if none of the images can be read.
    """
    share = -(-len(part) // num_processes())
    mine = part.indices[process_index() * share : (process_index() + 1) * share]
    some = mine if len(mine) else part.indices[:1]  # where the others have taken all, to be thrown away
    batches, calls = [], 0
    modes = [(inner, inner.training) for module in modules for inner in module.modules()]
    for module in modules:
        module.eval()
    try:
        for indices, images in part.images.batches(some.split(batch_size)):
            before_each()
            calls += 1
            batches.append((indices, function(indices, images)))
        for _ in range(calls, -(-share // batch_size)):
            before_each()
    finally:
        for inner, was_training in modes:
            inner.training = was_training
    if not batches:
        raise UserError(f"none of {len(some)} images of {part.split} can be read", exit_code=ExitCode.UNUSABLE)
    found = {name: torch.cat([batch[name].float() for _, batch in batches]) for name in batches[0][1]}
    device = next(iter(found.values())).device
    indices = torch.cat([i for i, _ in batches]).to(device)[: len(mine)]

    def whole(x: Tensor) -> Tensor:
        missing = share - len(indices)
        return gather(F.pad(x[: len(indices)], (0, 0) * (x.ndim - 1) + (0, missing)) if missing else x)

    good = whole(torch.ones(len(indices), device=device)) > 0
    pick = (lambda x: whole(x).cpu()) if good.all() else (lambda x: whole(x)[good].cpu())
    return {name: pick(x) for name, x in found.items()}, pick(indices)


def free_bytes(device: torch.device) -> int:
    """Of a GPU: what nobody holds, and what torch holds of it and does not use."""
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held
