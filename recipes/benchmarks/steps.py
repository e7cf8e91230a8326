"""The training step."""

from functools import partial

import torch
from benchmarks.registry import Round, Settings, case
from torch import Tensor, nn


def ours_step(encoder: str, size: int, settings: Settings, precision: str = "no", compiled: bool = False) -> Round:
    step = ours_training(encoder, size, settings, precision, compiled)
    pair = [torch.randn(settings.step(size), 3, size, size, device=settings.device) for _ in range(2)]
    facts = {} if compiled else {"flops": flops_of(lambda: step(pair))}

    def run():
        step(pair)
        return {"images": len(pair[0])} | facts

    return run


def ours_training(encoder: str, size: int, settings: Settings, precision: str = "no", compiled: bool = False):
    """A function that takes a training step of SimCLR on a pair of views, as the recipe does but for schedules and
    log: steps that go wrong are told, and put back."""
    from accelerate import Accelerator

    from hf_mi_ssl import JMIConfig, JMIForPreTraining
    from hf_mi_ssl.encoders import encoder_config
    from hf_mi_ssl.training import PretrainingArguments, build_optimizer, build_seeded, forward_backward
    from hf_mi_ssl.training.updates import Updates

    config = JMIConfig.from_method("simclr", encoder_config=encoder_config(encoder, size), projector_hidden_size=512)
    model = build_seeded(0, JMIForPreTraining, config)
    backend = "inductor" if compiled else None
    accelerator = Accelerator(mixed_precision=precision, cpu=settings.device == "cpu", dynamo_backend=backend)
    args = PretrainingArguments(optimizer="sgd", learning_rate=0.06)
    network, optimizer = accelerator.prepare(model, build_optimizer(model, args))

    updates = Updates(accelerator, model, optimizer)

    def step(pair):
        updates.begin()
        with accelerator.accumulate(network):
            outputs = forward_backward(accelerator, network, tuple(pair), len(pair[0]))
            updates.step(outputs.loss)
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
    return torchvision_training(encoder, settings, precision, solo_nt_xent(0.5))


def solo_nt_xent(temperature: float):
    from solo.losses.simclr import simclr_loss_func

    def loss(a, b):
        indices = torch.arange(len(a), device=a.device).repeat(2)
        return simclr_loss_func(torch.cat([a, b]), indices, temperature=temperature)

    return loss


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
