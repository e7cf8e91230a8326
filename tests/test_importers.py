"""Checkpoints of others: the imported encoder computes what the network computes, the row is the publisher's loss."""

import copy
import importlib.util
import json
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from transformers import AutoImageProcessor, AutoModel

from hf_mi_ssl import JMIConfig, SDMIConfig, SDMIForPreTraining
from hf_mi_ssl.errors import UserError
from hf_mi_ssl.hub.importers import SOURCES, import_checkpoint
from hf_mi_ssl.methods import METHODS
from hf_mi_ssl.mi import MIObjective
from hf_mi_ssl.training import parse_arguments
from tests.conftest import small_config
from tests.oracles import barlow_twins, dino, swav, vicreg, w_mse

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "import_checkpoint.py"
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


@pytest.mark.parametrize("name", CASES)
def test_the_imported_encoder_computes_what_the_network_does(tmp_path, name):
    net, checkpoint, source = CASES[name]()
    imported = imported_from(tmp_path, checkpoint(net))
    assert imported.source == source
    small = imported.encoder.config.model_type == "mi_resnet"
    assert small == (net.conv1.kernel_size == (3, 3))
    assert imported.image_size == (32 if small else 224)
    expected = representation(net, pixels())
    assert expected.std() > 0.01
    torch.testing.assert_close(h(imported, pixels()), expected, rtol=1e-5, atol=1e-5)
    # every name of the checkpoint is either in the encoder or listed
    given = len(
        next((checkpoint(net)[key] for key in ("state_dict", "model") if key in checkpoint(net)), checkpoint(net))
    )
    assert len(imported.left) + len(net.state_dict()) == given


def test_fair_also_publishes_the_encoder_by_itself(tmp_path):
    """facebookresearch/vicreg, main_vicreg.py: resnet50.pth, which does not tell its source."""
    net = resnet()
    imported = imported_from(tmp_path, net.state_dict(), source="vicreg")
    torch.testing.assert_close(h(imported, pixels()), representation(net, pixels()), rtol=1e-5, atol=1e-5)
    assert imported.row == {"method": "vicreg", "set": {}}
    assert imported_from(tmp_path, net.state_dict()).row is None


def test_widths_are_read_off_the_weights(tmp_path):
    config = imported_from(tmp_path, resnet().state_dict()).encoder.config
    assert (config.depths, config.hidden_sizes, config.layer_type) == ([1] * 4, [16, 32, 64, WIDTH], "basic")
    config = imported_from(tmp_path, resnet(Bottleneck).state_dict()).encoder.config
    assert (config.depths, config.hidden_sizes) == ([1, 2, 1, 1], [256, 512, 1024, 2048])
    assert not config.downsample_in_bottleneck  # v1.5


def test_the_statistics_of_lightlys_split_batch_norms_are_averaged(tmp_path):
    """lightly-ai/lightly, lightly/models/batchnorm.py: a running mean for each part of the batch"""
    net = resnet(stem_padding=1)
    weights = lightly(net, range(6), "shortcut")
    for name in [name for name in weights if "running" in name and name.startswith("backbone.")]:
        weights[name] = torch.cat([0.5 * weights[name], 1.5 * weights[name]])
    imported = imported_from(tmp_path, weights)
    torch.testing.assert_close(h(imported, pixels()), representation(net, pixels()), rtol=1e-5, atol=1e-5)


def test_a_vit_of_moco_v3(tmp_path):
    """facebookresearch/moco-v3, vits.py: timm's names, twelve heads where timm's small ViT has six"""
    torch.manual_seed(0)
    vit = timm.create_model("vit_small_patch16_224", num_heads=12, img_size=32, num_classes=0).eval()
    weights = under("base_encoder.", vit) | under("base_encoder.head.", mlp(384, 64, 64, 32, output_norm=True))
    weights |= under("momentum_encoder.", vit) | under("predictor.", mlp(32, 64, 32, output_norm=True))
    content = {"state_dict": {f"module.{key}": value for key, value in weights.items()}}
    imported = imported_from(tmp_path, content, image_size=32)
    torch.testing.assert_close(h(imported, pixels(32)), representation(vit, pixels(32)), rtol=1e-5, atol=1e-5)
    assert imported.source == "moco_v3_vit"
    columns = imported.row["set"]
    assert (columns["projector_num_layers"], columns["temperature"]) == (3, 0.2)
    assert columns["joint"]["expected_score"] == pytest.approx(0.8)


