"""Views by OpenCV, image by image in uint8: what `operations` does, from the same draws, and on a CPU several times
faster once a view has some 96 pixels.

Each operation rounds to whole grey levels, as torchvision's do on uint8 images: it is within one level of the float
operation, a whole view within half a level on average and more where contrast amplifies the rounding.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .draws import ViewParameters
from .recipes import ViewRecipe

_FROM = 96  # pixels a side: below, calls for single images cost more than they save
_INVERTED = np.where(np.arange(256) >= 128, 255 - np.arange(256), np.arange(256)).astype(np.uint8)


def is_faster(images: Tensor, recipe: ViewRecipe) -> bool:
    """Whether views of `images` come from here: uint8 on the CPU, views of 96 pixels or more, OpenCV installed."""
    here = images.dtype == torch.uint8 and images.device.type == "cpu"
    return here and recipe.size >= _FROM and _installed()


@cache
def _installed() -> bool:
    return find_spec("cv2") is not None


def make_view(images: Tensor, parameters: ViewParameters, recipe: ViewRecipe) -> Tensor:
    """One view of uint8 (n, 3, H, W) on the CPU, as of `making.make_views`. Images are spread over torch's threads."""
    import cv2

    cv2.setNumThreads(0)  # its own threads cost more than they save on a single image
    p = parameters
    columns = [p.top, p.left, p.height, p.width, p.flip, p.jitter, p.order, p.factors, p.grayscale, p.blur, p.sigma,
               p.solarize]  # fmt: skip
    drawn = list(zip(*(column.tolist() for column in columns)))
    levels = np.arange(256, dtype=np.float32) / 255
    tables = [(levels - mean) / std for mean, std in zip(np.float32(recipe.mean), np.float32(recipe.std))]
    views = torch.empty(len(images), 3, recipe.size, recipe.size)
    pixels, planes = images.numpy(), views.numpy()

    def make(i: int) -> None:
        view = _make_one(cv2, pixels[i], recipe, *drawn[i])
        for plane, table, out in zip(cv2.split(view), tables, planes[i]):
            cv2.LUT(plane, table, dst=out)

    threads = min(torch.get_num_threads(), len(images))
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(make, range(len(images))))
    else:
        for i in range(len(images)):
            make(i)
    return views


def _make_one(
    cv2, image, recipe, top, left, height, width, flip, jitter, order, factors, grayscale, blur, sigma, solarize
):
    """uint8 (3, H, W) -> uint8 (size, size, 3)"""
    view = _resize(cv2, cv2.merge([*image[:, top : top + height, left : left + width]]), recipe.size)
    if flip:
        view = cv2.flip(view, 1)
    if jitter:
        for number in order:
            view = COLOR_OPERATIONS[number](cv2, view, factors[number])
    if grayscale:
        view = _luma(cv2, view)
    if blur:
        view = _blur(cv2, view, sigma, recipe.blur_kernel)
    return cv2.LUT(view, _INVERTED) if solarize else view


def _resize(cv2, box, size: int):
    """Bilinear, with antialias where a side shrinks: that is torch's, OpenCV has none."""
    height, width, _ = box.shape
    if max(height, width) <= size:
        return cv2.resize(box, (size, size), interpolation=cv2.INTER_LINEAR)
    box = torch.from_numpy(box).permute(2, 0, 1).unsqueeze(0)
    return interpolate(box, (size, size), mode="bilinear", antialias=True)[0].permute(1, 2, 0).numpy()


def _brightness(cv2, view, factor: float):
    return cv2.convertScaleAbs(view, alpha=factor)


def _contrast(cv2, view, factor: float):
    mean = cv2.mean(cv2.cvtColor(view, cv2.COLOR_RGB2GRAY))[0]
    return cv2.addWeighted(view, factor, view, 0.0, (1 - factor) * mean)


def _saturation(cv2, view, factor: float):
    return cv2.addWeighted(view, factor, _luma(cv2, view), 1 - factor, 0.0)


def _hue(cv2, view, factor: float):
    turned = cv2.cvtColor(view.astype(np.float32), cv2.COLOR_RGB2HSV)  # of uint8, it knows 180 hues and no more
    turned = cv2.add(turned, (360 * (factor % 1), 0, 0, 0), dst=turned)  # it takes hues above 360, not below 0
    return cv2.convertScaleAbs(cv2.cvtColor(turned, cv2.COLOR_HSV2RGB))


COLOR_OPERATIONS = (_brightness, _contrast, _saturation, _hue)


def _luma(cv2, view):
    return cv2.cvtColor(cv2.cvtColor(view, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def _blur(cv2, view, sigma: float, kernel_size: int):
    width = min(kernel_size, 2 * int(np.ceil(3.5 * sigma)) + 1)  # beyond 3.5 σ lie 5 · 10⁻⁴ of it
    kernel = cv2.getGaussianKernel(width, sigma, cv2.CV_32F)
    return cv2.sepFilter2D(view, -1, kernel, kernel, borderType=cv2.BORDER_REFLECT_101)
