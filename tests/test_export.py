"""The export: plain transformers, without this package, loads exactly the encoder that was trained."""

import copy
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    ConvNextV2Config,
    Dinov2Config,
    ResNetConfig,
    ResNetForImageClassification,
)

from hf_mi_ssl.encoders import MIResNetConfig, MIResNetModel, build_encoder, encoder_config, load_encoder
from hf_mi_ssl.hub import export_encoder, export_pretraining

SIZE, MEAN, STD = 32, [0.1, 0.2, 0.3], [0.3, 0.4, 0.5]
SMALL_RESNET = {"depths": [1, 1], "hidden_sizes": [8, 16], "embedding_size": 8, "layer_type": "basic"}
CONFIGS = {
    "resnet_tiny": lambda: encoder_config("resnet_tiny", SIZE),
    "mi_resnet": lambda: MIResNetConfig(**SMALL_RESNET),
    "convnextv2": lambda: ConvNextV2Config(depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 8, 16], patch_size=2),
    "dinov2": lambda: Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=SIZE, patch_size=4
    ),
    "timm_resnet": lambda: encoder_config("timm/test_resnet", SIZE),
    "timm_vit": lambda: encoder_config("timm/test_vit", SIZE),
}
NATIVE = {"config.json", "model.safetensors", "preprocessor_config.json"}
CODE = {"configuration_mi_resnet.py", "modeling_mi_resnet.py"}