def test_an_architecture_of_timm(tmp_path):
    torch.manual_seed(0)
    net = settle(timm.create_model("test_resnet", num_classes=7))
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="--encoder timm/"):
        import_checkpoint(tmp_path / "model.safetensors")
    imported = import_checkpoint(tmp_path / "model.safetensors", encoder="timm/test_resnet", image_size=64)
    expected = net.forward_head(net.forward_features(pixels()), pre_logits=True).detach()
    torch.testing.assert_close(h(imported, pixels()), expected, rtol=1e-5, atol=1e-5)
    assert imported.left == ["fc.bias", "fc.weight"]


# -(J − M) of the row against the publisher's loss, up to a constant


def value_of(row: dict, a, b) -> torch.Tensor:
    config = (JMIConfig if METHODS[row["method"]].paradigm == "jmi" else SDMIConfig).from_method(
        row["method"], **row["set"]
    )
    return MIObjective(config.critic, config.temperature, config.joint, config.marginal)(a, b).value


def embeddings():
    return torch.randn(2, 24, 6, generator=torch.Generator().manual_seed(0)).unbind()


def solo_row(tmp_path, **arguments) -> dict:
    (tmp_path / "args.json").write_text(json.dumps(arguments))
    return imported_from(tmp_path, solo_learn(resnet(stem_padding=2))).row


def test_vicreg_of_solo_learn_weighs_the_variance_twice(tmp_path):
    """vturrisi/solo-learn, solo/losses/vicreg.py: the variance term is a sum over the views, not their mean"""
    kwargs = {"sim_loss_weight": 20.0, "var_loss_weight": 15.0, "cov_loss_weight": 2.0}
    row = solo_row(tmp_path, method="vicreg", method_kwargs=kwargs)
    assert row["set"]["marginal"] == {"variance": 30.0, "covariance": 2.0}
    a, b = embeddings()
    variance = sum(F.relu(1 - torch.sqrt(z.var(dim=0) + 1e-4)).mean() for z in (a, b))
    covariance = vicreg.covariance(a) + vicreg.covariance(b)
    loss = 20 * F.mse_loss(a, b) + 15 * variance + 2 * covariance
    torch.testing.assert_close(-value_of(row, a, b), loss)
    assert (row["set"]["projector_hidden_size"], row["set"]["projection_size"]) == (96, 48)


def test_vicreg_of_fair_has_our_convention(tmp_path):
    row = imported_from(tmp_path, vicreg_checkpoint(resnet())).row
    a, b = embeddings()
    torch.testing.assert_close(-value_of(row, a, b), vicreg.loss(a, b, 25.0, 25.0, 1.0))


@pytest.mark.parametrize("early", [False, True])
def test_barlow_twins_of_solo_learn_scales_the_whole_loss(tmp_path, early):
    """vturrisi/solo-learn, solo/losses/barlow.py; before it had sections, hyper-parameters lay beside the method"""
    kwargs = {"lamb": 0.0078, "scale_loss": 0.1}
    row = solo_row(tmp_path, method="barlow_twins", **(kwargs if early else {"method_kwargs": kwargs}))
    a, b = embeddings()
    torch.testing.assert_close(-value_of(row, a, b), 0.1 * barlow_twins.loss(a, b, 0.0078))


def test_barlow_twins_of_fair_has_our_convention(tmp_path):
    row = imported_from(tmp_path, barlow(resnet())).row
    a, b = embeddings()
    torch.testing.assert_close(-value_of(row, a, b), barlow_twins.loss(a, b, 0.0051))


def test_moco_v3_multiplies_by_twice_the_temperature(tmp_path):
    """facebookresearch/moco-v3, moco/builder.py; solo-learn, solo/losses/mocov3.py"""
    row = solo_row(tmp_path, method="mocov3", method_kwargs={"temperature": 0.2})
    a, b = embeddings()
    losses = [
        0.4 * F.cross_entropy(F.normalize(p) @ F.normalize(k).T / 0.2, torch.arange(24)) for p, k in ((a, b), (b, a))
    ]
    ours = (value_of(row, a, b) + value_of(row, b, a)) / 2  # the row averages the orders of the views
    constant = 4 * 0.2 * torch.tensor(24.0).log()
    torch.testing.assert_close(-ours + constant, sum(losses))


