"""Squares of uint8 pixels by index, decoded once: decoding costs a hundred times what fetching costs."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from .bad import BadImages, BadRow, StandIn
from .corpora import Corpus
from .readers import TIMEOUT, Squares, ahead, in_workers
from .shapes import ShapesCorpus

_CHUNK = 256  # images that a worker decodes at once


class ImageStore:
    """Images decoded once: `images` uint8 (m, 3, size, size), on the device or on the CPU.

    `rows` are their numbers in the corpus, sorted int64 (m,), or None if they are all of it; `labels` are those of the
    whole corpus; `bad` are the numbers of images whose pixels could not be decoded.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor | None,
        device: torch.device | str,
        rows: Tensor | None = None,
        bad: Iterable[int] = (),
    ):
        self.images, self.labels, self.rows, self.bad = images, labels, rows, frozenset(bad)
        self.device = torch.device(device)
        self.size = images.shape[-1]

    @classmethod
    def build(
        cls,
        corpus: Corpus | ShapesCorpus,
        size: int,
        device: torch.device | str = "cpu",
        num_workers: int = 0,
        timeout: float = TIMEOUT,
        report: BadImages | None = None,
        rows: Tensor | None = None,
    ) -> "ImageStore":
        """Decode the corpus, or its `rows`, into memory, in `num_workers` processes (0: in this one), under a progress
        bar. Raises `UserError` (exit code 1) where `report` does, and for a worker that dies or hangs."""
        chosen = torch.arange(len(corpus)) if rows is None else rows
        found: list[BadRow] = []
        images = torch.empty(len(chosen), 3, size, size, dtype=torch.uint8)
        start = 0
        for chunk in decoded(corpus, size, chosen, num_workers, timeout, report or BadImages(), found):
            images[start : start + len(chunk)] = chunk
            start += len(chunk)
        return cls(images, corpus.labels, device, rows, [row.row for row in found])

    @property
    def where(self) -> str:
        """Where the pixels are, in words."""
        return f"decoded once, {'in memory' if self.images.device.type == 'cpu' else f'on {self.images.device}'}"

    def __len__(self) -> int:
        return len(self.images)

    def on_device(self) -> "ImageStore":
        """The same, its pixels on the device."""
        return ImageStore(self.images.to(self.device), self.labels, self.device, self.rows, self.bad)

    def fetch(self, indices: Tensor) -> Tensor:
        """The images `indices` (n,): uint8 (n, 3, size, size) on the device."""
        return self._pixels(indices).to(self.device)

    def _pixels(self, indices: Tensor) -> Tensor:
        places = indices if self.rows is None else torch.searchsorted(self.rows, indices)
        return self.images[places.to(self.images.device, non_blocking=True)]  # else the host waits for the step

    def _if_good(self, row: int) -> int | None:
        return None if row in self.bad else row

    def batches(self, orders: Iterable, stand_in: StandIn | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """For each tensor of indices (n,) in `orders`: the indices, and their images, on the device, without the bad
        ones. With `stand_in`, `orders` are pairs of an epoch and indices, and other images stand in for bad ones."""
        chosen = self._chosen(orders, stand_in)
        fetched = ((indices, self._pixels(indices)) for indices in chosen if len(indices))
        return ahead(fetched, self.device) if self.images.device.type == "cpu" else fetched

    def _chosen(self, orders: Iterable, stand_in: StandIn | None) -> Iterator[Tensor]:
        for order in orders:
            epoch, indices = order if stand_in else (None, order)
            places = [i for i, index in enumerate(indices.tolist()) if index in self.bad] if self.bad else []
            if places and stand_in:
                indices = indices.clone()
                for i in places:
                    indices[i], _ = stand_in.first(epoch, int(indices[i]), self._if_good)
            elif places:
                keep = torch.ones(len(indices), dtype=torch.bool)
                keep[places] = False
                indices = indices[keep]
            yield indices


def decoded(
    corpus: Corpus | ShapesCorpus,
    size: int,
    rows: Tensor,
    num_workers: int,
    timeout: float,
    report: BadImages,
    found: list[BadRow],
) -> Iterator[Tensor]:
    """Chunk by chunk the squares of `rows`, in their order; those that are bad are 0, and noted."""
    chunks = rows.split(_CHUNK)
    orders = ((None, chunk) for chunk in chunks)
    with tqdm(total=len(rows), desc=f"decoding {corpus.split}", unit="img", disable=None) as bar:
        for chunk, batch in zip(chunks, in_workers(Squares(corpus, size), orders, num_workers, timeout)):
            found += batch.bad
            report.add(corpus.split, batch.bad, len(corpus))
            squares = torch.zeros(len(chunk), 3, size, size, dtype=torch.uint8)
            squares[torch.isin(chunk, batch.indices)] = batch.images
            yield squares
            bar.update(len(chunk))
