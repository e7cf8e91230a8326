"""Any encoder that AutoModel loads, frozen, and what it makes of a labelled data set: the input of kNN and probes."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import AutoImageProcessor, PreTrainedModel
from transformers.utils import cached_file

from ..data import Part, open_train_and_held_out
from ..encoders import refuse_fetching_file
from ..errors import MALFORMED, UserError, first_line
from ..views import ViewRecipe, clean_view

_BATCH = 256  # images represented at once
_LARGEST = 4096  # pixels a side, as --image_size


class Represented(NamedTuple):
    """Representations h of clean images, float32 (N, H), and their labels, int64 (N,), on the CPU."""

    h: Tensor
    labels: Tensor
    split: str


def input_of(name: str) -> dict[str, Any]:
    """`size` in pixels, `mean` and `std` of what an encoder's image processor makes; empty where there is none.

    Raises:
        UserError: for one that cannot be read, or that does not scale to [0, 1].
    """
    try:
        refuse_fetching_file(name)  # a processor that does not say its type asks the configuration for it
        processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
    except (OSError, *MALFORMED) as error:
        if _lacks_processor(name):
            return {}
        raise _unreadable(name, error) from error
    if getattr(processor, "do_rescale", True) is False:
        raise UserError(f"the image processor of {name!r} does not scale pixels to [0, 1], which is what is fed here")
    try:
        return _input_of(processor)
    except MALFORMED as error:
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: Exception) -> UserError:
    return UserError(f"cannot read the image processor of {name!r}: {first_line(error)}", exit_code=1)


def _input_of(processor) -> dict[str, Any]:
    """What an image processor says, of those numbers that can be meant. Raises `MALFORMED` for others."""
    of_timm = getattr(processor, "data_config", None)
    if of_timm:
        found = {"size": of_timm["input_size"][-1], "mean": of_timm["mean"], "std": of_timm["std"]}
    else:
        box = dict((processor.crop_size if getattr(processor, "do_center_crop", False) else None) or processor.size)
        size = box.get("height") or box.get("shortest_edge")
        found = {"size": size, "mean": processor.image_mean, "std": processor.image_std}
        if getattr(processor, "do_normalize", True) is False:
            found |= {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    found = {key: tuple(value) if key != "size" else value for key, value in found.items() if value}
    if not 0 < found.get("size", 1) <= _LARGEST:
        raise ValueError(f"it says a size of {str(found['size'])[:20]} pixels")
    for key in found.keys() & {"mean", "std"}:
        if len(found[key]) != 3 or not all(math.isfinite(x) and (x > 0 or key == "mean") for x in found[key]):
            raise ValueError(f"it says a {key} of {str(found[key])[:80]}")
    return found


def _lacks_processor(name: str) -> bool:
    try:
        return cached_file(name, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False) is None
    except OSError:  # a Hub that does not answer
        return False


def represent_splits(
    encoder: PreTrainedModel, *, image_size: int, mean=None, std=None, device: torch.device, **data
) -> tuple[Represented, Represented]:
    """The labelled images of train and of what is held out, through an encoder in eval mode.

    The whole image is the view, `image_size` pixels a side, normalised by `mean` and `std` (ImageNet's unless given).
    `data`, the seed among them, goes to `open_train_and_held_out`. Raises UserError without labels, and for a size
    that the encoder refuses.
    """
    given = {key: value for key, value in (("mean", mean), ("std", std)) if value}
    recipe = ViewRecipe(size=image_size, **given)
    parts = [part.labelled() for part in open_train_and_held_out(image_size=image_size, device=device, **data)]
    for part in parts:
        if not len(part):
            raise UserError(f"{part.split} has no labels: name their column with --label_column_name")
    encoder.eval().to(device)
    return tuple(_represented(encoder, part, recipe) for part in parts)


def _represented(encoder: PreTrainedModel, part: Part, recipe: ViewRecipe) -> Represented:
    indices, h = zip(*((indices, h.cpu()) for indices, h in represent(encoder, part, recipe)))
    return Represented(torch.cat(h), part.images.labels[torch.cat(indices)], part.split)


@torch.no_grad()
def represent(encoder: PreTrainedModel, part: Part, recipe: ViewRecipe) -> Iterator[tuple[Tensor, Tensor]]:
    """Batch by batch, under a progress bar: indices (n,), and representations h (n, H) of the clean images, on the
    device of the images, where the encoder has to be, in eval mode; images that cannot be read are left out. Raises
    UserError for a size that it refuses."""
    chunks = tqdm(part.indices.split(_BATCH), desc=f"representing {part.split}", disable=None)
    for indices, images in part.images.batches(chunks):
        try:
            h = encoder(clean_view(images, recipe)).pooler_output
        except (RuntimeError, ValueError) as error:
            raise UserError(f"no images of {recipe.size} pixels: {first_line(error)}; see --image_size") from error
        yield indices, h.flatten(1).float()
