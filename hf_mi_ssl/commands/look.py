"""Some held-out images of a run: where their representations lie, and which are nearest to which."""

import base64
import io
import json
from dataclasses import fields
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..data import open_train_and_held_out
from ..encoders import load_encoder
from ..evaluation import represent
from ..evaluation.saved import views_of
from ..training import PretrainingArguments

_NEIGHBOURS = 9
_WRITTEN_OTHERWISE = ("set", "data_files", "imported")  # in training_args.json than in the arguments
_SIDE = 72  # pixels of an image on the page


@torch.no_grad()
def map_of(run_dir: Path, num_images: int) -> dict | None:
    """Of at most `num_images` held-out images: points (two principal components of h), labels and their names, the
    nearest neighbours of each by the cosine of h, and the images as data URLs. None if there are fewer than three.

    Raises:
        UserError: if the data are not where the run found them.
    """
    saved = json.loads((run_dir / "training_args.json").read_text())
    plain = {field.name: saved[field.name] for field in fields(PretrainingArguments) if field.name in saved}
    args = PretrainingArguments(**{name: plain[name] for name in plain if name not in _WRITTEN_OTHERWISE})
    data = args.data_arguments() | {"data_files": saved["data_files"]}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    held = open_train_and_held_out(**data, device=device)[1].sample(num_images, args.seed)
    if len(held) < 3:
        return None
    recipe = views_of(str(run_dir), args.views, args.image_size)[0]
    encoder = load_encoder(str(run_dir)).eval().to(device)
    h = torch.cat([h.cpu() for _, h in represent(encoder, held, recipe)])
    return _map(h, held.images.fetch(held.indices).cpu(), held.labels, held.label_names, held.split)


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
