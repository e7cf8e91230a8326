"""Checkpoints of others: the imported encoder computes what the network computes, and mistakes cost one line."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models.resnet import Bottleneck
from transformers import AutoImageProcessor, AutoModel

from hf_mi_ssl import JMIConfig, SDMIConfig
from hf_mi_ssl.errors import UserError
from hf_mi_ssl.hub.importers import SOURCES, import_checkpoint
from hf_mi_ssl.methods import METHODS
from hf_mi_ssl.training import parse_arguments
from tests.publishers import (
    CASES,
    WIDTH,
    h,
    imported_from,
    lightly,
    mlp,
    moco,
    pixels,
    representation,
    resnet,
    settle,
    simsiam,
    solo_learn,
    solo_row,
    under,
)

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "import_checkpoint.py"


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


@pytest.mark.parametrize(("architecture", "classifier"), [("test_resnet", "fc"), ("test_convnext", "head.fc")])
def test_an_architecture_of_timm(architecture, classifier, tmp_path):
    torch.manual_seed(0)
    net = settle(timm.create_model(architecture, num_classes=7))
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="--encoder timm/"):
        import_checkpoint(tmp_path / "model.safetensors")
    imported = import_checkpoint(tmp_path / "model.safetensors", encoder=f"timm/{architecture}", image_size=64)
    expected = net.forward_head(net.forward_features(pixels()), pre_logits=True).detach()
    torch.testing.assert_close(h(imported, pixels()), expected, rtol=1e-5, atol=1e-5)
    assert imported.left == [f"{classifier}.bias", f"{classifier}.weight"]


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
