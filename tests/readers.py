"""What a reader of README and guides has of others, smaller: images, weights, checkpoints, shards, and a Hub."""

import re
import shutil
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml

from hf_mi_ssl.encoders import build_encoder, encoder_config
from hf_mi_ssl.hub import export_encoder
from tests.hub_server import HubServer, hub
from tests.publishers import resnet, solo_learn
from tests.shards import write_shards

ROOT = Path(__file__).resolve().parent.parent
GUIDES = ROOT / "recipes" / "guides"


def desk(place: Path) -> Path:
    """A directory as a reader has it: recipes, and the method of a guide."""
    (place / "recipes").symlink_to(ROOT / "recipes")
    module = re.search(r'```python\n("""KoLeo.*?)```', (GUIDES / "adding_a_method.md").read_text(), re.DOTALL)[1]
    (place / "my_method.py").write_text(module)
    return place


def stand_ins(place: Path, images: Path) -> None:
    """Under the names that the pages have for what others made: relative names, so that they are found here first."""
    shutil.copytree(images, place / "my_photos")
    shutil.copytree(images, place / "uoft-cs" / "cifar10")
    for name in ("microsoft/resnet-18", "facebook/dinov2-small"):
        encoder = build_encoder(encoder_config("resnet_tiny", 16))
        export_encoder(encoder, place / name, image_size=16, mean=[0.5] * 3, std=[0.25] * 3)
    for name, content in {
        "vicreg/resnet50.pth": resnet().state_dict(),
        "solo/vicreg-cifar10-ep=999.ckpt": solo_learn(resnet(stem_padding=2)),
    }.items():
        (place / name).parent.mkdir()
        torch.save(content, place / name)
    write_shards(place / "shards", "tar", [24, 24])


def tiny_matrix(path: str, flags: dict) -> str:
    """The matrix of that file with one row, one seed, the smallest of everything and no settings of rows; its file."""
    matrix = yaml.safe_load(Path(path).read_text())
    tiny = {"flags": flags, "seeds": [0], "methods": ["jmi"], "first": [], "overrides": {}}
    tiny["datasets"] = {name: {"dataset_name": "imagefolder", "data_dir": "my_photos"} for name in matrix["datasets"]}
    if matrix.get("finetune"):
        tiny["finetune"] = {
            "label_fractions": [0.5],
            "learning_rate": 1e-3,
            "num_train_epochs": 1,
        }
    Path(f"{matrix['name']}.yaml").write_text(yaml.safe_dump(matrix | tiny))
    return f"{matrix['name']}.yaml"


@contextmanager
def own_hub(home: Path):
    """A Hub that this process pushes to."""
    with HubServer() as server, hub(home, server) as place, pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "ENDPOINT", place.url)
        yield place
