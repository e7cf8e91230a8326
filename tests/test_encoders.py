"""Encoders by name: each builds what it says, with its library's own initial weights; loading refuses the rest."""

import json
import math
import re
import subprocess
import sys

import pytest
import timm
import torch
import transformers as hf
from huggingface_hub import constants
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, ResNetConfig, ResNetModel

from hf_mi_ssl.encoders import ENCODERS, build_encoder, encoder_config, load_encoder, representation_size
from hf_mi_ssl.encoders.configuration_mi_resnet import MIResNetConfig
from hf_mi_ssl.encoders.modeling_mi_resnet import MIResNetBackbone, MIResNetForImageClassification, MIResNetModel
from hf_mi_ssl.errors import UserError

STOCK = {"resnet_tiny": 128, "resnet18": 512, "resnet50": 2048, "mi_resnet18": 512, "mi_resnet50": 2048}
STOCK |= {"convnextv2_atto": 320, "convnextv2_nano": 640, "convnextv2_tiny": 768, "dinov2_small": 384}
# The head of mobilenetv3 widens its 576 channels.
WIDTHS = STOCK | {"timm/resnet10t": 512, "timm/vit_tiny_patch16_224": 192, "timm/mobilenetv3_small_100": 1024}
TINY = {"depths": [1, 1], "hidden_sizes": [8, 16], "embedding_size": 8, "layer_type": "basic"}
NARROW = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}


