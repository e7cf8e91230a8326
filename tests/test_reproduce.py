"""What of a matrix is run and what is not, and that a table is made of it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import reproduce
from PIL import Image
from reproducing import running

from hf_mi_ssl.errors import UserError
from tests.matrices import RECIPES, matrix_file, results_of, table_of

# Stands in for recipes/finetune.py: notes its row in the run, as card and evidence are updated.
FINETUNE = """
import argparse, json, yaml
from dataclasses import replace
from pathlib import Path
parser = argparse.ArgumentParser()
for flag, kind in (("model", Path), ("config", Path), ("output_dir", str)):
    parser.add_argument(f"--{flag}", type=kind)
for flag, kind in (("label_fraction", float), ("per_device_train_batch_size", int), ("weight_decay", float)):
    parser.add_argument(f"--{flag}", type=kind)
parser.add_argument("--learning_rate", type=float, nargs="+")
parser.add_argument("--num_train_epochs", type=int, nargs="+")
parser.add_argument("--freeze_encoder", action="store_true")
parser.add_argument("--random_encoder", action="store_true")
settings = vars(parser.parse_args())
run, config, output = (settings.pop(name) for name in ("model", "config", "output_dir"))
start = "random" if settings.pop("random_encoder") else "trained"
assert (run / "results.json").exists()
assert output == str(run / ("finetuned" if start == "trained" else "finetuned_random"))
share = settings["label_fraction"]
with open(run / "finetunes", "a") as calls:
    print(share, file=calls)
file = run / "finetune.json"
rows = json.loads(file.read_text())["evaluations"] if file.exists() else []
value = 0.5 + share - 0.2 * (start == "random")
row = {"name": f"finetune_top1_{100 * share:g}pct", "value": value, "n": 10, "low": 0.5, "high": 0.75,
       "split": "test", "protocol": "as ever", "encoder": start, "branch": "online", "label_fraction": share,
       "settings": settings, "seed": yaml.safe_load(config.read_text())["seed"]}
file.write_text(json.dumps({"evaluations": [*rows, row]}))
"""
# Stands in for the recipes of pre-training: quick, and fails or waits where a file beside the run says so.
RECIPE = """
import json, os, sys, time, yaml
from dataclasses import replace
from pathlib import Path
assert sys.argv[1] == "--config" and sys.argv[3:] == ["--resume_from_checkpoint", "latest"], sys.argv
run = yaml.safe_load(Path(sys.argv[2]).read_text())
directory = Path(run["output_dir"])
with open(directory / "calls", "a") as calls:
    print(os.environ["OMP_NUM_THREADS"], os.getpid(), file=calls)
print("said before")
if (directory.parent / f"break-{run['method']}").exists():
    raise ValueError("out of luck")
if (directory.parent / f"wait-{run['method']}").exists():
    time.sleep(60)
(directory / "training_args.json").write_text(json.dumps(run))
(directory / "results.json").write_text(os.environ["RESULTS"])
"""


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The command with the stand-in for recipes; returns its exit code."""
    monkeypatch.setenv("RESULTS", json.dumps(results_of(0.5)))
    monkeypatch.setattr(running, "RECIPES", tmp_path / "recipes")
    (tmp_path / "recipes").mkdir()
    for paradigm in ("sdmi", "jmi"):
        (tmp_path / "recipes" / f"pretrain_{paradigm}.py").write_text(RECIPE)
    (tmp_path / "recipes" / "finetune.py").write_text(FINETUNE)
    place(tmp_path).mkdir(parents=True)

    def command(*argv, **more) -> int:
        places = ["--output_dir", str(tmp_path / "runs"), "--results", str(tmp_path / "table.md")]
        matrix = ["--matrix", str(matrix_file(tmp_path, **more))]
        monkeypatch.setattr(sys, "argv", ["reproduce.py", *matrix, *places, *argv])
        before = signal.getsignal(signal.SIGTERM)
        try:
            return reproduce.main()
        finally:
            signal.signal(signal.SIGTERM, before)

    return command


def place(tmp_path) -> Path:
    return tmp_path / "runs" / "small" / "shapes"


def calls(tmp_path) -> dict[str, int]:
    """How often each method was run."""
    return {path.parent.name: len(path.read_text().splitlines()) for path in place(tmp_path).glob("*/calls")}


def test_runs_that_are_done_are_skipped_and_half_written_ones_run_again(command, tmp_path, capsys):
    assert command("--methods", "jmi") == 0
    assert calls(tmp_path) == {"jmi-seed0": 1}
    half = place(tmp_path) / "simsiam-seed0"
    half.mkdir()
    (half / "metrics.jsonl").write_text('{"step": 1, "value": 3.0}\n')
    (half / "results.json").write_text('{"method": "sims')
    assert command("--dry_run") == 0
    assert calls(tmp_path) == {"jmi-seed0": 1}
    states = capsys.readouterr().out.splitlines()[-3:]
    assert [line.split() for line in states] == [
        ["shapes/sdmi-seed0", "to", "do"], ["shapes/jmi-seed0", "done"], ["shapes/simsiam-seed0", "to", "do"],
    ]  # fmt: skip
    assert command() == 0
    assert calls(tmp_path) == {"jmi-seed0": 1, "simsiam-seed0": 1, "sdmi-seed0": 1}
    assert "[2/2]" in capsys.readouterr().out
    assert "Not done yet" not in (tmp_path / "table.md").read_text()


