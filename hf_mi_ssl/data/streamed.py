"""Opening a data set as a stream: what is trained on goes by once, what is measured on is read into memory."""

import logging
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..counter import permutation
from ..errors import UserError
from .bad import BadImages, BadRow
from .columns import as_labels, image_column, label_column
from .contents import contents_of_shards
from .corpora import LOCAL, Corpus, evaluation_split, load_splits, local_files
from .images import Cell, as_cell
from .parts import Part
from .placement import room_for_pixels, storage_size
from .shards import ROW_BITS, Rows, is_held_out, next_row, shards_of
from .store import ImageStore
from .streams import ImageStream

logger = logging.getLogger(__name__)
_SAMPLE = 5000  # images held out, and images of train that kNN and linear probe learn from
_UNLABELLED = 256  # of train without labels, from which batch norms take their statistics before training


class _Sample(Corpus):
    """Rows of a stream that were read into memory: `ids` are their indices in the stream."""

    def __init__(self, name: str, split: str, ids: list[int], cells: list[Cell], folders: list[str] | None):
        self.name, self.split, self.ids, self._all, self.folders = name, split, ids, cells, folders

    def __len__(self) -> int:
        return len(self.ids)

    def cells(self, indices: list[int]) -> list[Cell]:
        return [self._all[index] for index in indices]

    def squares(self, indices: Tensor, size: int, bad: dict[int, BadRow] | None = None) -> Tensor:
        squares = super().squares(indices, size, bad)
        for place, row in (bad or {}).items():
            bad[place] = row._replace(row=self.ids[row.row])  # the name that the stream has for it
        return squares


def _number_of_rows(name: str, rows, split: str, data_files) -> int | None:
    """What local parquet or, of a Hub id, its card says; None where neither does. (datasets may also know from an
    earlier run, but a run must not depend on that.)"""
    if name == "parquet" and data_files and "://" not in str(data_files.get(split, "://")):
        import pyarrow.parquet

        return sum(pyarrow.parquet.read_metadata(file).num_rows for file in local_files(data_files[split]))
    if name in LOCAL or Path(name).is_dir() or not rows.info.splits or split not in rows.info.splits:
        return None
    return rows.info.splits[split].num_examples


def _sample(
    rows: Rows, wanted: dict[bool, int], fraction: float, seed: int, split: str
) -> dict[bool, tuple[list[int], list[dict]]]:
    """So many rows that are held out (True) and that are not (False), from up to 16 shards in equal parts: their
    indices, sorted, and the rows."""
    rows = shards_of(rows)
    shards = permutation(rows.num_shards, "sampled shards", seed)[:16].sort().values.tolist()
    found: dict[bool, tuple[list[int], list[dict]]] = {True: ([], []), False: ([], [])}
    for done, shard in enumerate(shards, 1):
        quota = {kind: n * done // len(shards) for kind, n in wanted.items()}
        source = iter(rows.shard(rows.num_shards, shard))
        for row, content in enumerate(iter(lambda: next_row(source, split, shard), None)):  # noqa: B023
            if all(len(found[kind][0]) >= quota[kind] for kind in quota):
                break
            index = shard << ROW_BITS | row
            held = bool(is_held_out(torch.tensor(index), fraction, seed))
            if len(found[held][0]) < quota.get(held, 0):
                found[held][0].append(index)
                found[held][1].append(content)
    return found


def open_streamed(
    *,
    dataset_name: str,
    train_split: str,
    eval_split: str | None,
    held_out: float,
    image_size: int,
    seed: int,
    device: torch.device,
    num_workers: int,
    timeout: float,
    report: BadImages,
    shuffle_buffer_size: int,
    memory_limit: int | None = None,
    data_files=None,
    data_dir: str | None = None,
    image_column_name: str | None = None,
    label_column_name: str | None = None,
) -> tuple[Part, Part]:
    """As `open_train_and_held_out`: train has the stream, and both have images in memory to measure on.

    Without `eval_split` the fraction `held_out` of train is, row by row, by the seed and the place of the row. At most
    5,000 images of either are read, or as many as fit into `memory_limit` bytes, from up to 16 shards; of train 256
    if there are no labels to learn from, for the statistics of batch norms.
    """
    if dataset_name == "shapes":
        raise UserError("shapes are drawn, not read: leave --streaming out")
    splits, folders, _ = load_splits(dataset_name, data_files, data_dir, train_split, streaming=True)
    eval_split = eval_split or evaluation_split(splits, train_split)
    if eval_split is not None and eval_split not in splits:
        raise UserError(f"{dataset_name!r} has no split {eval_split!r}; its splits: {', '.join(splits)}")
    rows, size = splits[train_split], storage_size(image_size)
    features = rows.features
    if features is None:
        raise UserError(f"the columns of {dataset_name!r} are not known without reading it: leave --streaming out")
    column, labels = image_column(features, image_column_name), label_column(features, label_column_name)
    fraction = 0.0 if eval_split else held_out
    stream = ImageStream(
        rows, column, folders, split=train_split, size=size, seed=seed, block=shuffle_buffer_size, device=device,
        held_out=fraction, num_rows=_number_of_rows(dataset_name, rows, train_split, data_files),
        num_workers=num_workers, timeout=timeout, report=report,
    )  # fmt: skip

    limit = room_for_pixels(torch.device("cpu")) if memory_limit is None else memory_limit
    most = max(1, min(_SAMPLE, limit // (2 * 3 * size * size)))
    columns = [column, *([labels.split(".")[0]] if labels and labels not in features else [labels] if labels else [])]
    wanted = {False: most if labels else min(most, _UNLABELLED)}
    if eval_split is None:
        found = _sample(rows.select_columns(columns), wanted | {True: most}, fraction, seed, train_split)
        chosen = [(train_split, *found[False]), (f"{train_split} (a tenth, held out)", *found[True])]
    else:
        asked = _sample(splits[eval_split].select_columns(columns), {False: most}, 0.0, seed, eval_split)[False]
        of_train = _sample(rows.select_columns(columns), wanted, 0.0, seed, train_split)[False]
        chosen = [(train_split, *of_train), (eval_split, *asked)]
    if not chosen[1][1]:
        raise UserError(f"no row of {dataset_name!r} is held out: it holds too few; leave --streaming out")

    def value(row: dict):
        return row[labels] if labels in row else (row["json"] or {}).get(labels.removeprefix("json."))

    values = [[value(row) for row in of] if labels else [] for _, _, of in chosen]
    vocabulary = {one for of in values for one in of} - {None}
    parts = []
    for (split, ids, of), labelled in zip(chosen, values):
        corpus = _Sample(dataset_name, split.split(" ")[0], ids, [as_cell(row[column]) for row in of], folders)
        names = None
        if labels:
            corpus.labels, names = as_labels(labelled, features, labels, vocabulary)
        report.add(corpus.split, (), None)  # of a sample, a fraction means little
        store = ImageStore.build(corpus, size, device, num_workers if len(ids) > 256 else 0, timeout, report)
        good = torch.tensor([row not in store.bad for row in ids], dtype=torch.bool).nonzero()[:, 0]
        shards = shards_of(splits[corpus.split].select_columns([column]))
        what = contents_of_shards(shards, column, folders, corpus.split)
        parts.append(Part(ImageStore(store.images, store.labels, device), good, split, names, report, what))
    logger.info(
        "streaming: measured on %d held-out images, with %d %s ones of train, read into memory",
        len(parts[1]), len(parts[0]), "labelled" if labels else "unlabelled",
    )  # fmt: skip
    return replace(parts[0], stream=stream), parts[1]
