"""Squares of uint8 pixels by index: the whole corpus decoded once, or decoded per batch where memory does not suffice.

Decoding costs a hundred times what fetching costs, so a corpus that fits is decoded once and kept on the device. Which
images a step sees is a pure function of (seed, step, rank): no iterator has a state to save, to skip or to lose.
"""

import functools
import logging
import os
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from .. import counter
from ..errors import UserError
from .corpora import Corpus
from .shapes import ShapesCorpus

logger = logging.getLogger(__name__)
_CHUNK = 256  # images that a worker decodes at once while a store is built


class _Squares(Dataset):
    """What a worker does with a batch of indices: (indices, their squares), or the error, for the parent to raise.

    (DataLoader would wrap a raised error into one whose text is a traceback.)"""

    def __init__(self, corpus: Corpus | ShapesCorpus, size: int):
        self.corpus = corpus
        self.size = size

    def __getitems__(self, indices: list[int] | Tensor) -> tuple[Tensor, Tensor] | UserError:
        indices = torch.as_tensor(indices)
        try:
            return indices, self.corpus.squares(indices, self.size)
        except UserError as error:
            return error


def _as_it_is(batch: object) -> object:
    return batch


def _decoded(
    corpus: Corpus | ShapesCorpus, size: int, orders: Iterable[Tensor], num_workers: int, pin_memory: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    loader = DataLoader(
        _Squares(corpus, size),
        batch_sampler=orders,
        num_workers=num_workers,
        collate_fn=_as_it_is,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # or it would draw its workers' seeds from the ambient generator
    )
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        yield batch


class ImageStore:
    """A corpus decoded once: `images` uint8 (N, 3, size, size), on the device if they fit there, else on the CPU."""

    def __init__(self, images: Tensor, labels: Tensor | None, device: torch.device | str):
        self.images = images
        self.labels = labels
        self.device = torch.device(device)
        self.size = images.shape[-1]

    @classmethod
    def build(
        cls, corpus: Corpus | ShapesCorpus, size: int, device: torch.device | str = "cpu", num_workers: int = 0
    ) -> "ImageStore":
        """Decode the corpus in `num_workers` processes (0: in this one), under a progress bar.

        Raises `UserError` (exit code 1) naming the first image that cannot be decoded."""
        images = torch.empty(len(corpus), 3, size, size, dtype=torch.uint8)
        chunks = list(torch.arange(len(corpus)).split(_CHUNK))
        with tqdm(total=len(corpus), desc=f"decoding {corpus.split}", unit="img", disable=None) as bar:
            for indices, squares in _decoded(corpus, size, chunks, num_workers):
                images[indices] = squares
                bar.update(len(indices))
        if images.nbytes <= _memory_limit(torch.device(device)):
            images = images.to(device)
        return cls(images, corpus.labels, device)

    def __len__(self) -> int:
        return len(self.images)

    def fetch(self, indices: Tensor) -> Tensor:
        """The images `indices` (n,): uint8 (n, 3, size, size) on the device."""
        return self.images[indices.to(self.images.device)].to(self.device)

    def batches(self, orders: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """For each tensor of indices (n,) in `orders`: the indices, as given, and their images, on the device."""
        for indices in orders:
            yield indices, self.fetch(indices)


class ImageReader:
    """A corpus decoded batch by batch, ahead of time in `num_workers` processes: the interface of `ImageStore`."""

    def __init__(
        self, corpus: Corpus | ShapesCorpus, size: int, device: torch.device | str = "cpu", num_workers: int = 0
    ):
        self.corpus = corpus
        self.labels = corpus.labels
        self.device = torch.device(device)
        self.size = size
        self.num_workers = num_workers

    def __len__(self) -> int:
        return len(self.corpus)

    def fetch(self, indices: Tensor) -> Tensor:
        """The images `indices` (n,): uint8 (n, 3, size, size) on the device. Raises `UserError` as `build` does."""
        return self.corpus.squares(indices.cpu(), self.size).to(self.device)

    def batches(self, orders: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """For each tensor of indices (n,) in `orders`: the indices, as given, and their images, on the device.

        `orders` may be endless; it is read a few batches ahead. Raises `UserError` as `ImageStore.build` does."""
        cuda = self.device.type == "cuda"
        for indices, images in _decoded(self.corpus, self.size, orders, self.num_workers, pin_memory=cuda):
            yield indices, images.to(self.device, non_blocking=cuda)


def _memory_limit(device: torch.device) -> int:
    """Half of the bytes that are free on the device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    try:
        import psutil

        return psutil.virtual_memory().available // 2
    except ImportError:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def open_images(
    corpus: Corpus | ShapesCorpus,
    size: int,
    device: torch.device | str = "cpu",
    num_workers: int = 0,
    memory_limit: int | None = None,
) -> ImageStore | ImageReader:
    """The corpus as a store if its pixels take at most `memory_limit` bytes (half of what is free), else a reader."""
    limit = _memory_limit(torch.device("cpu")) if memory_limit is None else memory_limit
    needed = len(corpus) * 3 * size * size
    kind = ImageStore.build if needed <= limit else ImageReader
    choice = "decoding once into memory" if needed <= limit else "decoding per batch"
    logger.info(
        "%s/%s: %.2f GB of pixels, limit %.2f GB: %s", corpus.name, corpus.split, needed / 1e9, limit / 1e9, choice
    )
    return kind(corpus, size, device, num_workers)


def storage_size(image_size: int) -> int:
    """The side in pixels at which to keep images whose views have side `image_size`: 8/7 of it (256 for 224) above 96
    pixels, as is customary, and itself for small images, whose pixels are few enough already."""
    return image_size if image_size <= 96 else round(image_size * 8 / 7)


@functools.lru_cache(maxsize=2)  # a permutation serves all the steps of its epoch
def _order(n: int, seed: int, epoch: int) -> Tensor:
    return counter.permutation(n, "epoch order", seed, epoch)


def epoch_order(n: int, seed: int, epoch: int) -> Tensor:
    """The order of an epoch over n images: a permutation, int64 (n,), a pure function of its arguments."""
    return _order(n, seed, epoch).clone()


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
