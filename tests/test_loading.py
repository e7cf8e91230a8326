"""Loading elsewhere: what its guide shows, run as it stands, from directories and by name; exported files."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import ResNetConfig

from hf_mi_ssl import JMIConfig, JMIForPreTraining
from hf_mi_ssl.encoders import MIResNetConfig, build_encoder, encoder_config, load_encoder
from hf_mi_ssl.errors import UserError
from hf_mi_ssl.hub import export_encoder, export_pretraining, push
from tests.hub_server import hub

ROOT = Path(__file__).resolve().parent.parent
GUIDE = (ROOT / "recipes" / "guides" / "loading.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
assert len(SNIPPETS) == 4
assert SNIPPETS[0] in (ROOT / "README.md").read_text()
HIDDEN = 'import sys\nsys.modules["hf_mi_ssl"] = None\n'
IMAGES = {"image_size": 96, "mean": [0.1, 0.2, 0.3], "std": [0.3, 0.4, 0.5]}
SMALL = ResNetConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 16, 16], embedding_size=8, layer_type="basic")

# After each snippet, what has to be true of what it made
CHECKS = [
    "assert h.shape == (1, 16)",
    """
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel
processor = AutoImageProcessor.from_pretrained("runs/my_photos")
pixels = processor(Image.open("photo.jpg"), return_tensors="pt").pixel_values
encoder = AutoModel.from_pretrained("runs/my_photos")
with torch.no_grad():
    output = encoder(pixels)
    last = maps(pixels).feature_maps[-1]
    both = AutoBackbone.from_pretrained("me/my-photos", out_features=["stage2", "stage4"])(pixels).feature_maps
    assert classifier(pixels).logits.shape == (1, 10)
    features = model(pixels)
torch.testing.assert_close(torch.tensor(h).flatten(), output.pooler_output.flatten())
torch.testing.assert_close(last, output.last_hidden_state)
torch.testing.assert_close(both[1], output.last_hidden_state)
assert both[0].shape[-1] == 2 * both[1].shape[-1] * 2
assert len(features) > 1
model = timm.create_model("hf-hub:me/my-timm-photos", pretrained=True).eval()
with torch.no_grad():
    expected = AutoModel.from_pretrained("runs/my_timm_photos")(pixels).pooler_output
    torch.testing.assert_close(model(pixels), expected)
    assert timm.create_model("hf-hub:me/my-timm-photos", pretrained=True, num_classes=10)(pixels).shape == (1, 10)
""",
    """
import torch
views = torch.randn(2, 8, 3, 96, 96, generator=torch.Generator().manual_seed(0))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
losses = []
for _ in range(4):
    loss = model(*views).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
assert losses[-1] < losses[0], losses
""",
    """
from transformers import AutoModel
with torch.no_grad():
    expected = AutoModel.from_pretrained("runs/my_photos")(pixels).pooler_output.flatten(1)
session = onnxruntime.InferenceSession("runs/my_photos/encoder.onnx")
(found,) = session.run(None, {"pixel_values": pixels.numpy()})
torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-4)
torch.testing.assert_close(h, expected, rtol=0, atol=1e-4)
""",
]


def settled(encoder):
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2, generator=torch.Generator().manual_seed(0))
    return encoder.eval()


def recipe(*argv) -> int:
    module = runpy.run_path(str(ROOT / "recipes" / "export.py"))
    before, sys.argv = sys.argv, ["export.py", *map(str, argv)]
    try:
        return module["run_downstream"](module["main"])
    finally:
        sys.argv = before


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Where a user would stand: a photo, a run of a ResNet with its whole model, one of a timm encoder."""
    folder = tmp_path_factory.mktemp("user")
    torch.manual_seed(0)
    model = JMIForPreTraining(JMIConfig.from_method("jmi", encoder_config=SMALL, projector_hidden_size=16))
    settled(model.encoder)
    export_encoder(model.encoder, folder / "runs" / "my_photos", **IMAGES)
    export_pretraining(model, folder / "runs" / "my_photos")
    encoder = settled(build_encoder(encoder_config("timm/test_resnet", 96)))
    export_encoder(encoder, folder / "runs" / "my_timm_photos", **IMAGES)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 130, 3), dtype=np.uint8)).save(
        folder / "photo.jpg"
    )
    return folder