def one_line(reason, function, *arguments):
    """The text of the UserError that a call raises: one line that gives the reason."""
    with pytest.raises(UserError, match=re.escape(reason)) as error:
        function(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_name_has_its_width_here():
    assert set(STOCK) == set(ENCODERS)


@pytest.mark.parametrize("image_size", [32, 64, 224])
@pytest.mark.parametrize("name", WIDTHS)
def test_representation_size_is_the_width_of_pooler_output(name, image_size):
    """(1, 3, S, S) -> pooler_output.flatten(1) of that width, on the meta device."""
    config = encoder_config(name, image_size)
    with torch.device("meta"):
        encoder = build_encoder(config).eval()
        pooled = encoder(pixel_values=torch.zeros(1, 3, image_size, image_size)).pooler_output
    assert pooled.flatten(1).shape == (1, WIDTHS[name])
    assert representation_size(config) == WIDTHS[name]
    assert type(AutoConfig.for_model(**config.to_dict())) is type(config)  # it nests in another configuration


@pytest.mark.parametrize("name", ["resnet_tiny", "mi_resnet18", "convnextv2_atto", "dinov2_small", "timm/resnet10t"])
def test_every_parameter_is_used(name):
    """Otherwise distributed training stops at the second step."""
    with torch.device("meta"):
        encoder = build_encoder(encoder_config(name, 32))
        encoder(pixel_values=torch.zeros(2, 3, 32, 32)).pooler_output.sum().backward()
    assert [key for key, parameter in encoder.named_parameters() if parameter.grad is None] == []


def test_mi_resnet18_is_the_small_image_resnet_of_the_literature():
    """11,168,832 parameters, as resnet18 of SimSiam's and SimCLR's CIFAR runs without its classifier; 4×4 map."""
    encoder = build_encoder(encoder_config("mi_resnet18", 32)).eval()
    assert encoder.num_parameters() == 11_168_832
    stem = encoder.embedder.embedder.convolution
    assert (stem.kernel_size, stem.stride, stem.padding) == ((3, 3), (1, 1), (1, 1))
    assert not [m for m in encoder.modules() if isinstance(m, torch.nn.MaxPool2d)]
    with torch.no_grad():
        assert encoder(torch.randn(1, 3, 32, 32)).last_hidden_state.shape == (1, 512, 4, 4)


def test_mi_resnet_starts_as_resnet_does():
    """He initialisation by fan-out in every convolution, the stem included; batch norms at one and zero."""
    encoder = build_encoder(encoder_config("mi_resnet18", 32))
    for module in encoder.modules():
        if isinstance(module, torch.nn.Conv2d):
            expected = (2 / (module.out_channels * module.kernel_size[0] * module.kernel_size[1])) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=0.1)
        if isinstance(module, torch.nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()


def test_mi_resnet_is_registered_with_the_auto_classes(tmp_path):
    config = MIResNetConfig(**TINY)
    assert type(AutoModel.from_config(config)) is MIResNetModel
    assert type(hf.AutoBackbone.from_config(config)) is MIResNetBackbone
    assert type(hf.AutoModelForImageClassification.from_config(config)) is MIResNetForImageClassification
    MIResNetModel(config).save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is MIResNetConfig
    assert MIResNetBackbone(config)(torch.randn(1, 3, 16, 16)).feature_maps[-1].shape == (1, 16, 8, 8)


@pytest.mark.parametrize("wrong", [{"layer_type": "dense"}, {"embedding_size": "64"}])
def test_mi_resnet_fields_are_checked(wrong):
    with pytest.raises(StrictDataclassError, match=next(iter(wrong))):
        MIResNetConfig(**wrong)


def test_timm_encoders_start_as_timm_starts_them():
    """Spread of each convolution as in a fresh timm model, to 6 standard errors; batch norms equal, zeros included."""
    built = build_encoder(encoder_config("timm/resnet10t", 64)).timm_model.state_dict()
    fresh = timm.create_model("resnet10t", num_classes=0).state_dict()
    for key, weight in fresh.items():
        if weight.ndim == 4:
            assert built[key].std().item() == pytest.approx(weight.std().item(), rel=6 / weight.numel() ** 0.5)
        elif weight.ndim == 1:
            assert torch.equal(built[key], weight)


def test_an_outer_model_keeps_timms_initial_weights():
    """The outer model's post_init skips an encoder that has been initialised."""

    class Outer(hf.PreTrainedModel):
        config_class = ResNetConfig

        def __init__(self, config):
            super().__init__(config)
            self.encoder = build_encoder(encoder_config("timm/resnet10t", 64))
            self.post_init()

    assert (Outer(ResNetConfig(**TINY)).encoder.timm_model.layer1[0].bn2.weight == 0).all()


def test_patches_fit_the_image():
    sizes = (32, 64, 224)
    assert [encoder_config("dinov2_small", size).patch_size for size in sizes] == [4, 8, 14]
    assert [encoder_config("convnextv2_atto", size).patch_size for size in sizes] == [2, 2, 4]


def test_representation_size_leaves_encoder_and_generator_alone():
    encoder = MIResNetModel(MIResNetConfig(**TINY)).train()
    before = {key: tensor.clone() for key, tensor in encoder.state_dict().items()}
    config, generator = encoder.config.to_dict(), torch.get_rng_state()
    assert representation_size(encoder) == 16
    assert encoder.training
    assert encoder.config.to_dict() == config
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(tensor, before[key]) for key, tensor in encoder.state_dict().items())


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnet_tyny", "did you mean 'resnet_tiny'"),
        ("alexnet-of-old", "known: convnextv2_atto"),
        ("timm/resnet81", "did you mean 'resnet"),
        ("timm/hf_hub:evil/model", "unknown timm architecture"),
        ("timm/../../etc/passwd", "unknown timm architecture"),
        ("timm/resnet18.a1_in1k", "--init_from"),
    ],
)
def test_an_unknown_name_is_one_line_with_the_way_out(name, hint):
    assert len(one_line(hint, encoder_config, name, 64)) < 400


@pytest.mark.parametrize(("name", "image_size"), [("dinov2_small", 33), ("timm/vgg11", 16)])
def test_a_size_that_an_encoder_cannot_take_is_one_line(name, image_size):
    one_line(str(image_size), encoder_config, name, image_size)


def test_importing_the_encoders_leaves_timm_alone():
    code = "import sys, hf_mi_ssl.encoders; sys.exit('timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL).returncode == 0


def saved(directory, encoder=None, **changes):
    """A small ResNet, or that encoder, with some changes to its config.json."""
    (encoder or ResNetModel(ResNetConfig(**TINY))).save_pretrained(directory)
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return directory / "model.safetensors"


@pytest.mark.parametrize("model_class", [ResNetModel, MIResNetModel])
def test_load_encoder_gives_back_what_was_saved_as_float32(tmp_path, model_class):
    encoder = model_class(model_class.config_class(**TINY)).to(torch.bfloat16)
    saved(tmp_path, encoder)
    loaded = load_encoder(tmp_path)
    assert type(loaded) is model_class
    assert loaded.dtype == torch.float32
    for key, tensor in loaded.state_dict().items():
        assert torch.equal(encoder.state_dict()[key].to(tensor.dtype), tensor)