def test_w_mse_of_solo_learn_is_our_row(tmp_path):
    """vturrisi/solo-learn, solo/losses/wmse.py; solo/utils/whitening.py at its eps = 1e-3, in one part"""
    kwargs = {"whitening_eps": 1e-3, "whitening_size": 24}
    row = solo_row(tmp_path, method="wmse", method_kwargs=kwargs)
    assert row["set"]["projection_size"] == 48
    a, b = embeddings()
    torch.testing.assert_close(-value_of(row, a, b) + 2, w_mse.loss(a, b, 1e-3))


def prototypes_of(prefix: str, k: int, d: int) -> dict:
    """torch.nn.utils.weight_norm, as both methods use it"""
    return {f"{prefix}.weight_g": torch.ones(k, 1), f"{prefix}.weight_v": torch.randn(k, d)}


def config_of(row) -> SDMIConfig:
    return SDMIConfig.from_method(row["method"], **row["set"])


@pytest.mark.parametrize("given", [{}, {"student_temperature": 0.2, "teacher_temperature": 0.05}])
def test_dino_of_solo_learn(tmp_path, given):
    """vturrisi/solo-learn, solo/methods/dino.py: its head is head.mlp and head.last_layer, without batch norm, and
    the defaults of its temperatures are not the paper's"""
    content = solo_learn(resnet(stem_padding=2))
    head = nn.Sequential(nn.Linear(WIDTH, 96), nn.GELU(), nn.Linear(96, 96), nn.GELU(), nn.Linear(96, 48))
    weights = {name: value for name, value in content["state_dict"].items() if not name.startswith("projector.")}
    for branch in ("head", "momentum_head"):
        weights |= under(f"{branch}.mlp.", head) | prototypes_of(f"{branch}.last_layer", 40, 48)
    weights["dino_loss_func.center"] = torch.zeros(1, 40)
    arguments = {"method": "dino", "method_kwargs": {"num_prototypes": 40} | given}
    arguments["momentum"] = {"base_tau": 0.9995, "final_tau": 1.0, "classifier": False}
    (tmp_path / "args.json").write_text(json.dumps(arguments))
    config = config_of(imported_from(tmp_path, content | {"state_dict": weights}).row)
    assert (config.projector_num_layers, config.projector_hidden_size, config.projection_size) == (3, 96, 48)
    assert (config.projector_hidden_norm, config.projector_activation) == (False, "gelu")
    assert (config.num_prototypes, config.target_momentum, config.target_momentum_end) == (40, 0.9995, 1.0)
    online, target = given.get("student_temperature", 0.1), given.get("teacher_temperature", 0.07)
    assert (config.temperature, config.target_temperature) == (online, target)
    torch.manual_seed(0)
    model = SDMIForPreTraining(small_config("dino", **sizes(config))).eval()
    views = torch.randn(2, 8, 3, 16, 16)
    with torch.no_grad():
        online_scores = [model.prototypes(model.embed(view)) for view in views]
        loss = dino.loss(online_scores, online_scores, torch.zeros(40), online, target)  # the target starts as θ
        torch.testing.assert_close(model(*views).loss, loss)


def test_swav_of_solo_learn(tmp_path):
    """vturrisi/solo-learn, solo/methods/swav.py: 3000 prototypes and ε = 0.05 unless given"""
    content = solo_learn(resnet(stem_padding=2), projector=mlp(WIDTH, 96, 48, bias=True))
    content["state_dict"] |= prototypes_of("prototypes", 3000, 48)
    (tmp_path / "args.json").write_text(json.dumps({"method": "swav", "method_kwargs": {"temperature": 0.2}}))
    config = config_of(imported_from(tmp_path, content).row)
    assert (config.temperature, config.target_temperature, config.num_prototypes) == (0.2, 0.05, 3000)
    assert (config.projector_num_layers, config.projector_hidden_norm, config.projection_size) == (2, True, 48)
    assert config.target == "reset"
    kwargs = {"temperature": 0.1, "sk_epsilon": 0.03, "num_prototypes": 40}
    config = config_of(solo_row(tmp_path, method="swav", method_kwargs=kwargs))
    torch.manual_seed(0)
    model = SDMIForPreTraining(small_config("swav", **sizes(config))).eval()
    views = torch.randn(2, 8, 3, 16, 16)
    with torch.no_grad():
        z = [model.embed(view) for view in views]
        weight = model.prototypes(torch.eye(model.config.projection_size))
        loss = swav.loss(*z, weight.T, 0.1, 0.03, 3)
        torch.testing.assert_close(model(*views).loss, loss)


