"""Squares of uint8 pixels by index, decoded once: in memory, or in a file that all processes of a machine map.

Decoding costs a hundred times what fetching costs. The file lies in the cache of `datasets`, under the fingerprint of
the data, the size and the version of our decoding; beside it a manifest says what it holds and which images are bad.
It is complete or absent, checked when it is opened, and built by one process while the others wait.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import Tensor
from tqdm import tqdm

from ..errors import ExitCode, UserError
from .bad import BadImages, BadRow, StandIn
from .corpora import Corpus
from .readers import TIMEOUT, Squares, ahead, in_workers
from .shapes import ShapesCorpus

logger = logging.getLogger(__name__)
FORMAT = 1  # of the file, and of what decoding makes of an image: a change of either makes older files invalid
_CHUNK = 256  # images that a worker decodes at once
_SAMPLES, _SAMPLE = 64, 4096  # places of a file that its digest covers, and bytes of each


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
        for chunk in _decoded(corpus, size, chosen, num_workers, timeout, report or BadImages(), found):
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
        return self.images[places.to(self.images.device)]

    def _if_good(self, row: int) -> int | None:
        return None if row in self.bad else row

    def batches(self, orders: Iterable, stand_in: StandIn | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """For each tensor of indices (n,) in `orders`: the indices, and their images, on the device, without the bad
        ones. With `stand_in`, `orders` are pairs of an epoch and indices, and other images stand in for bad ones."""
        chosen = self._chosen(orders, stand_in)
        fetched = ((indices, self._pixels(indices)) for indices in chosen if len(indices))
        return fetched if self.images.device == self.device != torch.device("cpu") else ahead(fetched, self.device)

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


def _decoded(
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


def default_cache_dir() -> Path:
    """Where files lie unless told otherwise: beside what `datasets` keeps."""
    import datasets

    return Path(datasets.config.HF_DATASETS_CACHE) / "hf_mi_ssl"


def open_file(
    corpus: Corpus, size: int, cache_dir: Path | None, num_workers: int, timeout: float, report: BadImages
) -> tuple[Tensor, list[int]]:
    """The pixels of the whole corpus, uint8 (N, 3, size, size), mapped into memory from a file, which is built first
    where there is none that matches; and the numbers of the bad ones.

    Raises:
        OSError: where the file can be neither found nor written, for lack of room among others.
        UserError: as `ImageStore.build`, and where another process decodes it but gives nothing.
    """
    what = {"format": FORMAT, "fingerprint": corpus.fingerprint, "size": size, "images": len(corpus)}
    name = hashlib.blake2b(json.dumps(what).encode(), digest_size=16).hexdigest()
    folder = Path(cache_dir or default_cache_dir())
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.uint8"
    lock = FileLock(path.with_suffix(".lock"))
    try:
        lock.acquire(timeout=1)
    except Timeout:
        logger.info("%s/%s: waiting for the process that decodes it", corpus.name, corpus.split)
        _wait_while_written(lock, path.with_suffix(".tmp"), timeout)
    try:
        rows = _valid(path, what)
        if rows is None:
            rows = _write(path, what, corpus, size, num_workers, timeout, report)
        else:
            report.add(corpus.split, rows, len(corpus))
    finally:
        lock.release()
    shape = len(corpus), 3, size, size
    # Private to this process where somebody writes into it, and else shared by all through the page cache.
    pixels = torch.from_file(str(path), shared=False, size=len(corpus) * 3 * size * size, dtype=torch.uint8)
    return pixels.view(shape), [row.row for row in rows]


def _wait_while_written(lock: FileLock, temporary: Path, timeout: float) -> None:
    before = None
    while True:
        with contextlib.suppress(Timeout):
            lock.acquire(timeout=timeout)
            return
        now = temporary.stat().st_mtime_ns if temporary.exists() else 0
        if now == before:
            said = f"who writes {temporary} gave nothing in {timeout:g} seconds"
            raise UserError(f"{said}; if it is alive, raise --dataloader_timeout", exit_code=ExitCode.PROCESS_LOST)
        before = now


def _valid(path: Path, what: dict) -> list[BadRow] | None:
    """The bad rows that the manifest of a file names; None if there is no file, or another than it says."""
    manifest = path.with_suffix(".json")
    if not manifest.exists():
        return None
    try:
        said = json.loads(manifest.read_text())
        if said["what"] == what and said["digest"] == _digest(path, what):
            return [BadRow(*row) for row in said["bad"]]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    logger.warning("%s is not what its manifest says: decoding again", path)
    return None


def _digest(path: Path, what: dict) -> str:
    """Of the length, and of some places of the file: cheap, and enough to notice one that was cut or overwritten."""
    length = path.stat().st_size
    found = hashlib.blake2b(str(length).encode(), digest_size=16)
    with path.open("rb") as file:
        for i in range(_SAMPLES):
            file.seek(i * max(0, length - _SAMPLE) // (_SAMPLES - 1))
            found.update(file.read(_SAMPLE))
    return found.hexdigest() if length == what["images"] * 3 * what["size"] ** 2 else "of another length"


def _write(
    path: Path, what: dict, corpus: Corpus, size: int, num_workers: int, timeout: float, report: BadImages
) -> list[BadRow]:
    needed, free = len(corpus) * 3 * size * size, shutil.disk_usage(path.parent).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{needed / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free", str(path.parent))
    manifest, rows = path.with_suffix(".json"), []
    temporary, note = path.with_suffix(".tmp"), path.with_suffix(".note")
    try:
        manifest.unlink(missing_ok=True)
        with temporary.open("wb") as file:
            for squares in _decoded(corpus, size, torch.arange(len(corpus)), num_workers, timeout, report, rows):
                file.write(squares.numpy().data)
            _sync(file)
        temporary.replace(path)
        with note.open("w") as file:
            json.dump({"what": what, "digest": _digest(path, what), "bad": rows, "of": corpus.name}, file)
            _sync(file)
        note.replace(manifest)
    finally:
        temporary.unlink(missing_ok=True)
    return rows


def _sync(file) -> None:
    file.flush()
    os.fsync(file.fileno())
