"""Image corpora by name: a Hub id, a folder of images, parquet files, or the embedded `shapes`.

`datasets` finds, downloads and maps the rows; it never decodes them. Rows are read as Arrow (bytes or path) and
decoded by `images.decode`, so that a strange image is treated alike everywhere and an error names its row. A path in a
row is opened only if it is a local file of the corpus itself: strangers wrote the rows.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from glob import glob
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..errors import UserError, first_line
from .bad import BadRow
from .columns import image_column, labels_of
from .images import BadImageError, Cell, as_cell, decode_cell, to_square
from .shapes import ShapesCorpus

LOCAL = ("imagefolder", "parquet", "webdataset")  # builders of `datasets` that read files one names
_EVALUATION_SPLITS = ("validation", "valid", "val", "dev", "test")
DataFiles = str | Sequence[str] | Mapping[str, str | Sequence[str]]


class Corpus:
    """One split of a data set of images, by index; made by `load_corpus`. `shapes.ShapesCorpus` has the same members.

    `labels` is int64 (len,) or None, −1 where a row has none; `label_names` their names or None; `available_splits`
    all splits of the data set; `fingerprint` changes when the data or the choice of their column do.
    """

    labels: Tensor | None = None
    label_names: list[str] | None = None

    def __init__(self, name: str, split: str, splits: Mapping, image_column: str, folders: list[str] | None):
        self.name = name
        self.split = split
        self.available_splits = list(splits)
        self.fingerprint = f"{splits[split]._fingerprint}-{image_column}"
        self._column = image_column
        self._rows = splits[split].select_columns([image_column]).with_format("arrow")
        self.folders = folders  # where the paths in rows may lie; None where datasets itself listed the files

    def __len__(self) -> int:
        return len(self._rows)

    def cells(self, indices: list[int]) -> list[Cell]:
        """What the rows `indices` hold: bytes, and paths that lie within `folders`."""
        cells = self._rows[indices][self._column].to_pylist()  # one read of Arrow for the whole batch
        return [as_cell(cell) for cell in cells]

    def read(self, index: int) -> Image.Image:
        """Image `index`, RGB. Raises `UserError` (exit code 1) naming split, row and file if it cannot be decoded."""
        index = range(len(self))[index]
        data, path = self.cells([index])[0]
        try:
            return decode_cell(data, path, self.folders)
        except BadImageError as error:
            raise self._named(index, path, error) from error

    def squares(self, indices: Tensor, size: int, bad: dict[int, BadRow] | None = None) -> Tensor:
        """The images `indices` (n,) as squares (see `to_square`): uint8 (n, 3, size, size), on the CPU.

        One that cannot be decoded raises `UserError` as in `read`, or, given `bad`, is noted there under its place in
        `indices`, and its pixels are 0."""
        images = torch.zeros(len(indices), 3, size, size, dtype=torch.uint8)
        for i, (index, (data, path)) in enumerate(zip(indices.tolist(), self.cells(indices.tolist()))):
            try:
                images[i] = to_square(decode_cell(data, path, self.folders), size)
            except BadImageError as error:
                if bad is None:
                    raise self._named(index, path, error) from error
                bad[i] = BadRow(index, error.kind, error.reason, path)
        return images

    def _named(self, index: int, path: str | None, error: BadImageError) -> UserError:
        file = f" ({path})" if path else ""
        return UserError(f"{self.name}, split {self.split!r}, row {index}{file}: {error}", exit_code=1)


@contextmanager
def _listed_once() -> Iterator[None]:
    """`datasets` asks for each name that a split can have in a walk of its own, 45 of them through one folder; here
    they share the first: of 40,000 files 9 s in place of 39, each time they are opened."""
    from fsspec.implementations.local import LocalFileSystem

    find, found = LocalFileSystem.find, {}

    def find_once(self, path, maxdepth=None, withdirs=False, detail=False, **more):
        key = (path, maxdepth, withdirs, detail, *sorted(more.items()))
        if key not in found:
            found[key] = find(self, path, maxdepth=maxdepth, withdirs=withdirs, detail=detail, **more)
        return found[key]

    LocalFileSystem.find = find_once
    try:
        yield
    finally:
        LocalFileSystem.find = find


@contextmanager
def _quiet_unless_terminal() -> Iterator[None]:
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    hush = not sys.stderr.isatty() and not are_progress_bars_disabled()
    if hush:
        disable_progress_bars()
    try:
        yield
    finally:
        if hush:
            enable_progress_bars()


def local_files(data_files: DataFiles) -> list[str]:
    """The local files that data_files names, patterns expanded. Raises `UserError` for what does not exist."""
    values = data_files.values() if isinstance(data_files, Mapping) else [data_files]
    names = [name for value in values for name in ([value] if isinstance(value, str) else value)]
    found = []
    for name in (name for name in names if "://" not in name):
        files = glob(name, recursive=True)
        if not files:
            raise UserError(f"data file {name!r} does not exist; check --data_files (relative to {os.getcwd()})")
        found += files
    return found


def _arguments(
    name: str, data_files: DataFiles | None, data_dir: str | None
) -> tuple[dict[str, object], list[str] | None]:
    """The arguments of `datasets.load_dataset`, and the folders that paths in rows may point into."""
    if name in LOCAL:
        if data_files is None and data_dir is None:
            ending = {"parquet": "parquet", "webdataset": "tar"}.get(name)
            way = f"--data_files train=A.{ending} test=B.{ending}" if ending else "--data_dir DIR"
            raise UserError(f"{name} needs the place of the data: give {way}")
    elif Path(name).is_dir():
        name, data_dir = "imagefolder", data_dir or name
    elif Path(name).is_absolute() or name.startswith((".", "~")):
        raise UserError(f"directory {name!r} does not exist; give a folder of images or the name of a Hub data set")
    local = name in LOCAL
    if local and data_dir is not None and not Path(data_dir).is_dir():
        raise UserError(f"directory {data_dir!r} does not exist; check --data_dir (relative to {os.getcwd()})")
    folders = None if name == "imagefolder" else []
    if local and data_files is not None and data_dir is None:
        files = local_files(data_files)
        if folders is not None:
            folders = sorted({os.path.dirname(os.path.abspath(file)) for file in files})
    elif name in ("parquet", "webdataset"):
        folders, files = [data_dir], glob(f"{data_dir}/**", recursive=True)
    if name == "webdataset" and local:
        _check_ends(file for file in files if file.endswith(".tar") and os.path.isfile(file))
    return {"path": name, "data_files": data_files, "data_dir": data_dir}, folders


def _check_ends(tars: Iterable[str]) -> None:
    """Raises `UserError` for a tar without the zeros at its end: cut off between two of its files, it would be read
    as a shorter one without a word."""
    for tar in tars:
        with open(tar, "rb") as file:
            file.seek(-min(512, file.seek(0, os.SEEK_END)), os.SEEK_END)
            if file.read() != bytes(512):
                raise UserError(f"{tar} is cut off: the end of the archive is missing; fetch or pack it again")


def _load(name: str, arguments: Mapping[str, object]) -> Mapping:
    import datasets
    from datasets.data_files import EmptyDatasetError
    from datasets.exceptions import DatasetNotFoundError

    where = arguments["data_dir"] or arguments["data_files"] or name
    told = datasets.config.HF_UPDATE_DOWNLOAD_COUNTS
    try:
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = told and arguments["path"] not in LOCAL  # they are not the Hub's
        with _quiet_unless_terminal(), _listed_once():
            return datasets.load_dataset(**arguments)
    except DatasetNotFoundError as error:
        raise UserError(
            f"no data set {name!r} on the Hub, or it is private or gated; check the name, or run `hf auth login`"
        ) from error
    except ConnectionError as error:
        raise UserError(
            f"cannot reach the Hub for the data set {name!r}, and it is not in the cache; check the network, "
            "or give a local folder with --dataset_name imagefolder --data_dir DIR"
        ) from error
    except Exception as error:  # builders raise many types, with many lines
        if isinstance(error, EmptyDatasetError) or "corresponds to no data" in str(error):
            raise UserError(f"no images in {where}; give a folder that holds image files") from error
        reason = first_line(error.__cause__ or error)
        raise UserError(f"cannot load {name!r} from {where}: {reason}; check that the data are whole") from error
    finally:
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = told


def evaluation_split(available: Iterable[str], train_split: str) -> str | None:
    """The split to evaluate on where none is named: validation or test, if there is one beside `train_split`."""
    return next((split for split in _EVALUATION_SPLITS if split in available and split != train_split), None)


def load_splits(
    dataset_name: str, data_files: DataFiles | None, data_dir: str | None, split: str, streaming: bool = False
) -> tuple[Mapping, list[str] | None, Path | None]:
    """The splits of a data set as `datasets` has them, the folders that paths in rows may point into (None: any), and
    the folder of an imagefolder. Raises `UserError` as `load_corpus` does, for a missing `split` too."""
    arguments, folders = _arguments(dataset_name, data_files, data_dir)
    splits = _load(dataset_name, arguments | ({"streaming": True} if streaming else {}))
    if split not in splits:
        raise UserError(f"{dataset_name!r} has no split {split!r}; its splits: {', '.join(splits)}")
    folder = Path(data_dir or dataset_name) if arguments["path"] == "imagefolder" else None
    return splits, folders, folder


def load_corpus(
    dataset_name: str,
    *,
    data_files: DataFiles | None = None,
    data_dir: str | None = None,
    split: str,
    image_column_name: str | None = None,
    label_column_name: str | None = None,
) -> Corpus | ShapesCorpus:
    """One split of the corpus `dataset_name`: a Hub id, `imagefolder`, `parquet`, `webdataset`, `shapes`, or a folder.

    The image column, if not named, is the one that holds images; labels are those of the named column, else the only
    column of class labels, else an integer or string column `label`, `labels`, or, of webdataset, `cls` or the field
    `label` or `cls` of its JSON, else None. Strings become the ids of their sorted values over all splits. Raises
    `UserError` (exit code 2) for what does not exist or cannot be read.
    """
    if dataset_name == "shapes":
        return ShapesCorpus(split)
    splits, folders, folder = load_splits(dataset_name, data_files, data_dir, split)
    if len(splits[split]) == 0:
        raise UserError(f"the split {split!r} of {dataset_name!r} holds no rows; choose another: {', '.join(splits)}")
    corpus = Corpus(dataset_name, split, splits, image_column(splits[split].features, image_column_name), folders)
    corpus.labels, corpus.label_names = labels_of(splits, split, label_column_name, folder)
    return corpus
