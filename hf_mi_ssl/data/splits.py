"""Which images are trained on and which are held out: a split each, or a part of train that training never sees."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from ..counter import permutation
from ..errors import UserError
from .bad import BadImages, StandIn
from .corpora import Corpus, load_corpus
from .order import batch_indices, held_out
from .placement import open_held_out, open_images, storage_size
from .readers import TIMEOUT, ImageReader
from .shapes import ShapesCorpus
from .store import ImageStore

_EVALUATION_SPLITS = ("validation", "valid", "val", "dev", "test")  # the first that exists, where none is named
_HELD_OUT = 0.1  # of train, where there is none


@dataclass
class Part:
    """Images of one split, and which of them are meant: all, or a part. `indices` has shape (n,), on the CPU;
    `label_names` are those of the data set, or None; `report` knows the bad images of the data set."""

    images: ImageStore | ImageReader
    indices: Tensor
    split: str
    label_names: list[str] | None = None
    report: BadImages = field(default_factory=BadImages)

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
    timeout: float = TIMEOUT,
    placement: str = "auto",
    cache_dir: str | Path | None = None,
    on_bad_image: str = "skip",
    max_bad_fraction: float = 0.01,
    bad_list: Path | None = None,
    **source,
) -> tuple[Part, Part]:
    """The images to train on and those to evaluate on, decoded.

    `source` goes to `load_corpus`, `placement` and `cache_dir` to `open_images`, and what is said of bad images to
    `BadImages`. Without `eval_split` the images held out are the validation or test split, or else a tenth of train,
    drawn by `seed`; bad ones are left out.

    Raises:
        UserError: as `load_corpus`, `open_images` and `BadImages.add` do.
    """
    if eval_split == train_split:
        raise UserError(
            f"{train_split!r} cannot be both: what is held out must not be trained on; give an --eval_split"
        )
    train = load_corpus(dataset_name, split=train_split, **source)
    eval_split = eval_split or evaluation_split(train)
    report = BadImages(on_bad_image, max_bad_fraction, bad_list)
    size, how = storage_size(image_size), {"cache_dir": cache_dir, "timeout": timeout, "report": report}
    images = open_images(train, size, device, num_workers, placement=placement, **how)
    if eval_split is None:
        kept, held = held_out(len(train), _HELD_OUT, seed)
        held_images, held = open_held_out(train, images, held, seed)
        held_part = Part(held_images, held, f"{train_split} (a tenth, held out)", train.label_names, report)
        return Part(images, kept, train_split, train.label_names, report), held_part
    held_corpus = load_corpus(dataset_name, split=eval_split, **source)
    held_images = open_images(held_corpus, size, device, num_workers, placement=placement, **how)
    held_images, held = open_held_out(held_corpus, held_images, torch.arange(len(held_corpus)), seed)
    return (
        Part(images, torch.arange(len(train)), train_split, train.label_names, report),
        Part(held_images, held, eval_split, held_corpus.label_names, report),
    )


def evaluation_split(train: Corpus | ShapesCorpus) -> str | None:
    """The split to evaluate on where none is named: validation or test, if there is one beside that of `train`."""
    others = (split for split in _EVALUATION_SPLITS if split in train.available_splits and split != train.split)
    return next(others, None)


def training_batches(
    train: Part, steps: Iterable[int], global_batch: int, seed: int, rank: int = 0, world: int = 1
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """For each number of a batch: its epoch, the indices of this process's images, (n,) on the CPU, and the images,
    uint8 (n, 3, S, S) on the device. A pure function of its arguments and, where others stand in for images that
    cannot be read, of the data."""
    steps = list(steps)

    def chosen(step: int) -> tuple[int, Tensor]:
        epoch, indices = batch_indices(len(train), step, global_batch, seed, rank, world)
        return epoch, train.indices[indices]

    per_epoch = len(train) // global_batch
    batches = train.images.batches(map(chosen, steps), StandIn(train.indices, seed))
    for step, (indices, images) in zip(steps, batches):
        yield step // per_epoch, indices, images