def sizes(config) -> dict:
    """What an imported row says beside the sizes of its heads."""
    names = ("temperature", "target_temperature", "num_prototypes", "joint", "marginal", "target_momentum")
    return {name: getattr(config, name) for name in names}


@pytest.mark.parametrize(
    ("method", "row"), [("byol", "byol"), ("mocov2plus", "moco_v2"), ("mocov3", "moco_v3"), ("dino", "dino")]
)
def test_the_momentum_of_the_target_is_solo_learns(tmp_path, method, row):
    """vturrisi/solo-learn, solo/methods/base.py: momentum.base_tau, 0.99 unless given, and final_tau, 1"""
    sections = {"method_kwargs": {"temperature": 0.2}, "momentum": {"base_tau": 0.97, "final_tau": 0.999}}
    for arguments, expected in (
        (sections, (0.97, 0.999)),
        ({"method_kwargs": {"temperature": 0.2}}, (0.99, 1.0)),
        ({"temperature": 0.2, "base_tau_momentum": 0.9, "final_tau_momentum": 0.95}, (0.9, 0.95)),
    ):
        found = solo_row(tmp_path, method=method, **arguments)
        assert found["method"] == row
        config = config_of(found)
        assert (config.target_momentum, config.target_momentum_end) == expected


def test_what_a_checkpoint_cannot_tell_is_the_publishers_default(tmp_path):
    assert imported_from(tmp_path, simsiam(resnet())).row == {
        "method": "simsiam",
        "set": {"projection_size": 64, "projector_hidden_size": WIDTH, "predictor_hidden_size": 16},
    }
    first = imported_from(tmp_path, moco(resnet(), nn.Linear(WIDTH, 32))).row
    assert first["method"] == "moco_v2"
    assert first["set"] == {"temperature": 0.07, "projector_num_layers": 1, "projection_size": 32}
    assert imported_from(tmp_path, lightly(resnet())).row is None  # any method has such heads
    assert solo_row(tmp_path, method="mae") is None


def test_images_are_those_of_the_arguments(tmp_path):
    arguments = {"data": {"dataset": "cifar100"}, "augmentations": [{"crop_size": 40}]}
    (tmp_path / "args.json").write_text(json.dumps(arguments))
    imported = imported_from(tmp_path, solo_learn(resnet(stem_padding=2)))
    assert (imported.image_size, imported.mean[0], imported.std[0]) == (40, 0.5071, 0.2673)
    own = imported_from(tmp_path, solo_learn(resnet(stem_padding=2)), image_size=48, mean=(0.1, 0.2, 0.3))
    assert (own.image_size, own.mean, own.std[0]) == (48, (0.1, 0.2, 0.3), 0.2673)


def test_every_source_is_tried():
    assert {source for *_, source in (case() for case in CASES.values())} == set(SOURCES) - {"moco_v3_vit"}


# What cannot be imported


class Arguments:
    """What training scripts save beside weights, and what runs code when it is read."""

    def __reduce__(self):
        return (Path("ran").touch, ())


def damaged(**changes):
    weights = {name: value.clone() for name, value in resnet().state_dict().items()} | changes
    return {name: value for name, value in weights.items() if value is not None}