# A stranger's Python: for each directory, the encoder, the processor, a classifier and a pipeline. The order in which
# kernels add depends on the number of threads and on how weights are aligned in memory (8 bytes from safetensors, 64
# from torch), so equal bits need both to be equal.
STRANGER = """
import json, sys
sys.modules["hf_mi_ssl"] = None
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline

torch.set_num_threads(1)

def aligned(model):
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.data = tensor.data.clone()
    return model

for directory in sys.argv[1:]:
    trust = {"trust_remote_code": True} if directory.endswith("/mi_resnet") else {}
    given = load_file(directory + "/../given.safetensors")
    image = Image.open(directory + "/../photo.png")
    encoder, report = AutoModel.from_pretrained(directory, output_loading_info=True, **trust)
    assert not any(report.values()), report
    processor = AutoImageProcessor.from_pretrained(directory)
    classifier, report = AutoModelForImageClassification.from_pretrained(
        directory, num_labels=7, output_loading_info=True, **trust
    )
    extract = pipeline("image-feature-extraction", model=directory, pool=True, return_tensors=True, **trust)
    aligned(extract.model)
    with torch.no_grad():
        output = aligned(encoder)(given["pixels"])
        logits = classifier(given["pixels"]).logits
    assert logits.shape == (2, 7)
    more = {}
    if "/timm_" in directory:
        model = aligned(timm.create_model("local-dir:" + directory, pretrained=True).eval())
        head = timm.create_model("local-dir:" + directory, pretrained=True, num_classes=7)
        assert head(given["pixels"]).shape == (2, 7)
        timms = timm.data.resolve_model_data_config(model)
        assert timms["input_size"][1] == timms["input_size"][2] == processor.crop_size["height"]
        assert [*timms["mean"], *timms["std"]] == [*processor.image_mean, *processor.image_std]
        with torch.no_grad():
            more["timm"] = model(given["pixels"]).contiguous()
    processed = processor(image, return_tensors="pt").pixel_values
    save_file(more | {
        "map": output.last_hidden_state.contiguous(),
        "pooled": output.pooler_output.contiguous(),
        "processed": processed.contiguous(),
        "square": processor(Image.open(directory + "/../square.png"), return_tensors="pt").pixel_values.contiguous(),
        "pipeline": extract(image).contiguous(),
    }, directory + ".safetensors")
    with open(directory + ".json", "w") as file:
        json.dump({"missing": sorted(report["missing_keys"]), "unexpected": sorted(report["unexpected_keys"]),
                   "module": type(encoder).__module__, "processor": type(processor).__name__}, file)
"""


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """{name: encoder}, exported under names of one folder; what the stranger computed lies beside each directory."""
    folder = tmp_path_factory.mktemp("exports")
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(2, 3, SIZE, SIZE, generator=generator)
    draw = np.random.default_rng(0).integers(0, 256, (48, 80, 4), dtype=np.uint8)
    draw[..., 3] = 255
    Image.fromarray(draw).save(folder / "photo.png")  # RGBA, larger, not square
    Image.fromarray(draw[:SIZE, :SIZE, :3]).save(folder / "square.png")
    save_file({"pixels": pixels}, folder / "given.safetensors")
    encoders = {}
    for name, config in CONFIGS.items():
        torch.manual_seed(0)
        encoders[name] = build_encoder(config()).train()
        encoders[name](pixels)  # batch norms leave their initial statistics
        export_encoder(encoders[name], folder / name, image_size=SIZE, mean=MEAN, std=STD)
    settings = {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(folder / "modules"), "HF_HOME": str(folder / "home")}
    stranger = subprocess.run(
        [sys.executable, "-c", STRANGER, *(str(folder / name) for name in CONFIGS)],
        cwd=folder,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | settings,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert stranger.returncode == 0, stranger.stderr
    return folder, encoders


def forward(encoder, pixels):
    """What the encoder says in eval mode, in one thread and without moving its batch norms."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            return copy.deepcopy(encoder).eval()(pixels)
    finally:
        torch.set_num_threads(threads)


def computed(exports, name):
    folder, encoders = exports
    report = json.loads((folder / f"{name}.json").read_text())
    return (
        encoders[name],
        load_file(folder / "given.safetensors")["pixels"],
        load_file(folder / f"{name}.safetensors"),
        report,
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_a_stranger_computes_the_same_bits(exports, name):
    encoder, pixels, stranger, report = computed(exports, name)
    output = forward(encoder, pixels)
    assert torch.equal(output.last_hidden_state, stranger["map"])
    assert torch.equal(output.pooler_output, stranger["pooled"])
    assert ("timm" in stranger) == name.startswith("timm_")
    assert torch.equal(output.pooler_output, stranger.get("timm", output.pooler_output))
    assert report["module"].startswith("transformers_modules." if name == "mi_resnet" else "transformers.models.")


@pytest.mark.parametrize("name", CONFIGS)
def test_a_classifier_lacks_only_its_head(exports, name):
    *_, report = computed(exports, name)
    assert report["unexpected"] == []
    assert len(report["missing"]) == 2
    assert {key.rsplit(".", 1)[1] for key in report["missing"]} == {"weight", "bias"}
    assert len({key.rsplit(".", 1)[0] for key in report["missing"]}) == 1


@pytest.mark.parametrize("name", CONFIGS)
def test_the_processor_normalises_an_image_of_the_right_size_and_no_more(exports, name):
    folder, _ = exports
    *_, stranger, report = computed(exports, name)
    assert report["processor"] == "BitImageProcessor"
    image = torch.from_numpy(np.array(Image.open(folder / "square.png"))).permute(2, 0, 1)
    expected = (image / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    assert (stranger["square"][0] - expected).abs().max() < 1e-5


@pytest.mark.parametrize("name", CONFIGS)
def test_other_images_are_scaled_cropped_and_turned_into_rgb(exports, name):
    folder, _ = exports
    encoder, _, stranger, _ = computed(exports, name)
    assert stranger["processed"].shape == (1, 3, SIZE, SIZE)
    here = AutoImageProcessor.from_pretrained(folder / name)
    assert torch.equal(here(Image.open(folder / "photo.png"), return_tensors="pt").pixel_values, stranger["processed"])
    assert torch.equal(stranger["pipeline"].flatten(), forward(encoder, stranger["processed"]).pooler_output.flatten())


@pytest.mark.parametrize("name", CONFIGS)
def test_the_directory_holds_nothing_else(exports, name):
    folder, _ = exports
    files = {file.name for file in (folder / name).iterdir()}
    assert files == (NATIVE | CODE if name == "mi_resnet" else NATIVE)
    for file in ("config.json", "preprocessor_config.json"):
        assert str(folder) not in (folder / name / file).read_text()


@pytest.mark.parametrize("name", CONFIGS)
def test_exporting_leaves_the_model_as_it_was(tmp_path, name):
    encoder = build_encoder(CONFIGS[name]()).train()
    config, settings = encoder.config, encoder.config.to_dict()
    weights = {key: tensor.clone() for key, tensor in encoder.state_dict().items()}
    export_encoder(encoder, tmp_path, image_size=SIZE, mean=MEAN, std=STD)
    assert encoder.config is config
    assert encoder.config.to_dict() == settings
    assert encoder.training
    assert all(torch.equal(tensor, weights[key]) for key, tensor in encoder.state_dict().items())


@pytest.mark.parametrize("name", ["resnet_tiny", "mi_resnet", "timm_vit"])
def test_an_export_can_be_trained_further_and_exported_again(exports, tmp_path, name):
    folder, encoders = exports
    encoder = load_encoder(folder / name)
    assert all(torch.equal(tensor, encoders[name].state_dict()[key]) for key, tensor in encoder.state_dict().items())
    export_encoder(encoder, tmp_path, image_size=SIZE, mean=MEAN, std=STD)
    for file in (folder / name).iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()


def test_with_the_package_mi_resnet_needs_no_trust(exports):
    """The registered class wins over the code beside the weights: no question on stdin, nothing of it runs."""
    folder, _ = exports
    assert type(AutoModel.from_pretrained(folder / "mi_resnet")) is MIResNetModel
    assert type(AutoModel.from_pretrained(folder / "mi_resnet", trust_remote_code=True)) is MIResNetModel
    AutoModelForImageClassification.from_pretrained(folder / "mi_resnet", num_labels=3)


def test_an_export_that_fails_leaves_the_earlier_one(tmp_path, monkeypatch):
    encoder = build_encoder(ResNetConfig(**SMALL_RESNET))
    export_encoder(encoder, tmp_path, image_size=SIZE, mean=MEAN, std=STD)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full_disk(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(encoder, "save_pretrained", full_disk)
    with pytest.raises(OSError, match="no space"):
        export_encoder(encoder, tmp_path, image_size=64, mean=MEAN, std=STD)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_the_whole_model_goes_to_pretraining(tmp_path):
    model = ResNetForImageClassification(ResNetConfig(**SMALL_RESNET, num_labels=3))
    export_pretraining(model, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"pretraining"}
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path, subfolder="pretraining")
    assert all(torch.equal(tensor, loaded.state_dict()[key]) for key, tensor in model.state_dict().items())
