"""Two augmented views of images in memory."""

import itertools
from functools import partial

import numpy as np
import torch
from benchmarks.registry import MEAN, SIMCLR, STD, Round, Settings, case, decoded


def torchvision_v1(size: int):
    from torchvision import transforms as T

    kernel = 2 * (size // 20) + 1
    blur = [T.RandomApply([T.GaussianBlur(kernel, (0.1, 2.0))], 0.5)] if size > 80 else []
    shape = [T.RandomResizedCrop(size, (0.08, 1)), T.RandomHorizontalFlip()]
    colour = [T.RandomApply([T.ColorJitter(**SIMCLR)], 0.8), T.RandomGrayscale(0.2)]
    return T.Compose([*shape, *colour, *blur, T.ToTensor(), T.Normalize(MEAN, STD)])


def ours_views(size: int, settings: Settings, dtype=torch.uint8) -> Round:
    from hf_mi_ssl.views import RandomViews, view_recipes

    views = RandomViews(view_recipes("simclr", size), 0)
    stored = torch.from_numpy(np.stack(decoded(size, settings)))
    images, epochs = stored.permute(0, 3, 1, 2).contiguous().to(settings.device), itertools.count()
    if dtype != torch.uint8:
        images = images / 255  # what is not bytes is made by tensor code

    def run():
        views(images, next(epochs), torch.arange(len(images)))
        return {"images": len(images)}

    return run


def per_image(make_transform, size: int, settings: Settings, of=lambda x: x) -> Round:
    transform = make_transform(size)
    images = [of(x) for x in decoded(size, settings)]

    def run():
        torch.stack([transform(x) for x in images for _ in range(2)])
        return {"images": len(images)}

    return run


def pil(x: np.ndarray):
    from PIL import Image

    return Image.fromarray(x)


def torchvision_v2(size: int):
    from torchvision.transforms import v2 as T

    kernel = 2 * (size // 20) + 1
    blur = [T.RandomApply([T.GaussianBlur(kernel, (0.1, 2.0))], 0.5)] if size > 80 else []
    shape = [T.RandomResizedCrop(size, (0.08, 1), antialias=True), T.RandomHorizontalFlip()]
    colour = [T.RandomApply([T.ColorJitter(**SIMCLR)], 0.8), T.RandomGrayscale(0.2)]
    return T.Compose([*shape, *colour, *blur, T.ToDtype(torch.float32, scale=True), T.Normalize(MEAN, STD)])


def albumentations(size: int):
    import albumentations as A
    import cv2
    from albumentations.pytorch import ToTensorV2

    cv2.setNumThreads(1)
    kernel = 2 * (size // 20) + 1
    ranges = {f"{name}_range": (1 - s, 1 + s) for name, s in SIMCLR.items()} | {"hue_range": (-0.2, 0.2)}
    blur = [A.GaussianBlur(blur_range=(kernel, kernel), sigma_range=(0.1, 2.0), p=0.5)] if size > 80 else []
    shape = [A.RandomResizedCrop((size, size), scale=(0.08, 1)), A.HorizontalFlip(p=0.5)]
    colour = [A.ColorJitter(**ranges, p=0.8), A.ToGray(p=0.2)]
    transform = A.Compose([*shape, *colour, *blur, A.Normalize(MEAN, STD), ToTensorV2()])
    return lambda x: transform(image=x)["image"]


def lightly_view(size: int):
    from lightly.transforms.simclr_transform import SimCLRViewTransform

    return SimCLRViewTransform(input_size=size, gaussian_blur=0.5 if size > 80 else 0.0)


for _size in (32, 96, 224):
    _group = f"{_size} pixels"
    case("views", _group, "ours", _size)(ours_views)
    if _size > 80:
        case("views", _group, "ours, tensor code", _size)(partial(ours_views, dtype=torch.float32))
    case("views", _group, "torchvision v1", torchvision_v1, _size)(partial(per_image, of=pil))
    _tensor = partial(per_image, of=lambda x: torch.from_numpy(x).permute(2, 0, 1))
    case("views", _group, "torchvision v2, tensors", torchvision_v2, _size)(_tensor)
    case("views", _group, "AlbumentationsX", albumentations, _size)(per_image)
    case("views", _group, "lightly", lightly_view, _size)(partial(per_image, of=pil))
