from pathlib import Path

import huggingface_hub
import pytest

from hf_mi_ssl.hub import export_encoder
from tests.conftest import small_model
from tests.faults.hostile.strangers import Seen


@pytest.fixture(scope="module")
def seen():
    return Seen()


@pytest.fixture(autouse=True)
def hacked(tmp_path, monkeypatch, seen):
    """Where hostile code would show; with the network allowed, so that it would be asked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    yield
    seen.ran.append((tmp_path / "hacked").exists())
    assert not seen.ran[-1]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("encoder")
    export_encoder(small_model("jmi").encoder, directory, image_size=8, mean=(0.5,) * 3, std=(0.2,) * 3)
    return directory
