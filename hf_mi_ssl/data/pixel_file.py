"""A corpus decoded once into a file of pixels, which all processes of a machine map.

The file lies in the cache of `datasets`, under the fingerprint of the data, the size and the version of our decoding;
beside it a manifest says what it holds and which images are bad. It is complete or absent, checked when it is opened,
by all processes at once, and built by one while the others wait.
"""

import contextlib
import errno
import hashlib
import json
import logging
import shutil
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from ..errors import ExitCode, UserError
from ..files import temporary_of, whole
from .bad import BadImages, BadRow
from .corpora import Corpus
from .store import decoded

logger = logging.getLogger(__name__)
FORMAT = 2  # of the file, and of what decoding makes of an image: a change of either makes older files invalid
_WHOLE = 2**32  # bytes: a file up to that size is read whole when it is opened, at a gigabyte in a second
_SAMPLES, _SAMPLE = 4096, 4096  # places of a larger one that its digest covers, and bytes of each


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
    manifest, lock = path.with_suffix(".json"), FileLock(path.with_suffix(".lock"))
    while True:
        seen = _stamp(manifest)
        rows = _valid(path, what)  # without the lock: all processes of a machine check at once
        if rows is not None:
            report.add(corpus.split, rows, len(corpus))
            break
        try:
            lock.acquire(timeout=1)
        except Timeout:
            logger.info("%s/%s: waiting for the process that decodes it", corpus.name, corpus.split)
            _wait_while_written(lock, temporary_of(path), timeout)
        try:
            if _stamp(manifest) == seen:  # else another process has decoded it since
                if seen is not None:
                    logger.warning("%s is not what its manifest says: decoding again", path)
                rows = _write(path, what, corpus, size, num_workers, timeout, report)
                break
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
    return None


def _stamp(manifest: Path) -> tuple[int, int] | None:
    """Tells a manifest from one that was written later, which may say the same; None where there is none."""
    try:
        found = manifest.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _digest(path: Path, what: dict) -> str:
    """Of all bytes; where reading all would take long, of places everywhere, which notices what was overwritten."""
    length = path.stat().st_size
    if length != what["images"] * 3 * what["size"] ** 2:
        return "of another length"
    with path.open("rb") as file:
        if length <= _WHOLE:
            return hashlib.file_digest(file, "blake2b").hexdigest()
        found = hashlib.blake2b()
        for i in range(_SAMPLES):
            file.seek(i * (length - _SAMPLE) // (_SAMPLES - 1))
            found.update(file.read(_SAMPLE))
    return found.hexdigest()


def _write(
    path: Path, what: dict, corpus: Corpus, size: int, num_workers: int, timeout: float, report: BadImages
) -> list[BadRow]:
    needed, free = len(corpus) * 3 * size * size, shutil.disk_usage(path.parent).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{needed / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free", str(path.parent))
    manifest, rows = path.with_suffix(".json"), []
    manifest.unlink(missing_ok=True)
    with whole(path, "wb") as file:
        for squares in decoded(corpus, size, torch.arange(len(corpus)), num_workers, timeout, report, rows):
            file.write(squares.numpy().data)
    with whole(manifest) as file:
        json.dump({"what": what, "digest": _digest(path, what), "bad": rows, "of": corpus.name}, file)
    return rows
