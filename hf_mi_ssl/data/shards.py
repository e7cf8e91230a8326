"""Shards of a data set that is read as a stream: their rows, one after the other, and which of them are held out."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..counter import uniform
from ..errors import UserError, first_line

_FEW_SHARDS = 256  # with fewer, parquet files are split at their row groups
ROW_BITS = 40  # of an index; the others are the number of the shard

Rows = Any  # datasets.IterableDataset, which is imported where it is used


def next_row(source: Iterator[dict], split: str, shard: int) -> dict | None:
    """The next row of a shard, None after the last; a shard that cannot be read is a `UserError`."""
    try:
        return next(source, None)
    except Exception as error:  # readers of many formats raise many types
        reason = first_line(error)
        raise UserError(
            f"cannot read shard {shard} of {split!r}: {reason}; mend it, and resume", exit_code=1
        ) from error


def shards_of(rows: Rows) -> Rows:
    """The same rows; where there are few shards, parquet is split at its row groups. A function of the data alone."""
    rows = rows.decode(False)
    return rows.reshard() if rows.num_shards < _FEW_SHARDS else rows


def is_held_out(indices: Tensor, fraction: float, seed: int) -> Tensor:
    """Which images of a stream, (n,), are not trained on: that fraction of them, by seed and index alone."""
    return uniform("held out of a stream", seed, indices) < fraction


def refuse_fewer_than(n: int, rows: Rows, split: str, held_out: float, seed: int) -> None:
    """Raises `UserError` if there are fewer rows to train on than that; reads until it has found so many."""
    found = 0
    for shard in range(rows.num_shards):
        source = rows.shard(rows.num_shards, shard).iter(1)
        here = sum(1 for _ in iter(lambda: next_row(source, split, shard), None))  # noqa: B023
        held = is_held_out(shard << ROW_BITS | torch.arange(here), held_out, seed)
        found += here - int(held.sum())
        if found >= n:
            return
    raise UserError(
        f"{split!r} holds {found} images to train on, fewer than a batch of {n}: lower --per_device_train_batch_size "
        f"or --contrast_batch_size", exit_code=1,
    )  # fmt: skip
