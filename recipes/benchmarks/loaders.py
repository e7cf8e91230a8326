"""From files to views."""

from pathlib import Path

import torch
from benchmarks.registry import Round, Settings, case
from benchmarks.views import lightly_view, torchvision_v1


def folder_loader(transform, size: int, workers: int, settings: Settings):
    from torchvision.datasets import ImageFolder

    data = ImageFolder(f"{settings.images}/{size}", lambda x: (transform(x), transform(x)))
    return torch.utils.data.DataLoader(data, settings.step(size), shuffle=True, num_workers=workers, drop_last=True)


@case("loader", "JPEG of 32 pixels to two views", "ours")
def ours_loader(settings: Settings) -> Round:
    batches = ours_batches(32, settings)
    total = len(list(Path(settings.images, "32").rglob("*.jpg"))) // settings.batch

    def run():
        for _ in range(total):
            next(batches)
        return {"images": total * settings.batch}

    return run


def ours_batches(size: int, settings: Settings):
    """Pairs of views, without end."""
    from hf_mi_ssl.data import open_train_and_held_out, training_batches
    from hf_mi_ssl.views import RandomViews, view_recipes

    source = {"dataset_name": "imagefolder", "data_dir": f"{settings.images}/{size}", "train_split": "train"}
    source |= {"eval_split": None, "seed": 0, "image_size": size if size <= 64 else size * 8 // 7}
    train, _ = open_train_and_held_out(**source, device=torch.device(settings.device))
    views = RandomViews(view_recipes("simclr", size), 0)
    for epoch, indices, images in training_batches(train, range(10**6), settings.step(size), 0):
        yield views(images, epoch, indices)


def loader(make_transform, workers: int, settings: Settings) -> Round:
    batches = folder_loader(make_transform(32), 32, workers, settings)

    def run():
        return {"images": sum(len(views[0]) for views, _ in batches)}

    return run


for _workers in (0, 2):
    _name = f"{_workers} workers" if _workers else "no workers"
    _group = "JPEG of 32 pixels to two views"
    case("loader", _group, f"torchvision v1, {_name}", torchvision_v1, _workers)(loader)
    case("loader", _group, f"lightly, {_name}", lightly_view, _workers)(loader)
