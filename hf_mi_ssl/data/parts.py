"""Images of a split, and which of them are meant."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..counter import permutation
from ..errors import UserError
from .bad import BadImages
from .readers import ImageReader
from .store import ImageStore
from .streams import ImageStream


@dataclass
class Part:
    """Images of one split, and which of them are meant: all, or a part. `indices` has shape (n,), on the CPU;
    `label_names` are those of the data set, or None; `report` knows the bad images of the data set; `contents` is a
    digest of its images, `fingerprint` that of `datasets`, or "" for a stream. Where a
    `stream` is trained on, `images` are a sample of it, to measure on."""

    images: ImageStore | ImageReader
    indices: Tensor
    split: str
    label_names: list[str] | None = None
    report: BadImages = field(default_factory=BadImages)
    contents: str = ""
    fingerprint: str = ""
    stream: ImageStream | None = None

    @property
    def num_images(self) -> int | None:
        """How many images an epoch of training has; None for a stream of unknown length."""
        return self.stream.num_images if self.stream else len(self)

    @property
    def where(self) -> str:
        """Where the pixels that are trained on are, in words."""
        return self.stream.where if self.stream else self.images.where

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
        return replace(self, indices=known, stream=None)

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
