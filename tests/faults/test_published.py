"""What is published, to those who have nothing but transformers."""

import subprocess
import sys

import pytest
import torch
from transformers import AutoModel

from hf_mi_ssl.hub import push
from tests.conftest import small_model
from tests.hub_places import ENCODER, PUSHED, export

STRANGER = """
import sys, torch
from transformers import AutoImageProcessor, AutoModel
for revision in sys.argv[2:]:
    where = {"pretrained_model_name_or_path": sys.argv[1], "revision": revision}
    encoder, report = AutoModel.from_pretrained(**where, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert AutoImageProcessor.from_pretrained(**where).crop_size["height"] == 16
    print(encoder(torch.ones(1, 3, 16, 16)).pooler_output.double().sum().item().hex())
assert "hf_mi_ssl" not in sys.modules
"""


def of(directory) -> float:
    with torch.no_grad():
        return AutoModel.from_pretrained(directory)(torch.ones(1, 3, 16, 16)).pooler_output.double().sum().item()


@pytest.mark.slow
def test_strangers_load_encoder_and_revision_by_name(run_dir, place, tmp_path, figure):
    export(small_model("jmi", seed=1), tmp_path / "epoch-010")
    push(run_dir, place.repo_id)
    push(tmp_path / "epoch-010", place.repo_id, revision="epoch-010")
    command = [sys.executable, "-P", "-c", STRANGER, place.repo_id, "main", "epoch-010"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    expected = [of(run_dir), of(tmp_path / "epoch-010")]
    assert [float.fromhex(line) for line in done.stdout.split()] == expected, done.stderr  # bit for bit
    assert expected[0] != expected[1]
    figure("a published repository, to plain transformers", "loads, no key missing, bit for bit")
    assert place.files() == PUSHED  # main is as it was
    assert place.files("epoch-010") == ENCODER  # and the revision holds nothing of main
