"""Which columns of a data set hold the images and the labels."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError, unknown

_LABELS = ("label", "labels", "cls", "json.label", "json.cls")  # the last of webdataset
_BYTES = ("binary", "large_binary")
_LABEL_KINDS = "u?int|bool|.*string"


def _kind(feature: object) -> str:
    return getattr(feature, "dtype", None) or type(feature).__name__


def _holds_images(feature: object) -> bool:
    """Whether columns of this type hold images: typed so, or as parquet without HF metadata stores them."""
    import datasets

    if isinstance(feature, dict):
        kinds = [_kind(feature.get(name)) for name in ("bytes", "path")]
        return kinds[0] in (*_BYTES, "null") and re.fullmatch("(large_)?string|null", kinds[1]) is not None
    return isinstance(feature, datasets.Image) or _kind(feature) in _BYTES


def image_column(features: Mapping, name: str | None) -> str:
    kinds = {column: _kind(feature) for column, feature in features.items()}
    found = [column for column, feature in features.items() if _holds_images(feature)]
    if name is not None and name not in features:
        raise unknown("image column", name, features)
    if name is not None and name not in found:
        raise UserError(f"column {name!r} ({kinds[name]}) holds no images; those with: {', '.join(found) or 'none'}")
    if not found:
        listing = ", ".join(f"{column} ({kind})" for column, kind in kinds.items())
        raise UserError(f"no column holds images among {listing}; choose data that have one")
    if name is None and len(found) > 1:
        raise UserError(f"several columns hold images: {', '.join(found)}; choose one with --image_column_name")
    return name or found[0]


def label_column(features: Mapping, name: str | None) -> str | None:
    import datasets

    features = _with_json(features)
    if name is not None and name not in features:
        raise unknown("label column", name, features)
    if name is not None and not re.match(_LABEL_KINDS, _kind(features[name])):
        raise _no_labels(name, _kind(features[name]))
    classes = [column for column, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    likely = [c for c in _LABELS if c in features and re.match("u?int|.*string", _kind(features[c]))]
    return name or (classes[0] if len(classes) == 1 else next(iter(likely), None))


def labels_of(splits: Mapping, split: str, name: str | None, folder: Path | None) -> tuple[Tensor | None, list | None]:
    """The labels of a split, −1 where a row has none, and their names; None for labels that do not exist."""
    features = splits[split].features
    column = label_column(features, name)
    if column is None:
        return None, None
    names = getattr(_with_json(features)[column], "names", None)
    if folder and names and len(splits) > 1 and all((folder / label).is_dir() for label in names):
        return None, None  # datasets takes the folders of the splits for classes where there are no class folders
    tables = {key: rows.with_format("arrow")[:] for key, rows in splits.items() if column in _with_json(rows.features)}
    values = {key: _values(table, column) for key, table in tables.items()}
    vocabulary = {value for each in values.values() for value in each.unique().to_pylist()} - {None}
    labels, found = as_labels(values[split].to_pylist(), features, column, vocabulary)
    return (labels, found) if (labels >= 0).any() else (None, None)


def as_labels(values: list, features: Mapping, column: str, vocabulary: set) -> tuple[Tensor, list[str] | None]:
    """The values of a label column as int64, −1 where there is none, and their names; strings become their number in
    the sorted vocabulary. Raises `UserError` for a column of anything but integers or strings."""
    feature = _with_json(features)[column]
    kind = _kind(feature)
    if "string" in kind:
        names = sorted(vocabulary)
        ids = {value: i for i, value in enumerate(names)}
        return torch.tensor([ids.get(value, -1) for value in values]), names
    if re.match(_LABEL_KINDS, kind):
        numbers = [-1 if value is None else int(value) for value in values]
        if wrong := [number for number in numbers if not -1 <= number < 2**63][:1]:
            raise UserError(f"label column {column!r} holds {wrong[0]}; labels are 0, 1, …, and −1 is none")
        return torch.tensor(numbers, dtype=torch.int64), getattr(feature, "names", None)
    raise _no_labels(column, kind)


def _no_labels(column: str, kind: str) -> UserError:
    return UserError(f"label column {column!r} holds {kind}; choose one of integers or strings")


def _with_json(features: Mapping) -> dict[str, object]:
    """The columns, and the fields of the JSON that webdataset keeps beside an image, as `json.<field>`."""
    fields = features.get("json")
    return dict(features) | ({f"json.{key}": kind for key, kind in fields.items()} if isinstance(fields, dict) else {})


def _values(table, column: str):
    import pyarrow.compute as pc

    return table[column] if column in table.column_names else pc.struct_field(table["json"], column[len("json.") :])
