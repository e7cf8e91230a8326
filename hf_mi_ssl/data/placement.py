"""Where the pixels of a corpus are kept: on the accelerator, in memory, or nowhere, decoded batch by batch."""

import logging
import os
from pathlib import Path

import torch
from torch import Tensor

from ..counter import permutation
from ..errors import UserError
from .bad import BadImages
from .corpora import Corpus
from .pixel_file import open_file
from .readers import TIMEOUT, ImageReader
from .shapes import ShapesCorpus
from .store import ImageStore

logger = logging.getLogger(__name__)


def room_for_pixels(device: torch.device) -> int:
    """The bytes that pixels may take on a device: half of what is free on an accelerator, and of all the memory of the
    machine. What is free there at a moment is another number in each process, and in a run that is resumed."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def storage_size(image_size: int) -> int:
    """The side in pixels at which to keep images whose views have side `image_size`: 8/7 of it (256 for 224) above 96
    pixels, as is customary, and itself for small images, whose pixels are few enough already."""
    return image_size if image_size <= 96 else round(image_size * 8 / 7)


def open_images(
    corpus: Corpus | ShapesCorpus,
    size: int,
    device: torch.device | str = "cpu",
    num_workers: int = 0,
    *,
    placement: str = "auto",
    cache_dir: str | Path | None = None,
    timeout: float = TIMEOUT,
    report: BadImages | None = None,
    memory_limit: int | None = None,
) -> ImageStore | ImageReader:
    """The corpus, to be fetched by index, the same pixels wherever they are kept.

    `placement` is `device` (a tensor on the accelerator), `memory` (a file mapped into memory, batches copied while
    the step computes), `stream` (decoded for each batch) or `auto`: the first that fits into half of what is free on
    the accelerator, or into `memory_limit` bytes (half of the machine's memory). The file is in `cache_dir`; where
    it cannot be written, the pixels are in memory of this process alone, or streamed if they do not fit.

    Raises:
        UserError: as `ImageStore.build`, and for a `device` on which the pixels do not fit.
    """
    device, report = torch.device(device), report or BadImages()
    limit = room_for_pixels(torch.device("cpu")) if memory_limit is None else memory_limit
    needed = len(corpus) * 3 * size * size
    fits = device.type != "cpu" and needed <= room_for_pixels(device)
    if placement == "device" and device.type == "cpu":
        placement = "memory"
    if placement == "device" and not fits:
        raise UserError(
            f"{needed / 1e9:.2f} GB of pixels do not fit on {device}, {room_for_pixels(device) / 1e9:.2f} GB of which "
            "may be taken: give --data_placement memory"
        )
    chosen = ("device" if fits else "memory" if needed <= limit else "stream") if placement == "auto" else placement
    store = None
    if chosen != "stream":
        store = _open_store(corpus, size, device, cache_dir, num_workers, timeout, report, limit)
    if store is None:
        images = ImageReader(corpus, size, device, num_workers, timeout, report)
    else:
        images = store.on_device() if chosen == "device" else store
    logger.info("%s/%s: %.2f GB of pixels, %s", corpus.name, corpus.split, needed / 1e9, images.where)
    return images


def _open_store(
    corpus: Corpus | ShapesCorpus,
    size: int,
    device: torch.device,
    cache_dir: str | Path | None,
    num_workers: int,
    timeout: float,
    report: BadImages,
    limit: int,
) -> ImageStore | None:
    if isinstance(corpus, Corpus):  # shapes are drawn faster than they are read
        try:
            pixels, rows = open_file(corpus, size, cache_dir, num_workers, timeout, report)
            return ImageStore(pixels, corpus.labels, device, bad=rows)
        except (OSError, NotImplementedError) as error:  # file systems without locks are such
            fits = len(corpus) * 3 * size * size <= limit
            instead = "decoding into memory at each start" if fits else "decoding for each batch"
            logger.warning("no file of pixels: %s; %s (--data_cache_dir names another place)", error, instead)
            if not fits:
                return None
    return ImageStore.build(corpus, size, device, num_workers, timeout, report)


def open_held_out(
    corpus: Corpus | ShapesCorpus,
    images: ImageStore | ImageReader,
    rows: Tensor,
    seed: int,
    memory_limit: int | None = None,
) -> tuple[ImageStore, Tensor]:
    """The images of `rows`, sorted int64 (n,), which are read again and again: decoded once whatever the placement;
    and those rows that are not bad. Of what does not fit into `memory_limit` bytes (half of the machine's memory) it
    is a sample, the same whatever the placement."""
    limit = room_for_pixels(torch.device("cpu")) if memory_limit is None else memory_limit
    most = max(1, limit // (3 * images.size**2))
    if len(rows) > most:
        logger.warning("%d of %d held-out images fit into memory: a sample", most, len(rows))
        rows = rows[permutation(len(rows), "held out sample", seed)[:most].sort().values]
    if not isinstance(images, ImageStore):
        reader = images.size, images.device, images.num_workers, images.timeout, images.report
        images = ImageStore.build(corpus, *reader, rows=rows)
    return images, rows[torch.tensor([row not in images.bad for row in rows.tolist()], dtype=torch.bool)]
