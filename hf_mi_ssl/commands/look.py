"""Some held-out images of a run: where their representations lie, and which are nearest to which."""

import base64
import io
import json
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..data import open_train_and_held_out
from ..data.corpora import LOCAL
from ..encoders import load_encoder
from ..errors import MALFORMED, UserError
from ..evaluation import represent
from ..evaluation.saved import views_of
from ..training import PretrainingArguments

_NEIGHBOURS = 9
_WRITTEN_OTHERWISE = ("set", "data_files", "imported")  # in training_args.json than in the arguments
_SIDE = 72  # pixels of an image on the page


@torch.no_grad()
def map_of(run_dir: Path, num_images: int, trusted: bool = False) -> dict | None:
    """Of at most `num_images` held-out images: points (two principal components of h), labels and their names, the
    nearest neighbours of each by the cosine of h, and the images as data URLs. None if there are fewer than three.

    Only a run that is `trusted` says what is fetched from elsewhere, and where the file of pixels lies.

    Raises:
        UserError: if the data are not where the run found them, or elsewhere; for a file that no run has written.
    """
    file = run_dir / "training_args.json"
    try:
        args, files = _arguments_of(json.loads(file.read_text()))
    except UserError:
        raise
    except (OSError, *MALFORMED) as error:
        reason = f"{type(error).__name__}: {str(error)[:100]}"
        raise UserError(f"{file} does not say where the images of the run are ({reason})") from error
    data = args.data_arguments() | {"data_files": files}
    if not trusted:
        data["cache_dir"] = None
        if place := _elsewhere(data):
            raise UserError(f"the run names images elsewhere, {place[:80]!r}: --trust_run lets them be fetched")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    held = open_train_and_held_out(**data, device=device)[1].sample(num_images, args.seed)
    if len(held) < 3:
        return None
    recipe = views_of(str(run_dir), args.views, args.image_size)[0]
    encoder = load_encoder(str(run_dir)).eval().to(device)
    h = torch.cat([h.cpu() for _, h in represent(encoder, held, recipe)])
    return _map(h, held.images.fetch(held.indices).cpu(), held.labels, held.label_names, held.split)


def _arguments_of(saved: dict) -> tuple[PretrainingArguments, dict | None]:
    """The arguments of a run as it has written them down, of the types and among the choices that they have, and its
    data files. Raises `MALFORMED` for others."""
    types, plain = get_type_hints(PretrainingArguments), {}
    for field in fields(PretrainingArguments):
        if field.name in saved and field.name not in _WRITTEN_OTHERWISE:
            value = plain[field.name] = saved[field.name]
            choices = [None, *field.metadata.get("choices", [value])]
            if not isinstance(value, types[field.name]) or value not in choices:
                raise ValueError(f"{field.name}={value!r}"[:60])
    given = (saved["data_files"] or {}).items()
    files = {split: value if isinstance(value, list) else [value] for split, value in given}
    if not all(isinstance(file, str) for group in files.values() for file in group):
        raise ValueError(f"data_files={files!r}"[:60])
    return PretrainingArguments(**plain), files or None


def _elsewhere(data: dict) -> str | None:
    """The name of a data set, or of a file of it, that is not on this machine."""
    name, groups = data["dataset_name"], (data["data_files"] or {}).values()
    if name not in (*LOCAL, "shapes") and not Path(name).is_dir():
        return name
    files = [name, data["data_dir"] or "", *(file for group in groups for file in group)]
    return next((file for file in files if "://" in file or "::" in file), None)


def _map(h: Tensor, images: Tensor, labels: Tensor | None, names: list[str] | None, split: str) -> dict:
    u, s, _ = torch.linalg.svd(h.double() - h.double().mean(0), full_matrices=False)
    points, shares = F.pad(u * s, (0, 1))[:, :2], s.square() / s.square().sum().clamp_min(1e-300)
    unit = F.normalize(h.double(), dim=1)
    cosines = (unit @ unit.T).fill_diagonal_(-2.0)
    nearest = cosines.topk(min(_NEIGHBOURS, len(h) - 1), dim=1)
    classes = sorted({label for label in labels.tolist() if label >= 0}) if labels is not None else []
    place = {label: i for i, label in enumerate(classes)}
    named = [names[label] if names and label < len(names) else str(label) for label in classes]
    return {
        "points": points.tolist(),
        "labels": [place.get(label, -1) for label in labels.tolist()] if labels is not None else [-1] * len(h),
        "names": named,
        "neighbours": [
            [[j, round(cosine, 3)] for j, cosine in zip(row, values)]
            for row, values in zip(nearest.indices.tolist(), nearest.values.tolist())
        ],
        "images": [_data_url(image) for image in images],
        "note": f"two principal components, {shares[:2].sum():.0%} of the variance; {len(h):,} images of {split}",
    }


def _data_url(image: Tensor) -> str:
    """uint8 (3, S, S) as the address of a small JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).resize((_SIDE, _SIDE)).save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
