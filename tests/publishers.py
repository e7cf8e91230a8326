"""Networks of other publishers, and checkpoints of them as they write them."""

import copy
import json
from itertools import pairwise

import timm
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from hf_mi_ssl.hub.importers import import_checkpoint

WIDTH = 128  # of h


def settle(net: nn.Module) -> nn.Module:
    """Random weights everywhere, batch norms that have seen something: no equality by initial values."""
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.running_mean.normal_(std=0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
                nn.init.normal_(module.bias, std=0.1, generator=generator)
    return net.eval()


def resnet(block=None, stem_padding: int | None = None) -> nn.Module:
    """torchvision's ResNet of this block, else a narrow one of timm, whose names are the same; with a padding, one for
    small images."""
    torch.manual_seed(0)
    if block:
        net = ResNet(block, [1, 2, 1, 1])
        net.fc = nn.Identity()
    else:
        net = timm.models.resnet.ResNet(
            timm.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=0, channels=(16, 32, 64, WIDTH)
        )
    if stem_padding is not None:
        net.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=stem_padding, bias=False)
        net.maxpool = nn.Identity()
    return settle(net)


def under(prefix: str, module: nn.Module) -> dict:
    return {prefix + name: value for name, value in module.state_dict().items()}


def mlp(*widths: int, bias=False, output_norm=False, norm=True) -> nn.Sequential:
    layers = []
    for given, made in pairwise(widths):
        layers += [nn.Linear(given, made, bias=bias), *([nn.BatchNorm1d(made)] if norm else []), nn.ReLU()]
    layers = layers[: -2 if norm else -1]
    return nn.Sequential(*layers, *([nn.BatchNorm1d(widths[-1], affine=False)] if output_norm else []))


def other(net: nn.Module) -> nn.Module:
    """The same names with other weights: the branch that must not be imported."""
    net = copy.deepcopy(net)
    for parameter in net.parameters():
        parameter.data.mul_(2)
    return net


def representation(net, pixels) -> torch.Tensor:
    with torch.no_grad():
        return net(pixels)


def h(imported, pixels) -> torch.Tensor:
    with torch.no_grad():
        return imported.encoder(pixels).pooler_output.flatten(1)


def pixels(size: int = 64) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def imported_from(tmp_path, content, name="checkpoint.pth", **settings):
    torch.save(content, tmp_path / name)
    return import_checkpoint(tmp_path / name, **settings)


def simsiam(net):
    """facebookresearch/simsiam, simsiam/builder.py and main_simsiam.py"""
    heads = under("encoder.fc.", mlp(WIDTH, WIDTH, WIDTH, 64, output_norm=True)) | under("predictor.", mlp(64, 16, 64))
    weights = under("encoder.", net) | heads
    return {"epoch": 1, "arch": "resnet18", "state_dict": {f"module.{key}": value for key, value in weights.items()}}


def moco(net, head):
    """facebookresearch/moco, moco/builder.py and main_moco.py"""
    weights = under("encoder_q.", net) | under("encoder_q.fc.", head) | under("encoder_k.", other(net))
    weights |= under("encoder_k.fc.", head) | {"queue": torch.randn(32, 8), "queue_ptr": torch.zeros(1).long()}
    return {"epoch": 1, "state_dict": {f"module.{key}": value for key, value in weights.items()}}


def moco_v3(net):
    """facebookresearch/moco-v3, moco/builder.py"""
    weights = under("base_encoder.", net) | under("base_encoder.fc.", mlp(WIDTH, 96, 32, output_norm=True))
    weights |= under("momentum_encoder.", other(net)) | under("momentum_encoder.fc.", mlp(WIDTH, 96, 32))
    weights |= under("predictor.", mlp(32, 96, 32, output_norm=True))
    return {"epoch": 1, "state_dict": {f"module.{key}": value for key, value in weights.items()}}


def barlow(net):
    """facebookresearch/barlowtwins, main.py"""
    weights = under("backbone.", net) | under("projector.", mlp(WIDTH, 96, 96, 48))
    weights |= under("bn.", nn.BatchNorm1d(48, affine=False))
    return {"epoch": 1, "model": {f"module.{key}": value for key, value in weights.items()}}


