"""Which images are trained on and which are held out: a split each, or a part of train that training never sees."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError
from .bad import BadImages, StandIn
from .contents import contents
from .corpora import evaluation_split, load_corpus
from .order import batch_indices, held_out
from .parts import Part
from .placement import open_held_out, open_images, storage_size
from .readers import TIMEOUT
from .streamed import open_streamed

_HELD_OUT = 0.1  # of train, where there is none


def open_train_and_held_out(
    *,
    dataset_name: str,
    train_split: str,
    eval_split: str | None,
    image_size: int,
    seed: int,
    device: torch.device,
    num_workers: int = 0,
    timeout: float = TIMEOUT,
    placement: str = "auto",
    cache_dir: str | Path | None = None,
    on_bad_image: str = "skip",
    max_bad_fraction: float = 0.01,
    bad_list: Path | None = None,
    speaks: bool = True,
    streaming: bool = False,
    shuffle_buffer_size: int = 4096,
    memory_limit: int | None = None,
    **source,
) -> tuple[Part, Part]:
    """The images to train on and those to evaluate on, decoded.

    `source` goes to `load_corpus`, `placement`, `cache_dir` and `memory_limit` to `open_images`, and what is said of
    bad images to `BadImages`; `streaming` is described at `open_streamed`. Without `eval_split` the images held out
    are the validation or test split, or else a tenth of train, drawn by `seed`; bad ones are left out.

    Raises:
        UserError: as `load_corpus`, `open_images` and `BadImages.add` do.
    """
    if eval_split == train_split:
        raise UserError(
            f"{train_split!r} cannot be both: what is held out must not be trained on; give an --eval_split"
        )
    report = BadImages(on_bad_image, max_bad_fraction, bad_list, speaks)
    if streaming:
        return open_streamed(
            dataset_name=dataset_name, train_split=train_split, eval_split=eval_split, held_out=_HELD_OUT,
            image_size=image_size, seed=seed, device=torch.device(device), num_workers=num_workers, timeout=timeout,
            report=report, shuffle_buffer_size=shuffle_buffer_size, memory_limit=memory_limit, **source,
        )  # fmt: skip
    train = load_corpus(dataset_name, split=train_split, **source)
    eval_split = eval_split or evaluation_split(train.available_splits, train_split)
    size, how = storage_size(image_size), {"cache_dir": cache_dir, "timeout": timeout, "report": report}
    how |= {"placement": placement, "memory_limit": memory_limit}
    images = open_images(train, size, device, num_workers, **how)
    if eval_split is None:
        kept, held = held_out(len(train), _HELD_OUT, seed)
        held_images, held = open_held_out(train, images, held, seed, memory_limit)
        what = (train.label_names, report, contents(train), train.fingerprint)
        held_part = Part(held_images, held, f"{train_split} (a tenth, held out)", *what)
        return Part(images, kept, train_split, *what), held_part
    held_corpus = load_corpus(dataset_name, split=eval_split, **source)
    held_images = open_images(held_corpus, size, device, num_workers, **how)
    held_images, held = open_held_out(held_corpus, held_images, torch.arange(len(held_corpus)), seed, memory_limit)
    what, of_held = ((of.label_names, report, contents(of), of.fingerprint) for of in (train, held_corpus))
    return (
        Part(images, torch.arange(len(train)), train_split, *what),
        Part(held_images, held, eval_split, *of_held),
    )


def training_batches(
    train: Part, steps: Sequence[int], global_batch: int, seed: int, rank: int = 0, world: int = 1
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """For each number of a batch: its epoch, the indices of this process's images, (n,) on the CPU, and the images,
    uint8 (n, 3, S, S) on the device. A pure function of its arguments and, where others stand in for images that
    cannot be read, of the data. Of a stream they are the next batches, whatever their numbers,
    and keys of epoch and image take the place of indices."""
    if train.stream:  # the epoch is in its keys
        for _, (keys, images) in zip(steps, train.stream.batches(global_batch // world, rank, world)):
            yield 0, keys, images
        return

    def chosen(step: int) -> tuple[int, Tensor]:
        epoch, indices = batch_indices(len(train), step, global_batch, seed, rank, world)
        return epoch, train.indices[indices]

    per_epoch = len(train) // global_batch
    batches = train.images.batches(map(chosen, steps), StandIn(train.indices, seed))
    for step, (indices, images) in zip(steps, batches):
        yield step // per_epoch, indices, images
