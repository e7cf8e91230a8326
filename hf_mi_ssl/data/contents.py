"""What the images of a data set are, wherever it lies: by this a run that is resumed notices that they are others."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from ..counter import permutation
from .corpora import Corpus
from .images import BadImageError, Cell, as_cell, own_file
from .shapes import ShapesCorpus
from .shards import Rows, next_row

_IMAGES, _SHARDS = 256, 8  # that are looked at, drawn by counter; all where there are no more
_BYTES = 2**20  # of an image


def contents(corpus: Corpus | ShapesCorpus) -> str:
    """A digest of the number of images and of 256 of them, of their bytes as they are stored. A data set that is moved
    or downloaded again keeps it, which the fingerprint of `datasets` does not: that is of paths and times."""
    if isinstance(corpus, ShapesCorpus):
        return corpus.fingerprint
    chosen = permutation(len(corpus), "contents")[:_IMAGES].sort().values.tolist()
    return _digest(len(corpus), corpus.cells(chosen), corpus.folders)


def contents_of_shards(rows: Rows, column: str, folders: list[str] | None, split: str) -> str:
    """The same of a stream: of the number of shards, and of the first images of 8 of them."""
    chosen = permutation(rows.num_shards, "contents")[:_SHARDS].sort().values.tolist()
    first = (next_row(iter(rows.shard(rows.num_shards, shard)), split, shard) for shard in chosen)
    return _digest(rows.num_shards, (as_cell(row[column] if row else None) for row in first), folders)


def _digest(n: int, cells: Iterable[Cell], folders: list[str] | None) -> str:
    digest = hashlib.blake2b(str(n).encode(), digest_size=8)
    for data, path in cells:
        try:
            if data is None and path is not None:
                with Path(own_file(path, folders)).open("rb") as file:
                    data = file.read(_BYTES)
        except (OSError, BadImageError):
            data = None  # bad: it is reported where it is decoded
        start = b"none" if data is None else data[:_BYTES]
        digest.update(len(start).to_bytes(8, "little") + start)
    return digest.hexdigest()
