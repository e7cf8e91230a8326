"""From files to views."""

from pathlib import Path

import torch
from benchmarks.registry import Round, Settings, case
from benchmarks.views import albumentations, lightly_view, torchvision_v1

BATCH = 256  # images of a batch that is only loaded, as of small images in training


def folder_loader(transform, size: int, workers: int, batch: int, settings: Settings, read=None):
    from torchvision.datasets import ImageFolder
    from torchvision.datasets.folder import default_loader

    data = ImageFolder(
        f"{settings.images}/{size}", lambda x: (transform(x), transform(x)), loader=read or default_loader
    )
    return torch.utils.data.DataLoader(data, batch, shuffle=True, num_workers=workers, drop_last=True)


def ours_batches(size: int, batch: int, settings: Settings):
    """Pairs of views, without end."""
    from hf_mi_ssl.data import open_train_and_held_out, training_batches
    from hf_mi_ssl.views import RandomViews, view_recipes

    source = {"dataset_name": "imagefolder", "data_dir": f"{settings.images}/{size}", "train_split": "train"}
    source |= {"eval_split": None, "seed": 0, "image_size": size if size <= 64 else size * 8 // 7}
    train, _ = open_train_and_held_out(**source, device=torch.device(settings.device))
    views = RandomViews(view_recipes("simclr", size), 0)
    for epoch, indices, images in training_batches(train, range(10**6), batch, 0):
        yield views(images, epoch, indices)


def ours_loader(size: int, settings: Settings) -> Round:
    batch, number = batches_of(size, settings)
    batches = ours_batches(size, batch, settings)

    def run():
        for _ in range(number):
            next(batches)
        return {"images": number * batch}

    return run


def loader(make_transform, size: int, workers: int, settings: Settings, read=None) -> Round:
    batch, _ = batches_of(size, settings)
    batches = folder_loader(make_transform(size), size, workers, batch, settings, read)

    def run():
        return {"images": sum(len(views[0]) for views, _ in batches)}

    return run


def batches_of(size: int, settings: Settings) -> tuple[int, int]:
    """How many images of a batch, and how many batches of an epoch."""
    images = len(list(Path(settings.images, str(size)).rglob("*.jpg")))
    batch = min(BATCH if size <= 64 else BATCH // 4, images // 2)
    return batch, images // batch


def read_by_opencv(path: str):
    import cv2

    return cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)


for _size, _of in ((32, 32), (224, 256)):
    _group = f"JPEG of {_of} pixels to two views of {_size}"
    case("loader", _group, "ours", _size)(ours_loader)
    for _workers in (0, 2):
        _name = f"{_workers} workers" if _workers else "no workers"
        case("loader", _group, f"torchvision v1, {_name}", torchvision_v1, _size, _workers)(loader)
        case("loader", _group, f"lightly, {_name}", lightly_view, _size, _workers)(loader)

        @case("loader", _group, f"AlbumentationsX, {_name}", albumentations, _size, _workers)
        def albumentations_loader(*fixed) -> Round:
            return loader(*fixed, read=read_by_opencv)
