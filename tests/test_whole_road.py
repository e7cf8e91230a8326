"""The whole road on the embedded corpus, each step a command of its own: pre-train and push, load by name where this
package is not, probe and fine-tune what was loaded, and take what was found onto the card of the run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hub_server import hub

ROOT = Path(__file__).resolve().parent.parent
SIZE = ["--image_size", 32, "--dataloader_num_workers", 0]
# Of every Python: what is unpickled in it is written down
WATCH = """
import sys

def note(event, arguments):
    if event == "pickle.find_class":
        with open({0!r}, "a") as file:
            print(sys.argv, arguments, file=file)

sys.addaudithook(note)
"""
STRANGER = """
import sys
sys.modules["hf_mi_ssl"] = None
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

processor = AutoImageProcessor.from_pretrained("{0}")
encoder, report = AutoModel.from_pretrained("{0}", output_loading_info=True)
assert not any(report.values()), report
with torch.no_grad():
    pixels = processor(Image.new("RGB", (48, 40), "teal"), return_tensors="pt").pixel_values
    assert encoder(pixels).pooler_output.flatten(1).shape == (1, 128)
"""


@pytest.mark.slow
def test_pretrain_push_load_probe_and_finetune(tmp_path):
    run, tuned = tmp_path / "run", tmp_path / "tuned"
    with hub(tmp_path / "home") as place:
        name = place.name("whole-road")
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "sitecustomize.py").write_text(WATCH.format(str(tmp_path / "pickles")))
        settings = {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{tmp_path / 'site'}:{ROOT}"}

        def python(*argv) -> str:
            command = [sys.executable, *map(str, argv)]
            done = subprocess.run(command, cwd=tmp_path, env=os.environ | settings, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            assert place.token not in done.stdout + done.stderr
            return done.stdout

        trained = ["--max_train_steps", 60, "--warmup_epochs", 0.1, "--output_dir", run]
        pushed = ["--push_to_hub", "--hub_model_id", name]
        python(ROOT / "recipes" / "pretrain_sdmi.py", "--method", "sdmi_ema", *SIZE, *trained, *pushed)
        python("-c", STRANGER.format(name))

        found = python(ROOT / "recipes" / "linear_probe.py", "--model", name, *SIZE, "--output_dir", tmp_path)
        own = json.loads((run / "results.json").read_text())["evaluations"]
        (mine,) = [
            r for r in own if r["name"] == "linear_top1" and (r["encoder"], r["branch"]) == ("trained", "online")
        ]
        (theirs, _) = json.loads((tmp_path / "linear_probe.json").read_text())["evaluations"]
        assert {name: theirs[name] for name in mine} == mine  # measured from the Hub as it measured itself
        assert f"{mine['value']:.4f}" in found

        few = ["--label_fraction", 0.1, "--num_train_epochs", 1, "--output_dir", tuned]
        python(ROOT / "recipes" / "finetune.py", "--model", name, *SIZE, *few)
        (row,) = json.loads((tuned / "finetune.json").read_text())["evaluations"]
        assert row["name"] == "finetune_top1_10pct"

        evidence = [tmp_path / "linear_probe.json", tuned / "finetune.json"]
        python(ROOT / "recipes" / "render_card.py", run, "--add", *evidence)
        python(ROOT / "recipes" / "push_to_hub.py", run)
        card = place.read(name, "README.md").decode()
    assert re.search(rf"fine-?tun.*10 % of the labels.* {100 * row['value']:.1f} %", card)
    assert f'AutoModel.from_pretrained("{name}"' in card
    assert not (tmp_path / "pickles").exists()
    files = [file for place in (run, tuned) for file in place.rglob("*") if file.is_file()]
    written = {file.suffix for file in files if file.name != ".lock"}  # a line of text: which process writes here
    assert written == {".json", ".jsonl", ".md", ".png", ".safetensors"}