REFUSED = {
    "code": ({"state_dict": {}, "args": Arguments()}, {}, "holds more than weights"),
    "no weights": ({"epoch": 3}, {}, "holds no weights"),
    "a list": ([torch.zeros(3)], {}, "holds no weights"),
    "unknown names": ({"head.weight": torch.zeros(3, 3)}, {}, "such names .head.weight"),
    "unknown source": (damaged(), {"source": "vicregl"}, "did you mean 'vicreg'"),
    "another source": ({"some.weight": torch.zeros(3)}, {"source": "lightly"}, "a checkpoint of lightly has backbone"),
    "missing": (damaged(**{"layer2.0.bn1.weight": None}), {}, "lacks encoder.stages.1.layers.0.layer.0.normalization"),
    "too many": (damaged(**{"layer1.0.se.weight": torch.ones(2)}), {}, "also has layer1.0.se.weight"),
    "shapes": (damaged(**{"layer1.0.conv2.weight": torch.ones(16, 8, 3, 3)}), {}, r"\(16, 8, 3, 3\) in place of"),
    "not a number": (damaged(**{"bn1.bias": torch.full((64,), torch.nan)}), {}, "undefined values in embedder"),
    "no stem": (damaged(**{"conv1.weight": torch.ones(3)}), {}, "no residual network"),
    "no stage": (damaged(**{f"layer2.0.{name}": None for name in
                            ("conv1.weight", "conv2.weight")}), {}, "no residual network"),
    "not of timm": (damaged(), {"encoder": "resnet50"}, "give timm/<name>"),
    "unknown to timm": (damaged(), {"encoder": "timm/resnet5"}, "did you mean"),
    "arguments": (damaged(), {"arguments": "args.json"}, "--arguments args.json"),
    "mean": (damaged(), {"mean": (0.5,)}, "give three values"),
    "size": (damaged(), {"image_size": 0}, "give a size above 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_one_line(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    content, settings, message = REFUSED[name]
    with pytest.raises(UserError, match=message) as caught:
        imported_from(tmp_path, content, **settings)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"no checkpoint at all", b"PK\x03\x04 half a zip file"])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_no_checkpoint_at_all(tmp_path, content, suffix):
    path = tmp_path / f"broken.{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=path.name):
        import_checkpoint(path)
    with pytest.raises(UserError, match="no file"):
        import_checkpoint(tmp_path / "missing.pth")


# The recipe


def recipe(*argv) -> int:
    spec = importlib.util.spec_from_file_location("import_checkpoint", RECIPE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    before, sys.argv = sys.argv, [RECIPE.name, *map(str, argv)]
    try:
        return module.run_downstream(module.main)
    finally:
        sys.argv = before


@pytest.mark.parametrize("name", ["vicreg", "solo_learn"])
def test_the_recipe_writes_an_encoder_that_loads_and_a_row_that_trains(tmp_path, capsys, name):
    net, checkpoint, _ = CASES[name]()
    torch.save(checkpoint(net), tmp_path / "model.ckpt")
    (tmp_path / "args.json").write_text(json.dumps({"method": "barlow_twins", "method_kwargs": {"scale_loss": 0.1}}))
    out = tmp_path / "out"
    assert recipe(tmp_path / "model.ckpt", "--output_dir", out, "--image_size", 32) == 0
    encoder, report = AutoModel.from_pretrained(out, output_loading_info=True)
    assert not any(report.values())
    with torch.no_grad():
        loaded = encoder(pixels()).pooler_output.flatten(1)
    torch.testing.assert_close(loaded, representation(net, pixels()), rtol=1e-5, atol=1e-5)
    assert AutoImageProcessor.from_pretrained(out).image_mean[0] == 0.485
    about = json.loads((out / "import.json").read_text())
    assert about["source"] == name
    assert any(key.startswith("projector") for key in about["left_out"])
    assert str(tmp_path) not in "".join(path.read_text() for path in out.glob("*.json"))

    args = parse_arguments(["--config", str(out / "method.json"), "--init_from", str(out)], "")
    row = METHODS[args.method]
    config = {"jmi": JMIConfig, "sdmi": SDMIConfig}[row.paradigm].from_method(args.method, **args.columns)
    assert config.projection_size == 48
    assert config.projector_hidden_size == 96
    said = capsys.readouterr().out
    assert f"row: {row.name}" in said
    assert "projector (" in said
    card = (out / "README.md").read_text()
    assert SOURCES[name].about in card
    assert f"`{row.name}`" in card
    assert ("trust_remote_code=True" in card) == (name == "solo_learn")


def test_the_recipe_says_what_is_wrong_in_one_line(tmp_path, capsys):
    assert recipe(tmp_path / "none.pth", "--output_dir", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert said.startswith("import_checkpoint.py: no file")
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()