def test_load_encoder_takes_the_encoder_out_of_a_classifier(tmp_path):
    classifier = hf.ResNetForImageClassification(ResNetConfig(**TINY))
    saved(tmp_path, classifier)
    stem = "embedder.embedder.convolution.weight"
    assert torch.equal(load_encoder(tmp_path).state_dict()[stem], classifier.resnet.state_dict()[stem])


def pickled_weights(directory):
    saved(directory).unlink()
    torch.save(ResNetModel(ResNetConfig(**TINY)).state_dict(), directory / "pytorch_model.bin")


def edited(directory, name, tensor):
    path = saved(directory)
    save_file(load_file(path) | {name: tensor}, path, metadata={"format": "pt"})


def not_images(directory):
    text = NARROW | {"vocab_size": 8, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    config = hf.CLIPConfig(
        text_config=text, vision_config=NARROW | {"image_size": 8, "patch_size": 4}, projection_dim=8
    )
    saved(directory, AutoModel.from_config(config))


STRANGE = {"model_type": "strange", "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}}
FETCHED = {"model_type": "timm_wrapper", "architecture": "hf_hub:evil/model", "num_classes": 0, "label_names": []}
GAINS = "embedder.embedder.normalization.weight"
REFUSED = {
    (
        lambda directory: saved(directory, hf.ViTModel(hf.ViTConfig(**NARROW), add_pooling_layer=False))
    ): "lacks weights",
    pickled_weights: "cannot load",
    not_images: "not an image encoder",
    (lambda directory: None): "cannot load",
    (lambda directory: edited(directory, "projector.weight", torch.ones(1))): "also holds weights",
    (lambda directory: edited(directory, GAINS, torch.full((8,), math.nan))): "infinite or undefined",
    (lambda directory: saved(directory).unlink()): "cannot load",
    (lambda directory: saved(directory).write_bytes(b"cut off")): "cannot load",
    (lambda directory: saved(directory, hidden_sizes=[8, 24])): "cannot load",
    (lambda directory: saved(directory, **STRANGE)): "cannot load",
    (lambda directory: saved(directory, **FETCHED)): "would have to be fetched: architecture=hf_hub:",
}


@pytest.mark.parametrize(("spoil", "reason"), REFUSED.items())
def test_load_encoder_refuses_in_one_line(tmp_path, spoil, reason):
    spoil(tmp_path)
    assert len(one_line(reason, load_encoder, tmp_path)) < 500


@pytest.mark.parametrize("name", ["./missing", "../missing", "/missing/run", "missing", "a/b/c"])
def test_a_directory_that_does_not_exist_is_not_looked_up_on_the_hub(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    one_line("no directory", load_encoder, name)


def test_a_directory_wins_over_the_hub_as_in_transformers_and_never_in_silence(monkeypatch, tmp_path, caplog):
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "owner" / "here")
    snapshot = tmp_path / "cache" / "models--owner--here" / "snapshots" / "1"
    expected = load_encoder("owner/here").state_dict()
    assert not caplog.messages  # nobody asked the Hub for it before
    saved(snapshot)
    (tmp_path / "cache" / "models--owner--here" / "refs").mkdir()
    (tmp_path / "cache" / "models--owner--here" / "refs" / "main").write_text("1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    found = load_encoder("owner/here").state_dict()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert caplog.messages == ["owner/here is the directory here, not the owner/here of the Hub"]
    (tmp_path / "owner" / "empty").mkdir()
    assert "hides the owner/empty of the Hub" in one_line("holds no config.json", load_encoder, "owner/empty")
    caplog.clear()
    one_line("looked up on the Hub", load_encoder, "owner/there")  # a folder called like its owner does not hide it
    assert caplog.messages == ["no directory owner/there here: the Hub is asked for it"]


def test_without_network_a_hub_id_is_one_line(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    one_line("looked up on the Hub", load_encoder, "nobody/nothing")


def test_a_mistyped_directory_does_not_wait_for_a_hub_out_of_reach(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")  # nobody listens there
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: pytest.fail("it tries again"))
    assert "no connection to http://127.0.0.1:1" in one_line("no such directory here", load_encoder, "runs/mistyped")
