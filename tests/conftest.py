"""What the tests share: rows at a size for tests, batches, and processes that talk over gloo."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before huggingface_hub is imported: no test may reach the network
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ResNetConfig

from hf_mi_ssl import JMIConfig, JMIForPreTraining, SDMIConfig, SDMIForPreTraining
from hf_mi_ssl.methods import METHODS

pytest_plugins = ["tests.hub_places", "tests.figures"]
sys.path.append(str(Path(__file__).resolve().parent.parent / "recipes"))  # `reproducing`, `benchmarks`
torch.set_num_threads(1)  # forked processes must find no thread pool in use, and small tensors need none

SMALL = {"projector_hidden_size": 24, "projection_size": 16}
# Columns that only some rows have, at a size for tests
SMALLER = {"predictor_hidden_size": 8, "queue_size": 20, "num_prototypes": 10, "batch_norm_group_size": 2}


def small_config(method: str, **columns):
    """The row with a small encoder and small heads."""
    encoder = ResNetConfig(
        depths=[1, 1], hidden_sizes=[8, 16], embedding_size=8, layer_type="basic", downsample_in_first_stage=False
    )
    config_class = SDMIConfig if METHODS[method].paradigm == "sdmi" else JMIConfig
    smaller = {name: value for name, value in SMALLER.items() if name in METHODS[method].columns}
    return config_class.from_method(method, **({"encoder_config": encoder} | SMALL | smaller | columns))


def small_model(method: str, seed: int = 0, **columns):
    """A model of the row, small, in train mode."""
    torch.manual_seed(seed)
    config = small_config(method, **columns)
    return (SDMIForPreTraining if isinstance(config, SDMIConfig) else JMIForPreTraining)(config)


def forward(model, view_a, view_b, phase="E"):
    """A forward pass of either paradigm."""
    return model(view_a, view_b, phase=phase) if isinstance(model, SDMIForPreTraining) else model(view_a, view_b)


@pytest.fixture(params=list(METHODS))
def method(request) -> str:
    """Every row of the table: a new row is tested the moment it exists."""
    return request.param


@pytest.fixture
def views():
    """Two views of the same 12 images, correlated as views are."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(12, 3, 16, 16, generator=generator)
    return tuple(images + 0.3 * torch.randn(12, 3, 16, 16, generator=generator) for _ in range(2))


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """96 training and 32 test images in two classes, of different sizes."""
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for split, n in (("train", 48), ("test", 16)):
        for label, colour in (("red", (200, 40, 40)), ("green", (40, 160, 40))):
            (root / split / label).mkdir(parents=True)
            for i in range(n):
                height, width = 16 + i % 5, 16 + i % 3
                noise = generator.integers(-40, 40, (height, width, 3))
                pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / label / f"{i:03d}.png")
    return root


@pytest.fixture(scope="session")
def finished(folder, tmp_path_factory) -> Path:
    """The output of a complete run of the two-encoder prototype."""
    from tests.runs import FAST, data, run

    output = tmp_path_factory.mktemp("run") / "sdmi"
    assert run("sdmi", output, *data(folder), *FAST) == 0
    return output


@pytest.fixture(scope="session")
def flat(folder, tmp_path_factory) -> Path:
    """The same images without labels or splits: nothing to probe, so runs are short."""
    root = tmp_path_factory.mktemp("flat")
    for i, path in enumerate(sorted(folder.rglob("*.png"))):
        shutil.copy(path, root / f"{i:03d}.png")
    return root


@pytest.fixture
def card(tmp_path) -> str:
    """The card of the run that `tests.card_runs` tells of."""
    from hf_mi_ssl.hub import render_card
    from tests.card_runs import TEMPLATE, write_run

    return render_card(write_run(tmp_path), TEMPLATE)
