"""The parameters of a view: a pure function of (seed, epoch, image index, view).

They are drawn on the CPU, a few hundred bytes for an image, so that every device makes the same views, and a device
that is busy training is not waited for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor

from ..counter import uniform
from .recipes import ViewRecipe

_TRIES = 10  # torchvision's, after which the crop is the centre
_ORDERS = torch.tensor(list(permutations(range(4))))  # (24, 4)
# How many uniform numbers each parameter takes. The position is part of the key: append, never insert.
_WIDTHS = {"area": _TRIES, "ratio": _TRIES, "position": 2, "flip": 1, "jitter": 1, "order": 1, "factors": 4}
_WIDTHS |= {"grayscale": 1, "blur": 1, "sigma": 1, "solarize": 1}


@dataclass(frozen=True)
class ViewParameters:
    """What is done to each of n images, on the CPU: integers, masks and float32, (n,) unless said."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    flip: Tensor
    jitter: Tensor
    order: Tensor  # (n, 4), a permutation of 0 … 3 in each row
    factors: Tensor  # (n, 4): brightness, contrast, saturation, hue
    grayscale: Tensor
    blur: Tensor
    sigma: Tensor
    solarize: Tensor

    @classmethod
    def joined(cls, parts: Sequence["ViewParameters"]) -> "ViewParameters":
        """Those of all parts, one after the other."""
        return cls(*map(torch.cat, zip(*(vars(part).values() for part in parts), strict=True)))


def draw_parameters(
    recipe: ViewRecipe, height: int, width: int, seed: int, epoch: int, indices: Tensor, view: int
) -> ViewParameters:
    """Draw for the images number `indices` (n,) of a data set, of height × width pixels, and view number `view`."""
    draws = torch.arange(sum(_WIDTHS.values()))
    table = uniform("view", seed, epoch, indices.cpu().unsqueeze(1), view, draws)  # (n, 34)
    u = dict(zip(_WIDTHS, table.split(list(_WIDTHS.values()), dim=1), strict=True))
    strength = torch.tensor((recipe.brightness, recipe.contrast, recipe.saturation))
    low, high = (1 - strength).clamp_min(0), 1 + strength
    return ViewParameters(
        **crop_boxes(u["area"], u["ratio"], u["position"], height, width, recipe.crop_scale, recipe.crop_ratio),
        flip=u["flip"][:, 0] < recipe.flip,
        jitter=u["jitter"][:, 0] < recipe.jitter_probability,
        order=_ORDERS[(u["order"][:, 0] * len(_ORDERS)).long()],
        factors=torch.cat(
            (low + u["factors"][:, :3] * (high - low), (2 * u["factors"][:, 3:] - 1) * recipe.hue), dim=1
        ),
        grayscale=u["grayscale"][:, 0] < recipe.grayscale,
        blur=u["blur"][:, 0] < recipe.blur,
        sigma=_between(*recipe.blur_sigma, u["sigma"][:, 0]),
        solarize=u["solarize"][:, 0] < recipe.solarize,
    )


def crop_boxes(
    u_area: Tensor,  # (n, 10)
    u_ratio: Tensor,  # (n, 10)
    u_position: Tensor,  # (n, 2)
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> dict[str, Tensor]:
    """Boxes `top`, `left`, `height`, `width`, int64 (n,), from uniform numbers: torchvision's `RandomResizedCrop`.

    The first of ten tries that fits into the image; if none does, the largest centred box within `ratio`.
    """
    # In float64, so that the rounding of exp(), which varies with its place in the batch, cannot move a box.
    area = height * width * _between(*scale, u_area.double())
    low, high = torch.tensor(ratio, dtype=torch.float64).log().tolist()
    aspect = torch.exp(_between(low, high, u_ratio.double()))
    heights, widths = (area / aspect).sqrt().round().long(), (area * aspect).sqrt().round().long()
    fits = (heights > 0) & (heights <= height) & (widths > 0) & (widths <= width)
    first = fits.int().argmax(dim=1, keepdim=True)
    found = fits.any(dim=1)
    box_height = torch.where(found, heights.gather(1, first).squeeze(1), min(height, round(width / min(ratio))))
    box_width = torch.where(found, widths.gather(1, first).squeeze(1), min(width, round(height * max(ratio))))
    room_above, room_left = height - box_height, width - box_width
    top, left = (u_position.double() * torch.stack((room_above + 1, room_left + 1), dim=1)).long().unbind(1)
    top, left = torch.where(found, top, room_above // 2), torch.where(found, left, room_left // 2)
    return {"top": top, "left": left, "height": box_height, "width": box_width}


def _between(low: float, high: float, u: Tensor) -> Tensor:
    return low + (high - low) * u