@pytest.fixture(scope="module")
def names(runs, tmp_path_factory):
    """What the runs of the guide are called on a Hub that has both."""
    with hub(tmp_path_factory.mktemp("home")) as place:
        found = {f"me/{name}": place.name(name) for name in ("my-photos", "my-timm-photos")}
        for shown, repo_id in found.items():
            push(runs / "runs" / shown.removeprefix("me/").replace("-", "_"), repo_id)
        yield found


def ran(numbers: list[int], folder: Path, names: dict[str, str], before: str = HIDDEN) -> None:
    """Snippets one after another in a Python of their own, each followed by its check."""
    code = before + "\n".join(f"{SNIPPETS[number]}\n{CHECKS[number]}" for number in numbers)
    for shown, repo_id in names.items():
        code = code.replace(shown, repo_id)
    assert "me/my" not in code
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_what_the_readme_shows_runs_in_a_python_without_the_package(runs, names):
    ran([0, 1], runs, names)


def test_the_whole_model_goes_on_training(runs, names):
    ran([2], runs, names, before="")


def test_exported_files_run_without_the_package(runs, names):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    shown = re.findall(r"recipes/export.py (runs/my_photos) --format (\w+)", GUIDE)
    assert [recipe(runs / place, "--format", kind) for place, kind in shown] == [0, 0]
    ran([3], runs, names)


# The recipe

ENCODERS = {
    "mi_resnet": lambda: MIResNetConfig(depths=[1, 1], hidden_sizes=[8, 16], embedding_size=8, layer_type="basic"),
    "timm_vit": lambda: encoder_config("timm/test_vit", 32),
    "timm_resnet": lambda: encoder_config("timm/test_resnet", 32),
}


@pytest.mark.parametrize("name", ["resnet", *ENCODERS])
def test_a_program_gives_the_representation_for_any_number_of_images(tmp_path, capsys, name):
    config = ENCODERS[name]() if name in ENCODERS else SMALL
    export_encoder(settled(build_encoder(config)), tmp_path / "run", **IMAGES | {"image_size": 32})
    assert recipe(tmp_path / "run", "--format", "torch_export", "--output_dir", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert float(re.search(r"largest difference from the encoder: (\S+)", said)[1]) <= 1e-4
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"encoder.pt2", "preprocessor_config.json"}
    pixels = torch.randn(7, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = load_encoder(tmp_path / "run")(pixels).pooler_output.flatten(1)
        found = torch.export.load(tmp_path / "out" / "encoder.pt2").module()(pixels)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_an_export_that_differs_is_not_written(runs, tmp_path, capsys):
    module = runpy.run_path(str(ROOT / "recipes" / "export.py"))
    with pytest.MonkeyPatch.context() as patch:
        wrong = lambda program, path: lambda pixels: torch.zeros(len(pixels), 16)  # noqa: E731
        patch.setattr("hf_mi_ssl.hub.programs.save_program", wrong)
        patch.setattr(sys, "argv", ["export.py", str(runs / "runs" / "my_photos"), "--format", "torch_export",
                                    "--output_dir", str(tmp_path)])  # fmt: skip
        with pytest.raises(UserError, match="differ by .*: not written"):
            module["main"]()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["none"], "no directory 'none'"),
        (["RUN", "--format", "torch_export", "--image_size", "-1"], "see --image_size"),
    ],
)
def test_what_is_wrong_is_one_line(runs, tmp_path, capsys, argv, said):
    argv = [str(runs / "runs" / "my_photos") if word == "RUN" else word for word in argv]
    assert recipe(*argv, "--output_dir", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.startswith("export.py: ")
    assert said in error
    assert error.count("\n") == 1


def test_without_onnx_it_says_what_to_install(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert recipe(runs / "runs" / "my_photos", "--output_dir", tmp_path) == 2
    assert "pip install 'hf-mi-ssl[export]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
