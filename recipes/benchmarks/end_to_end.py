"""Training from files. The first call, which the driver times from the start of the process, is the first step."""

import itertools
import time

from benchmarks.loaders import folder_loader, ours_batches
from benchmarks.registry import Round, Settings, case
from benchmarks.steps import lightly_training, ours_training, torchvision_training
from benchmarks.views import lightly_view, torchvision_v1


def trained(batches, step, device: str) -> Round:
    budgets = itertools.chain([0.0], itertools.repeat(10.0))  # seconds: the first round is the first step
    log_steps = 1 if device == "cpu" else 20  # a GPU is asked, and waited for, as often as by the recipe's log

    def run():
        waiting, images, start, budget = 0.0, 0, time.perf_counter(), next(budgets)
        for done in itertools.count(1):
            before = time.perf_counter()
            pair = [view.to(device, non_blocking=True) for view in next(batches)]
            waiting += time.perf_counter() - before  # of the host; a GPU that has work waits less
            loss = step(pair)
            images += len(pair[0])
            if done % log_steps == 0 or budget == 0:
                loss.item()
                if time.perf_counter() - start >= budget:
                    break
        return {"images": images, "waiting": waiting}

    return run


def ours_end_to_end(encoder: str, size: int, settings: Settings) -> Round:
    step = ours_training(encoder, size, settings, "bf16" if settings.device == "cuda" else "no")
    return trained(ours_batches(size, settings.step(size), settings), step, settings.device)


def peer_end_to_end(training, make_transform, encoder: str, size: int, settings: Settings) -> Round:
    step = training(encoder, settings, "bf16" if settings.device == "cuda" else "no")
    workers = 2 if settings.device == "cpu" else 8
    batches = folder_loader(make_transform(size), size, workers, settings.step(size), settings)
    return trained((views for _ in itertools.count() for views, _ in batches), step, settings.device)


for _of in (("mi_resnet18", 32), ("resnet50", 224)):
    _group = f"SimCLR from JPEG files, {_of[0]} at {_of[1]} pixels"
    case("end to end", _group, "ours", *_of)(ours_end_to_end)
    case("end to end", _group, "plain loop, torchvision", torchvision_training, torchvision_v1, *_of)(peer_end_to_end)
    case("end to end", _group, "lightly", lightly_training, lightly_view, *_of)(peer_end_to_end)
