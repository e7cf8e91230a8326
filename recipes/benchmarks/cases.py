"""What is timed, ours and others': for each (part, group) the cases by name, ours first.

A case is a function of the settings that prepares everything and returns one of no arguments: a round, which returns
what it did, {"images": …} at least. Each case runs in a process of its own, and a library that is not installed raises
ImportError there. Peers do what their examples do.
"""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIMCLR = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}


@dataclass(frozen=True)
class Settings:
    device: str
    images: str  # a directory with JPEG images of 32 pixels in `32`, and for GPUs of 256 in `224`
    batch: int  # of a step
    count: int  # images whose views make a round; of 32 pixels, four times as many
    scale: float = 1.0  # shrinks what is timed, for tests

    def step(self, size: int) -> int:
        """Images of a step at that size: several cases hold the memory of a GPU at once."""
        return self.batch if size <= 64 else max(2, self.batch // 4)


Round = Callable[[], dict]
CASES: dict[tuple[str, str], dict[str, Callable[[Settings], Round]]] = {}


def case(part: str, group: str, name: str, *fixed):
    def keep(build):
        CASES.setdefault((part, group), {})[name] = partial(build, *fixed) if fixed else build
        return build

    return keep


def decoded(size: int, settings: Settings) -> list[np.ndarray]:
    """Images whose views are to have `size` pixels: of that size, or, as ImageNet's, an eighth larger."""
    return pictures(4 * settings.count, size) if size <= 64 else pictures(settings.count, size * 8 // 7)


def pictures(n: int, size: int) -> list[np.ndarray]:
    """Smooth patches under grain, uint8 (size, size, 3): compressible, of all colours."""
    from PIL import Image

    draw = np.random.default_rng(0)
    found = []
    for _ in range(n):
        patches = Image.fromarray(draw.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((size, size), 3)
        found.append(np.clip(np.asarray(patches) + draw.normal(0, 8, (size, size, 3)), 0, 255).astype(np.uint8))
    return found


# Views


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


# From files to views


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


# The step


def ours_step(encoder: str, size: int, settings: Settings, precision: str = "no", compiled: bool = False) -> Round:
    step = ours_training(encoder, size, settings, precision, compiled)
    pair = [torch.randn(settings.step(size), 3, size, size, device=settings.device) for _ in range(2)]
    facts = {} if compiled else {"flops": flops_of(lambda: step(pair))}

    def run():
        step(pair)
        return {"images": len(pair[0])} | facts

    return run


def ours_training(encoder: str, size: int, settings: Settings, precision: str = "no", compiled: bool = False):
    """A function that takes a training step of SimCLR on a pair of views, as the recipe does."""
    from accelerate import Accelerator

    from hf_mi_ssl import JMIConfig, JMIForPreTraining
    from hf_mi_ssl.encoders import encoder_config
    from hf_mi_ssl.training import PretrainingArguments, build_optimizer, build_seeded, forward_backward

    config = JMIConfig.from_method("simclr", encoder_config=encoder_config(encoder, size), projector_hidden_size=512)
    model = build_seeded(0, JMIForPreTraining, config)
    backend = "inductor" if compiled else None
    accelerator = Accelerator(mixed_precision=precision, cpu=settings.device == "cpu", dynamo_backend=backend)
    args = PretrainingArguments(optimizer="sgd", learning_rate=0.06)
    network, optimizer = accelerator.prepare(model, build_optimizer(model, args))

    def step(pair):
        outputs = forward_backward(accelerator, network, tuple(pair), len(pair[0]))
        optimizer.step()
        optimizer.zero_grad()
        return outputs.loss

    return step


def flops_of(function) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def torchvision_training(encoder: str, settings: Settings, precision: str, loss=None, head=None):
    """The loop of the peers' examples: two forwards of torchvision's network, a head, a loss, SGD."""
    import torchvision

    network = getattr(torchvision.models, encoder.removeprefix("mi_"))()
    if encoder.startswith("mi_"):  # their stem for small images
        network.conv1, network.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    width, network.fc = network.fc.in_features, nn.Identity()
    if head is None:
        head = nn.Sequential(nn.Linear(width, 512, bias=False), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 128))
    else:
        head = head(width, 512, 128)
    model, loss = nn.Sequential(network, head).to(settings.device), loss or plain_nt_xent
    optimizer = torch.optim.SGD(model.parameters(), 0.06, momentum=0.9, weight_decay=5e-4)
    bf16 = torch.autocast(settings.device, torch.bfloat16, enabled=precision == "bf16")

    def step(pair):
        optimizer.zero_grad()
        with bf16:
            z = [model(view) for view in pair]
        value = loss(*(x.float() for x in z))
        value.backward()
        optimizer.step()
        return value

    return step


def plain_nt_xent(a: Tensor, b: Tensor) -> Tensor:
    z = nn.functional.normalize(torch.cat([a, b]), dim=1)
    scores = (z @ z.T / 0.5).fill_diagonal_(-torch.inf)
    return nn.functional.cross_entropy(scores, torch.arange(len(z), device=z.device).roll(len(a)))


def peer_step(training, encoder: str, size: int, settings: Settings, precision: str = "no") -> Round:
    step = training(encoder, settings, precision)
    pair = [torch.randn(settings.step(size), 3, size, size, device=settings.device) for _ in range(2)]

    def run():
        step(pair)
        return {"images": len(pair[0])}

    return run


def lightly_training(encoder: str, settings: Settings, precision: str):
    from lightly.loss import NTXentLoss
    from lightly.models.modules.heads import SimCLRProjectionHead

    return torchvision_training(encoder, settings, precision, NTXentLoss(temperature=0.5), SimCLRProjectionHead)


def solo_training(encoder: str, settings: Settings, precision: str):
    from solo.losses.simclr import simclr_loss_func

    def loss(a, b):
        indices = torch.arange(len(a), device=a.device).repeat(2)
        return simclr_loss_func(torch.cat([a, b]), indices, temperature=0.5)

    return torchvision_training(encoder, settings, precision, loss)


for _encoder, _size in (("mi_resnet18", 32), ("resnet50", 224)):
    for _precision in ("no", "bf16"):
        _group = f"{_encoder} at {_size} pixels, {'float32' if _precision == 'no' else 'bf16'}"
        case("step", _group, "ours", _encoder, _size)(partial(ours_step, precision=_precision))
        if _precision == "bf16":
            _compiled = partial(ours_step, precision=_precision, compiled=True)
            case("step", _group, "ours, compiled", _encoder, _size)(_compiled)
        for _peer, _training in (
            ("plain loop, torchvision", torchvision_training),
            ("lightly", lightly_training),
            ("solo-learn's loss", solo_training),
        ):
            case("step", _group, _peer, _training, _encoder, _size)(partial(peer_step, precision=_precision))


# End to end: the first call, which the driver times from the start of the process, is the first step


def trained(batches, step, device: str) -> Round:
    budgets = itertools.chain([0.0], itertools.repeat(5.0))  # seconds: the first round is the first step

    def run():
        waiting, images, start, budget = 0.0, 0, time.perf_counter(), next(budgets)
        while images == 0 or time.perf_counter() - start < budget:
            before = time.perf_counter()
            pair = [view.to(device, non_blocking=True) for view in next(batches)]
            waiting += time.perf_counter() - before
            step(pair).item()  # so that the time of a step is not taken for waiting
            images += len(pair[0])
        return {"images": images, "waiting": waiting}

    return run


def ours_end_to_end(encoder: str, size: int, settings: Settings) -> Round:
    step = ours_training(encoder, size, settings, "bf16" if settings.device == "cuda" else "no")
    return trained(ours_batches(size, settings), step, settings.device)


def peer_end_to_end(training, make_transform, encoder: str, size: int, settings: Settings) -> Round:
    step = training(encoder, settings, "bf16" if settings.device == "cuda" else "no")
    batches = folder_loader(make_transform(size), size, 2 if settings.device == "cpu" else 8, settings)
    return trained((views for _ in itertools.count() for views, _ in batches), step, settings.device)


for _of in (("mi_resnet18", 32), ("resnet50", 224)):
    _group = f"SimCLR from JPEG files, {_of[0]} at {_of[1]} pixels"
    case("end to end", _group, "ours", *_of)(ours_end_to_end)
    case("end to end", _group, "plain loop, torchvision", torchvision_training, torchvision_v1, *_of)(peer_end_to_end)
    case("end to end", _group, "lightly", lightly_training, lightly_view, *_of)(peer_end_to_end)


# Evaluation


def representations(settings: Settings):
    n, d, classes = max(512, int(50_000 * settings.scale)), 512, 10
    draw = torch.Generator().manual_seed(0)
    centres = torch.randn(classes, d, generator=draw)
    labels = torch.randint(classes, (n + n // 5,), generator=draw)
    h = (centres[labels] + 6 * torch.randn(len(labels), d, generator=draw)).to(settings.device)
    labels = labels.to(settings.device)
    return h[:n], labels[:n], h[n:], labels[n:], classes


def timed(function, **facts) -> Round:
    def run():
        function()
        return {"images": 1} | facts

    return run


@case("evaluation", "kNN, 50k × 512, k = 200", "ours")
def ours_knn(settings: Settings) -> Round:
    from hf_mi_ssl.evaluation import knn_predict

    train, y, test, _, classes = representations(settings)
    return timed(lambda: knn_predict(train, y, test, classes, 200, 0.1))


@case("evaluation", "kNN, 50k × 512, k = 200", "lightly")
def lightly_knn(settings: Settings) -> Round:
    from lightly.utils.benchmarking import knn_predict

    train, y, test, _, classes = representations(settings)
    bank = nn.functional.normalize(train, dim=1).T.contiguous()
    rows = nn.functional.normalize(test, dim=1).split(256)
    return timed(lambda: [knn_predict(part, bank, y, classes, 200, 0.1) for part in rows])


@case("evaluation", "linear probe, 50k × 512", "ours: 6 learning rates, chosen and fitted again")
def ours_probe(settings: Settings) -> Round:
    from hf_mi_ssl.evaluation import linear_probe

    data = representations(settings)
    return timed(lambda: linear_probe(*data, seed=0))


@case("evaluation", "linear probe, 50k × 512", "ours: ridge, 7 penalties")
def ours_ridge(settings: Settings) -> Round:
    from hf_mi_ssl.evaluation import ridge_probe

    data = representations(settings)
    return timed(lambda: ridge_probe(*data, seed=0))


@case("evaluation", "linear probe, 50k × 512", "plain loop: 1 learning rate, 30 epochs of a DataLoader")
def plain_probe(settings: Settings) -> Round:
    train, y, *_, classes = representations(settings)
    data = torch.utils.data.TensorDataset(train, y)

    def fit():
        layer = nn.Linear(train.shape[1], classes).to(train.device)
        optimizer = torch.optim.SGD(layer.parameters(), 0.1, momentum=0.9)
        for _ in range(30):
            for h, labels in torch.utils.data.DataLoader(data, 256, shuffle=True):
                optimizer.zero_grad()
                nn.functional.cross_entropy(layer(h), labels).backward()
                optimizer.step()

    return timed(fit)


# Terms: forward and backward


def term(name: str, form: str, n: int, d: int, settings: Settings) -> Round:
    from benchmarks.terms import embeddings, forms

    function, (a, b) = forms(name, n, d)[form], embeddings(n, d, settings.device)

    def run():
        a.grad = b.grad = None
        function(a, b).backward()
        return {"images": 1}

    return run


def _terms() -> None:
    from benchmarks.terms import OF_DIMENSIONS, PLAIN, forms

    for name in PLAIN:
        shapes = [(256, 2048), (256, 8192)] if name in OF_DIMENSIONS else [(256, 128), (4096, 128), (16384, 128)]
        for n, d in shapes:
            for form in forms(name, n, d):
                label = "ours" if form == "ours" else f"plain: {form}"
                case("terms", f"{name}, N = {n}, D = {d}", label, name, form, n, d)(term)


# What the machine can do


def matmul(dtype: torch.dtype, settings: Settings) -> Round:
    n = 8192 if settings.device == "cuda" else 1024
    x, y = (torch.randn(n, n, device=settings.device).to(dtype) for _ in range(2))

    def run():
        for _ in range(4):
            x @ y
        return {"images": 1, "flops": 4 * 2 * n**3}

    return run


case("roofline", "matrix product", "float32", torch.float32)(matmul)
case("roofline", "matrix product", "bf16", torch.bfloat16)(matmul)


@case("roofline", "copy", "float32")
def copy(settings: Settings) -> Round:
    source = torch.zeros(2**28 if settings.device == "cuda" else 2**25, device=settings.device)
    target = torch.empty_like(source)

    def run():
        target.copy_(source)
        return {"images": 1, "bytes": 2 * source.nbytes}

    return run


_terms()
