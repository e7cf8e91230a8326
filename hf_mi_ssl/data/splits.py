"""Which images are trained on and which are held out: a split each, or a part of train that training never sees."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..counter import permutation
from ..errors import UserError
from .corpora import load_corpus
from .store import ImageReader, ImageStore, batch_indices, open_images, storage_size

_EVALUATION_SPLITS = ("validation", "valid", "val", "dev", "test")  # the first that exists, where none is named
_HELD_OUT = 0.1  # of train, where there is none


@dataclass
class Part:
    """Images of one split, and which of them are meant: all, or a part. `indices` has shape (n,), on the CPU;
    `label_names` are those of the data set, or None."""

    images: ImageStore | ImageReader
    indices: Tensor
    split: str
    label_names: list[str] | None = None

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def labels(self) -> Tensor | None:
        """(n,) int64, or None where the data set has no labels."""
        labels = self.images.labels
        return None if labels is None else labels[self.indices]

    def labelled(self) -> "Part":
        """Those that have a label; none where the data set has no labels."""
        labels = self.labels
        known = self.indices[labels >= 0] if labels is not None else self.indices[:0]
        return replace(self, indices=known)

    def sample(self, limit: int, seed: int) -> "Part":
        """At most `limit` of them, always the same ones."""
        if len(self) <= limit:
            return self
        chosen = permutation(len(self), "sample", seed)[:limit].sort().values
        return replace(self, indices=self.indices[chosen])

    def few_labels(self, fraction: float, seed: int) -> "Part":
        """That fraction of labelled images, class-balanced: n · fraction / C of each of the C classes, rounded, at
        least one, and a whole class where it has no more. What a smaller fraction chooses is part of a larger one.

        Raises `UserError` for a fraction that is not in (0, 1]."""
        if not 0 < fraction <= 1:
            raise UserError(f"cannot keep the fraction {fraction:g} of the labels; use one above 0 and at most 1")
        if fraction == 1:
            return self
        order = permutation(len(self), "few labels", seed)
        order = order[self.labels[order].argsort(stable=True)]  # by class and, within it, by chance
        labels = self.labels[order]
        place = torch.arange(len(self)) - torch.searchsorted(labels, labels)  # 0, 1, … within the class
        of_each = max(1, round(len(self) * fraction / len(labels.unique())))
        return replace(self, indices=self.indices[order[place < of_each].sort().values])


def open_train_and_held_out(
    *,
    dataset_name: str,
    train_split: str,
    eval_split: str | None,
    image_size: int,
    seed: int,
    device: torch.device,
    num_workers: int = 0,
    **source,
) -> tuple[Part, Part]:
    """The images to train on and those to evaluate on, decoded.

    `source` goes to `load_corpus`. Without `eval_split` the images held out are the validation or test split, or else
    a tenth of train, drawn by `seed`.

    Raises:
        UserError: as `load_corpus` and `ImageStore.build` do.
    """
    if eval_split == train_split:
        raise UserError(
            f"{train_split!r} cannot be both: what is held out must not be trained on; give an --eval_split"
        )
    train = load_corpus(dataset_name, split=train_split, **source)
    if eval_split is None:
        others = (split for split in _EVALUATION_SPLITS if split in train.available_splits and split != train_split)
        eval_split = next(others, None)
    size = storage_size(image_size)
    images = open_images(train, size, device, num_workers)
    if eval_split is None:
        kept, held = held_out(len(train), _HELD_OUT, seed)
        whole = Part(images, kept, train_split, train.label_names)
        return whole, replace(whole, indices=held, split=f"{train_split} (a tenth, held out)")
    held_corpus = load_corpus(dataset_name, split=eval_split, **source)
    held_images = open_images(held_corpus, size, device, num_workers)
    return (
        Part(images, torch.arange(len(train)), train_split, train.label_names),
        Part(held_images, torch.arange(len(held_corpus)), eval_split, held_corpus.label_names),
    )


def training_batches(
    train: Part, steps: Iterable[int], global_batch: int, seed: int, rank: int = 0, world: int = 1
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """For each number of a batch: its epoch, the indices of this process's images, (n,) on the CPU, and the images,
    uint8 (n, 3, S, S) on the device. A pure function of its arguments."""
    steps = list(steps)

    def chosen(step: int) -> Tensor:
        return train.indices[batch_indices(len(train), step, global_batch, seed, rank, world)[1]]

    per_epoch = len(train) // global_batch
    for step, (indices, images) in zip(steps, train.images.batches(map(chosen, steps))):
        yield step // per_epoch, indices, images


def held_out(n: int, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices to keep and indices to hold out of n, sorted int64, for data sets without a split to evaluate on.

    round(n · fraction) are held out, at least 1; a pure function of its arguments. Raises `UserError` if that leaves
    nothing to keep."""
    out = max(1, round(n * fraction))
    if not 0 < fraction < 1 or out >= n:
        raise UserError(f"cannot hold out the fraction {fraction} of {n} images; use a fraction between 0 and 1")
    order = permutation(n, "held out", seed)
    return order[out:].sort().values, order[:out].sort().values