def vicreg_checkpoint(net):
    """facebookresearch/vicreg, main_vicreg.py"""
    weights = under("backbone.", net) | under("projector.", mlp(WIDTH, 96, 96, 48, bias=True))
    return {"epoch": 1, "model": {f"module.{key}": value for key, value in weights.items()}}


def solo_learn(net, encoder="backbone", projector=None):
    """vturrisi/solo-learn, solo/methods/base.py, as Lightning saves it"""
    weights = under(f"{encoder}.", net) | under("classifier.", nn.Linear(WIDTH, 10))
    weights |= under("projector.", projector or mlp(WIDTH, 96, 96, 48, bias=True))
    weights |= under(f"momentum_{encoder}.", other(net))
    return {"epoch": 1, "pytorch-lightning_version": "2.0.0", "state_dict": weights, "callbacks": {}}


def lightly(net, numbers=(0, 1, 4, 5, 6, 7), shortcut="downsample"):
    """lightly-ai/lightly, examples/pytorch/simsiam.py: the network as the sequence of its children"""
    names = dict(zip(("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"), numbers))
    weights = {}
    for name, value in net.state_dict().items():
        first, _, rest = name.partition(".")
        weights[f"backbone.{names[first]}.{rest}".replace("downsample", shortcut)] = value
    return weights | under("projection_head.layers.", mlp(WIDTH, 96, 48)) | under(
        "prediction_head.layers.", mlp(48, 16, 48)
    )  # fmt: skip


# name: (network, its checkpoint, the source that is detected)
CASES = {
    "torchvision": lambda: (resnet(BasicBlock), lambda net: net.state_dict(), "torchvision"),
    "torchvision bottleneck": lambda: (resnet(Bottleneck), lambda net: net.state_dict(), "torchvision"),
    "a stem for small images": lambda: (resnet(stem_padding=1), lambda net: net.state_dict(), "torchvision"),
    "timm": lambda: (resnet(), lambda net: net.state_dict(), "torchvision"),
    "simsiam": lambda: (resnet(), simsiam, "simsiam"),
    "moco_v1": lambda: (resnet(), lambda net: moco(net, nn.Linear(WIDTH, 32)), "moco_v1"),
    "moco_v2": lambda: (resnet(), lambda net: moco(net, mlp(WIDTH, WIDTH, 32, norm=False, bias=True)), "moco_v2"),
    "moco_v3": lambda: (resnet(), moco_v3, "moco_v3"),
    "barlow_twins": lambda: (resnet(), barlow, "barlow_twins"),
    "vicreg": lambda: (resnet(), vicreg_checkpoint, "vicreg"),
    "solo_learn": lambda: (resnet(stem_padding=2), solo_learn, "solo_learn"),
    "solo_learn, ImageNet": lambda: (resnet(), solo_learn, "solo_learn"),
    "solo_learn, early": lambda: (resnet(stem_padding=2), lambda net: solo_learn(net, "encoder"), "solo_learn"),
    "lightly": lambda: (resnet(), lightly, "lightly"),
    "lightly, small images": lambda: (
        resnet(stem_padding=1), lambda net: {"state_dict": lightly(net, range(6), "shortcut")}, "lightly"
    ),
    "lightly, benchmarks": lambda: (
        resnet(), lambda net: under("backbone.", net) | under("projection_head.layers.", mlp(WIDTH, 96, 48)), "lightly"
    ),
}  # fmt: skip


def solo_row(tmp_path, **arguments) -> dict:
    (tmp_path / "args.json").write_text(json.dumps(arguments))
    return imported_from(tmp_path, solo_learn(resnet(stem_padding=2))).row


def sizes(config) -> dict:
    """What an imported row says beside the sizes of its heads."""
    names = ("temperature", "target_temperature", "num_prototypes", "joint", "marginal", "target_momentum")
    return {name: getattr(config, name) for name in names}
