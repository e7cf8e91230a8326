"""Which images a step sees: a pure function of (seed, step, rank). No iterator has a state to save, skip or lose."""

import functools

from torch import Tensor

from ..counter import permutation
from ..errors import UserError


@functools.lru_cache(maxsize=2)  # a permutation serves all the steps of its epoch
def _order(n: int, seed: int, epoch: int) -> Tensor:
    return permutation(n, "epoch order", seed, epoch)


def batch_indices(
    n: int, step: int, global_batch: int, seed: int, rank: int = 0, world: int = 1
) -> tuple[int, Tensor]:
    """The epoch that step 0, 1, … falls into, and the indices, int64 (global_batch / world,), that `rank` sees in it.

    A pure function of its arguments. An epoch has n // global_batch steps, and its remainder is dropped; the ranks
    take contiguous slices of the global batch. Raises `UserError` for a global batch that is larger than n or that the
    ranks do not divide."""
    if global_batch > n:
        raise UserError(
            f"the global batch of {global_batch} images is larger than the {n} images of the data set; "
            "lower --per_device_train_batch_size"
        )
    if global_batch % world:
        raise UserError(f"the global batch of {global_batch} is not divisible by {world} processes; choose a multiple")
    epoch, position = divmod(step, n // global_batch)
    local = global_batch // world
    start = position * global_batch + rank * local
    return epoch, _order(n, seed, epoch)[start : start + local].clone()


def held_out(n: int, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices to keep and indices to hold out of n, sorted int64, for data sets without a split to evaluate on.

    round(n · fraction) are held out, at least 1; a pure function of its arguments. Raises `UserError` if that leaves
    nothing to keep."""
    out = max(1, round(n * fraction))
    if not 0 < fraction < 1 or out >= n:
        raise UserError(f"cannot hold out the fraction {fraction} of {n} images; use a fraction between 0 and 1")
    order = permutation(n, "held out", seed)
    return order[out:].sort().values, order[:out].sort().values