def test_a_run_that_fails_is_reported_and_the_rest_go_on(command, tmp_path, capsys):
    (place(tmp_path) / "break-jmi").touch()
    assert command("--parallel", "2") == 1
    assert "shapes/jmi-seed0 failed, 1: ValueError: out of luck" in capsys.readouterr().out
    assert calls(tmp_path) == {"jmi-seed0": 1, "simsiam-seed0": 1, "sdmi-seed0": 1}
    table = (tmp_path / "table.md").read_text()
    assert "- `shapes/jmi-seed0`: to do" in table
    assert "| `jmi` |" not in table
    (place(tmp_path) / "break-jmi").unlink()
    assert command() == 0
    assert calls(tmp_path) == {"jmi-seed0": 2, "simsiam-seed0": 1, "sdmi-seed0": 1}


def test_runs_side_by_side_share_the_cores(command, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert command("--parallel", "3") == 0
    assert {path.read_text().split()[0] for path in place(tmp_path).glob("*/calls")} == {"2"}


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_ends_its_runs_and_the_same_command_continues(command, tmp_path, sent):
    (place(tmp_path) / "wait-jmi").touch()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background ignores it

    def interrupt():
        while "jmi-seed0" not in calls(tmp_path):
            time.sleep(0.02)
        os.kill(os.getpid(), sent)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        assert command() == 1
    finally:
        signal.signal(signal.SIGINT, before)
    thread.join()
    process = int((place(tmp_path) / "jmi-seed0" / "calls").read_text().split()[1])
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    assert calls(tmp_path) == {"sdmi-seed0": 1, "jmi-seed0": 1}  # the third was not begun
    assert "| `sdmi` |" in (tmp_path / "table.md").read_text()
    (place(tmp_path) / "wait-jmi").unlink()
    assert command() == 0
    assert calls(tmp_path) == {"sdmi-seed0": 1, "jmi-seed0": 2, "simsiam-seed0": 1}


def test_fine_tunes_follow_each_training_and_those_that_are_done_are_skipped(command, tmp_path, capsys):
    assert command("--methods", "jmi") == 0
    few = {"label_fractions": [0.01]}
    assert command("--dry_run", "--methods", "jmi", finetune=few) == 0
    assert "done, 1 fine-tunes to do" in capsys.readouterr().out
    assert command(finetune=few, methods=["jmi"], first=[]) == 0  # after the fact
    more = {"label_fractions": [0.01, 0.1], "num_train_epochs": 3}
    assert command(finetune=more, methods=["jmi"], first=[]) == 0  # other epochs: both again
    assert command(finetune=more, methods=["jmi"], first=[]) == 0
    run = place(tmp_path) / "jmi-seed0"
    assert (run / "finetunes").read_text().split() == ["0.01", "0.01", "0.1"]
    assert calls(tmp_path) == {"jmi-seed0": 1}
    page = (tmp_path / "table.md").read_text()
    assert "| fine-tuned, 1 % of labels, % | fine-tuned, 10 % of labels, % |" in page
    assert "| 61.0 (60.0 to 62.0) | 51.0 (50.0 to 75.0) | 60.0 (50.0 to 75.0) |" in table_of(page)[-1]
    assert page.count("fine-tuning: as ever; n = 10 of test") == 2


def test_an_encoder_at_random_is_fine_tuned_once_for_each_data_set(command, tmp_path):
    finetune = {"label_fractions": [0.1], "random_encoder": True}
    assert command("--methods", "sdmi", "jmi", finetune=finetune) == 0
    calls = {name: (place(tmp_path) / f"{name}-seed0" / "finetunes").read_text().split() for name in ("sdmi", "jmi")}
    assert {name: len(one) for name, one in calls.items()} == {"sdmi": 2, "jmi": 1}
    page = (tmp_path / "table.md").read_text()
    found = [row.split("|")[7].strip() for row in table_of(page)]
    assert found == ["", "40.0 (50.0 to 75.0)", "60.0 (50.0 to 75.0)", "60.0 (50.0 to 75.0)"]
    assert page.count("- fine-tuning: as ever") == 1
    assert command("--methods", "sdmi", "jmi", finetune=finetune) == 0
    assert len((place(tmp_path) / "sdmi-seed0" / "finetunes").read_text().split()) == 2


def test_the_page_is_made_again_of_the_evidence_alone(command, tmp_path):
    finetune = {"label_fractions": [0.1]}
    assert command("--methods", "jmi", "simsiam", finetune=finetune) == 0
    page, figure = tmp_path / "table.md", tmp_path / "small" / "shapes.png"
    text, pixels = page.read_text(), figure.read_bytes()
    (tmp_path / "runs").rename(tmp_path / "gone")
    page.unlink()
    figure.unlink()
    assert command("--table_only", finetune=finetune) == 0
    assert (page.read_text(), figure.read_bytes()) == (text, pixels)
    assert "- `shapes/sdmi-seed0`: to do" in text
    other = {"flags": {"learning_rate": 0.25}, "finetune": finetune}
    with pytest.raises(UserError, match=r"jmi-seed0.json done with other arguments .*or remove it"):
        command("--table_only", **other)
    assert command("--methods", "jmi", finetune=finetune) == 0  # but nobody who runs it is spared the training
    assert calls(tmp_path) == {"jmi-seed0": 1}


def test_a_run_that_was_done_with_other_arguments_is_refused(command, tmp_path):
    assert command("--methods", "jmi") == 0
    other = {"flags": {"learning_rate": 0.25}}
    with pytest.raises(UserError, match=r"jmi-seed0 done with other arguments \(learning_rate 0.005 → 0.25\)"):
        command(**other)
    with pytest.raises(UserError, match="dataset_name 'shapes' → 'imagefolder'"):
        command("--table_only", datasets={"shapes": {"dataset_name": "imagefolder", "data_dir": "x"}})
    assert calls(tmp_path) == {"jmi-seed0": 1}
    assert command("--table_only", flags={"dataloader_num_workers": 0, "report_to": "tensorboard"}) == 0


def test_a_data_set_may_be_run_alone(command, tmp_path):
    two = {"datasets": {"shapes": {}, "other": {"dataset_name": "uoft-cs/cifar10"}}}
    assert command("--methods", "jmi", "--datasets", "shapes", **two) == 0
    assert calls(tmp_path) == {"jmi-seed0": 1}
    assert "- `other/jmi-seed0`: to do" in (tmp_path / "table.md").read_text()
    with pytest.raises(UserError, match="unknown data set of this matrix 'shaped'; did you mean 'shapes'?"):
        command("--datasets", "shaped", **two)


def test_a_method_that_is_not_of_the_matrix_cannot_be_chosen(command):
    with pytest.raises(UserError, match="did you mean 'simsiam'?"):
        command("--methods", "simclam")
    with pytest.raises(UserError, match="unknown method of this matrix 'vicreg'"):
        command("--methods", "vicreg")


# As a user runs it


@pytest.mark.slow
def test_two_runs_of_the_recipes_make_a_table(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    for split, n in (("train", 32), ("test", 16)):
        for label in range(2):
            (tmp_path / "images" / split / str(label)).mkdir(parents=True)
            for i in range(n):
                pixels = generator.integers(0, 160, (16, 16, 3), dtype=np.uint8) + np.uint8(90 * label)
                Image.fromarray(pixels).save(tmp_path / "images" / split / str(label) / f"{i}.png")
    flags = {"image_size": 16, "per_device_train_batch_size": 16, "max_train_steps": 2, "dataloader_num_workers": 0,
             "set": {"projector_hidden_size": 32, "projection_size": 16}}  # fmt: skip
    data = {"dataset_name": "imagefolder", "data_dir": str(tmp_path / "images")}
    overrides = {"simsiam": {"set": {"predictor_hidden_size": 8}}}
    more = {"flags": flags, "overrides": overrides, "finetune": {"label_fractions": [0.5], "num_train_epochs": 1}}
    matrix = matrix_file(tmp_path, methods=["jmi", "simsiam"], first=[], datasets={"tiny": data}, **more)
    command = [sys.executable, str(RECIPES / "reproduce.py"), "--matrix", str(matrix), "--parallel", "2",
               "--output_dir", str(tmp_path / "runs"), "--results", str(tmp_path / "table.md")]  # fmt: skip
    environment = os.environ | {"ACCELERATE_USE_CPU": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "table.md").read_text()
    assert [row.split(" | ")[0] for row in table_of(page)] == [
        "| pixels",
        "| random encoder",
        "| `simsiam`",
        "| `jmi`",
    ]
    results = json.loads((tmp_path / "runs" / "small" / "tiny" / "jmi-seed0" / "results.json").read_text())
    knn = next(e for e in results["evaluations"] if e["name"] == "knn_top1" and e["encoder"] == "trained")
    assert f"| {100 * knn['value']:.1f} (" in table_of(page)[-1]
    finetune = json.loads((tmp_path / "runs" / "small" / "tiny" / "jmi-seed0" / "finetune.json").read_text())
    assert f"| {100 * finetune['evaluations'][0]['value']:.1f} (" in table_of(page)[-1]
    assert "fine-tuned, 50 % of labels" in page
    assert str(tmp_path) not in page
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    monkeypatch.setattr(sys, "argv", [*command[1:], "--table_only"])
    assert reproduce.main() == 0
    assert (tmp_path / "table.md").read_text() == page
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*") if path.is_file()} == before
