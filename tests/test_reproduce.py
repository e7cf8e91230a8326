"""The matrix of runs: what it declares, what is run and what is not, and a table that is made of files."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from hf_mi_ssl import JMIConfig, JMIForPreTraining
from hf_mi_ssl.encoders import encoder_config
from hf_mi_ssl.errors import UserError
from hf_mi_ssl.methods import METHODS
from hf_mi_ssl.training import PretrainingArguments

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
sys.path.append(str(RECIPES))

import reproduce  # noqa: E402
from reproducing import comparison, running  # noqa: E402
from reproducing.costs import cost_of, count_step  # noqa: E402
from reproducing.evidence import Evidence, collect, read_evidence  # noqa: E402
from reproducing.figures import comparison_figure  # noqa: E402
from reproducing.matrix import declared_runs, read_matrix  # noqa: E402
from reproducing.page import render  # noqa: E402
from reproducing.tracked import growth_table, mi_figure, rows_figure  # noqa: E402

SMALL = {"name": "small", "methods": ["jmi", "simsiam", "sdmi"], "first": ["sdmi"], "datasets": {"shapes": {}}}


def matrix_file(tmp_path, **more) -> Path:
    path = tmp_path / "matrix.yaml"
    path.write_text(yaml.safe_dump(SMALL | more))
    return path


def runs_of(tmp_path, **more):
    return declared_runs(read_matrix(matrix_file(tmp_path, **more)), tmp_path / "runs")


# What a matrix declares


def test_a_matrix_is_its_methods_times_data_sets_times_seeds_the_first_ones_first(tmp_path):
    runs = runs_of(tmp_path, datasets={"a": {"image_size": 32}, "b": None}, seeds=[0, 7])
    methods = ["sdmi", "jmi", "simsiam"]
    expected = [f"{dataset}/{method}-seed{seed}" for seed in (0, 7) for dataset in "ab" for method in methods]
    assert [run.name for run in runs] == expected
    assert runs[-1].directory == tmp_path / "runs" / "small" / "b" / "simsiam-seed7"
    assert [(run.args.method, run.args.seed, run.args.image_size) for run in runs[:2]] == [
        ("sdmi", 0, 32),
        ("jmi", 0, 32),
    ]
    assert runs[-1].args.image_size == 64


def test_first_methods_may_have_more_seeds_and_then_all_of_theirs_come_first(tmp_path):
    runs = runs_of(tmp_path, first=["sdmi", "simsiam"], seeds={"first": [0, 1], "others": [5]})
    expected = ["sdmi-seed0", "simsiam-seed0", "sdmi-seed1", "simsiam-seed1", "jmi-seed5"]
    assert [run.name for run in runs] == [f"shapes/{name}" for name in expected]


def test_a_fine_tune_is_declared_for_each_share_of_labels_with_flags_of_the_recipe(tmp_path):
    declared = {"label_fractions": [0.01, 0.1], "learning_rate": ["3e-3", 1e-3], "num_train_epochs": 5}
    run = runs_of(tmp_path, finetune=declared)[0]
    assert run.finetunes[1] == {
        "label_fraction": 0.1, "learning_rate": [0.003, 0.001], "num_train_epochs": [5],
        "per_device_train_batch_size": 64, "weight_decay": 0.05, "freeze_encoder": False,
    }  # fmt: skip
    assert [one["label_fraction"] for one in run.finetunes] == [0.01, 0.1]


def test_without_methods_a_matrix_has_every_row(tmp_path):
    methods = [run.method for run in runs_of(tmp_path, methods=None, first=["jmi"])]
    assert methods[0] == "jmi"
    assert sorted(methods) == sorted(METHODS)


def test_overrides_win_over_flags_and_columns_are_joined(tmp_path):
    flags = {"learning_rate": "3e-3", "set": {"projection_size": 16, "temperature": 0.3}}
    overrides = {"jmi": {"learning_rate": 0.1, "set": {"temperature": 0.5, "marginal": {}}}}
    sdmi, jmi, _ = runs_of(tmp_path, flags=flags, overrides=overrides)
    assert (sdmi.args.learning_rate, jmi.args.learning_rate) == (0.003, 0.1)
    assert sdmi.args.columns == {"projection_size": 16, "temperature": 0.3}
    assert jmi.args.columns == {"projection_size": 16, "temperature": 0.5, "marginal": {}}
    assert (sdmi.kind, jmi.kind) == ("bound", "surrogate")  # without its marginal term J − M bounds nothing


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"first": ["simsam"]}, "did you mean 'simsiam'?"),
        ({"overrides": {"jmy": {}}}, "did you mean 'jmi'?"),
        ({"method": ["jmi"]}, "did you mean 'methods'?"),
        ({"seeds": 3}, "`seeds` must be a list or a dict"),
        ({"seeds": {"first": [0]}}, "{first: [0, 1, 2], others: [0]}"),
        ({"finetune": {"label_fraction": 0.1}}, "did you mean 'label_fractions'?"),
        ({"finetune": {"label_fractions": [10]}}, "label_fractions lie in (0, 1], got 10"),
        ({"finetune": {"label_fractions": [0.1], "weight_decay": "much"}}, "weight_decay must be a float"),
        ({"datasets": None}, "at least `name` and `datasets`"),
        ({"flags": {"lerning_rate": 1}}, "did you mean --learning_rate?"),
        ({"flags": {"set": {"temprature": 1}}}, "shapes/sdmi-seed0: unknown"),
        ({"flags": {"seed": 1}}, "seed follows from a run's place"),
    ],
)
def test_a_mistake_in_a_matrix_is_found_before_anything_runs(tmp_path, more, said):
    with pytest.raises(UserError) as error:
        runs_of(tmp_path, **more)
    assert said in str(error.value)


@pytest.mark.parametrize("path", sorted((RECIPES / "reproduce").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_matrix_is_understood_and_has_its_rows_or_all(path, tmp_path):
    matrix = read_matrix(path)
    files = ["train=a.parquet", "test=b.parquet"] if len(matrix["datasets"]) == 1 else None
    runs = declared_runs(matrix, tmp_path, files)
    assert {run.method for run in runs} == set(yaml.safe_load(path.read_text()).get("methods", METHODS))
    assert matrix["name"] == path.stem
    assert not files or all(run.args.files == {"train": "a.parquet", "test": "b.parquet"} for run in runs)
    assert all(run.args.dataset_name == "parquet" for run in runs)


# What is run


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
settings = vars(parser.parse_args())
run, config, output = (settings.pop(name) for name in ("model", "config", "output_dir"))
assert (run / "results.json").exists() and output == str(run / "finetuned")
share = settings["label_fraction"]
with open(run / "finetunes", "a") as calls:
    print(share, file=calls)
file = run / "finetune.json"
rows = json.loads(file.read_text())["evaluations"] if file.exists() else []
row = {"name": f"finetune_top1_{100 * share:g}pct", "value": 0.5 + share, "n": 10, "low": 0.5, "high": 0.75,
       "split": "test", "protocol": "as ever", "encoder": "trained", "branch": "online", "label_fraction": share,
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


def evaluation(name, value, encoder="trained", half=None, **more) -> dict:
    ends = {"low": None, "high": None} if half is None else {"low": value - half, "high": value + half}
    row = {"name": name, "value": value, "encoder": encoder, "branch": "online", "n": 1000, "split": "test"}
    return row | ends | {"protocol": f"{name} as ever"} | more


def results_of(knn: float, **more) -> dict:
    """Made-up results."""
    return {
        "steps": 2, "images_seen": 128, "hardware": {"device": "Abacus", "threads": 1}, "versions": {"torch": "9.9"},
        "timing": {"train_seconds": 90.0, "images_per_second": 123.4},
        "evaluations": [
            evaluation("knn_top1", 0.99, half=0.01, branch="target"),
            evaluation("knn_top1", 0.25, "pixels", 0.05),
            evaluation("knn_top1", 0.3, "random", 0.05),
            evaluation("knn_top1", knn, half=0.05),
            evaluation("linear_top1", 0.61, half=0.01),
            evaluation("mi/cos_dv", 0.1, "random", 0.01, ceiling=6.5),
            evaluation("mi/cos_dv", 1.5, half=0.25, ceiling=6.5),
            evaluation("rank/effective_rank", 7.25),
            evaluation("rank/rankme", 9.0),
        ],
    } | more  # fmt: skip


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


def test_a_method_that_is_not_of_the_matrix_cannot_be_chosen(command):
    with pytest.raises(UserError, match="did you mean 'simsiam'?"):
        command("--methods", "simclam")
    with pytest.raises(UserError, match="unknown method of this matrix 'vicreg'"):
        command("--methods", "vicreg")


# The table


def write_run(run, knn: float, value: float, **more) -> None:
    run.directory.mkdir(parents=True)
    (run.directory / "training_args.json").write_text(json.dumps(run.args.to_dict()))
    (run.directory / "results.json").write_text(json.dumps(results_of(knn, **more)))
    records = [{"step": 1, "value": -1.0}, {"step": 2, "value": value}, {"step": 2, "eval/mi/cos_dv": 9}]
    (run.directory / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def page_of(matrix, runs, path) -> str:
    return render(matrix, runs, collect(runs, path.parent / "evidence"), path, {})


def table_of(page: str) -> list[str]:
    """The lines of the first table."""
    lines = itertools.dropwhile(lambda line: not line.startswith("|"), page.splitlines())
    return [*itertools.takewhile(lambda line: line.startswith("|"), lines)][2:]


def test_the_table_is_what_the_files_say(tmp_path):
    path = matrix_file(tmp_path, notes="Two steps only.", overrides={"jmi": {"set": {"projection_size": 16}}})
    matrix = read_matrix(path)
    sdmi, jmi, simsiam = declared_runs(matrix, tmp_path / "runs")
    write_run(jmi, 0.5, 2.0)
    write_run(simsiam, 0.4, 1.0, timing={"train_seconds": 30, "images_per_second": 400.0})
    page = page_of(matrix, [sdmi, jmi, simsiam], path)
    assert table_of(page) == [
        "| pixels | | | | 25.0 (20.0 to 30.0) | — | | | | | | |",
        "| random encoder | | | | 30.0 (25.0 to 35.0) | — | | | | | | |",
        "| `simsiam` | SDMI | a surrogate | 1 of 1 | 40.0 (35.0 to 45.0) | 61.0 (60.0 to 62.0) | 1.00, not MI "
        "| 1.50 (1.25 to 1.75); ceiling 6.50 | 7.2 | 9.0 | 400 | 0.5 |",
        "| `jmi` | JMI | a bound | 1 of 1 | 50.0 (45.0 to 55.0) | 61.0 (60.0 to 62.0) | 2.00 nats "
        "| 1.50 (1.25 to 1.75); ceiling 6.50 | 7.2 | 9.0 | 123 | 1.5 |",
    ]
    for said in (
        "# small\n\nTwo steps only.\n",
        "## Not done yet\n\n- `shapes/sdmi-seed0`: to do\n",
        "- set:\n  - {projection_size: 16}: shapes/jmi-seed0\n  - {}: shapes/simsiam-seed0\n",
        "- per_device_train_batch_size: 64\n",
        "- steps: 2\n- images_seen: 128\n- hardware: {device: Abacus, threads: 1}\n- versions: {torch: 9.9}\n",
        "- linear probe: linear_top1 as ever; n = 1,000 of test\n",
        "python recipes/reproduce.py --matrix matrix.yaml\n",
    ):
        assert said in page
    assert str(tmp_path) not in page  # where the files lay is no result

    (jmi.directory / "metrics.jsonl").unlink()
    write = results_of(0.5) | {"evaluations": [evaluation("knn_top1", 0.75, half=0.01)]}
    (jmi.directory / "results.json").write_text(json.dumps(write))
    again = table_of(page_of(matrix, [sdmi, jmi, simsiam], path))
    assert again[-1] == "| `jmi` | JMI | a bound | 1 of 1 | 75.0 (74.0 to 76.0) | — | — | — | — | — | 123 | 1.5 |"
    assert again[:-1] == table_of(page)[:-1]


def test_several_seeds_are_a_mean_with_its_deviation_and_n(tmp_path):
    path = matrix_file(tmp_path, methods=["jmi"], first=[], seeds=[0, 1, 2])
    matrix = read_matrix(path)
    runs = declared_runs(matrix, tmp_path / "runs")
    for run, knn in zip(runs[:2], (0.4, 0.5)):
        write_run(run, knn, 2.0)
    pixels, _, jmi = table_of(page_of(matrix, runs, path))
    assert jmi.startswith("| `jmi` | JMI | a bound | 2 of 3 | 45.0 ± 7.1 (n = 2) | 61.0 ± 0.0 (n = 2) | 2.00 ± 0.00")
    assert "25.0 ± 0.0 (n = 2)" in pixels


def test_the_command_names_files_given_on_the_command_line_without_their_place(tmp_path):
    path = matrix_file(tmp_path, methods=["jmi"], first=[])
    matrix = read_matrix(path)
    files = [f"train={tmp_path}/a.parquet", f"test={tmp_path}/b.parquet"]
    runs = declared_runs(matrix, tmp_path / "runs", files)
    write_run(runs[0], 0.4, 2.0)
    page = page_of(matrix, runs, path)
    assert "--matrix matrix.yaml --data_files train=a.parquet test=b.parquet\n```\n" in page
    assert str(tmp_path) not in page
    elsewhere = declared_runs(matrix, tmp_path / "runs")[0]  # the data set from the Hub
    assert not elsewhere.changes(runs[0].args.to_dict())


# The evidence, and what the runs say together


def made(method: str, seed: int = 0, flops: float = 1e6, linear: float = 0.5, **values: float) -> Evidence:
    """Evidence of ten steps of eight images, whose tracked accuracy rises by a hundredth a step from 0.3 on."""
    steps = {
        "step": [0, 5, 10],
        "epoch": [0.0, 0.5, 1.0],
        "eval/linear_top1": [0.3, 0.35, 0.4],
        "eval/knn_top1": [0.1] * 3,
        "eval/mi/cos_dv": [0.1, 0.5, 1.0],
    }
    rows = [evaluation(name, value) for name, value in {"linear_top1": linear, **values}.items()]
    results = {"steps": 10, "images_seen": 80, "timing": {}, "evaluations": rows}
    cost = {"flops": flops, "learning_passes": 2, "other_passes": 0}
    return Evidence(f"d/{method}-seed{seed}", "d", method, seed, "bound", {}, results, [], steps, {}, cost)


def test_evidence_keeps_every_evaluation_and_some_steps_and_no_place(tmp_path):
    run = runs_of(tmp_path, methods=["jmi"], first=[], flags={"data_dir": str(tmp_path)})[0]
    write_run(run, 1 / 3, 2.0, note=str(tmp_path / "kept.txt"))
    records = [{"step": step, "value": step / 7} for step in range(1, 1001)]
    records += [{"step": step, "eval/mi/cos_dv": step / 3, "alarm": {"collapse": "x"}} for step in range(0, 1001, 100)]
    (run.directory / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (found,) = collect([run], tmp_path / "evidence")
    assert found == read_evidence(tmp_path / "evidence" / "shapes" / "jmi-seed0.json")
    assert found.curve("eval/mi/cos_dv")[0] == [*range(0, 1001, 100)]
    assert found.curve("eval/mi/cos_dv")[1][1] == 33.3333
    assert len(found.steps["value"]) == 100
    assert (found.steps["step"][0], found.steps["step"][-1]) == (1, 1000)
    assert found.measured("value")["value"] == 142.857
    assert found.measured("knn_top1")["value"] == 0.333333
    assert found.results["note"] == "kept.txt"
    assert str(tmp_path) not in (tmp_path / "evidence" / "shapes" / "jmi-seed0.json").read_text()


def test_a_file_that_is_no_evidence_is_refused(tmp_path):
    (tmp_path / "x.json").write_text('{"name": "x"}')
    with pytest.raises(UserError, match="x.json holds no evidence of a run"):
        read_evidence(tmp_path / "x.json")


def test_equal_compute_is_read_between_the_evaluations_around():
    cheap, dear = made("jmi", flops=1e6), made("sdmi", flops=4e6)
    least = comparison.budget([dear, cheap])
    assert least == comparison.spent(cheap) == 8e7
    key = comparison.TRACKED["linear"]
    assert comparison.at_compute(cheap, key, least) == pytest.approx(0.4)
    assert comparison.at_compute(dear, key, least) == pytest.approx(0.325)  # after a quarter of its steps
    assert comparison.at_compute(cheap, key, comparison.spent(dear)) is None  # it has never spent that
    assert [line.split(" | ")[4:8] for line in comparison.cost_table([cheap, dear]).splitlines()[2:]] == [
        ["0.0", "0.2 of 1", "40.0", "32.5"],
        ["0.0", "1.0 of 1", "40.0", "40.0"],
    ]


def test_a_measure_is_ranked_over_rows_and_one_that_needs_labels_is_not():
    runs = [
        made(method, seed, linear=0.1 * i + 0.001 * seed, **{"mi/cos_dv": i, "rank/rankme": -i, "collapse/nc1": i})
        for i, method in enumerate(comparison.ESTABLISHED)
        for seed in range(2)
    ]
    found = comparison.correlations(runs)
    assert {name: one[0] for name, one in found.items()} == {
        "mi/cos_dv": pytest.approx(1),
        "rank/rankme": pytest.approx(-1),
    }
    assert all(low <= value + 1e-9 and value <= high + 1e-9 for value, low, high in found.values())
    assert comparison.correlations(runs[:6]) == {}  # three rows
    mixed = [made(m, linear=x, **{"mi/cos_dv": y}) for m, x, y in zip(METHODS, (1, 2, 3, 4, 5), (2, 1, 4, 3, 5))]
    value, low, high = comparison.correlations(mixed)["mi/cos_dv"]
    assert value == pytest.approx(0.8)  # 1 − 6 Σd² / n(n² − 1)
    assert low < 0.5 < high
    assert comparison.by_chance(mixed, "mi/cos_dv") == pytest.approx(16 / 120)  # exactly, of the 5! orders


@pytest.mark.parametrize(
    ("method", "columns", "passes"),
    [
        ("jmi", {}, (2, 0)),
        ("simsiam", {}, (2, 0)),
        ("moco_v2", {"queue_size": 64, "batch_norm_group_size": 8}, (1, 1)),
        ("byol", {}, (2, 2)),
        ("sdmi", {}, (2, 2)),
        ("sdmi", {"m_step_every": 4}, (1.25, 1.25)),
    ],
)
def test_passes_of_an_image_through_encoders_are_counted(method, columns, passes):
    cost = cost_of(arguments_of(method, **columns))
    assert (cost["learning_passes"], cost["other_passes"]) == passes


def arguments_of(method: str, **columns) -> dict:
    more = {"method": method, "set": {"projector_hidden_size": 32, "projection_size": 16} | columns}
    return PretrainingArguments().to_dict() | more | {"image_size": 32, "per_device_train_batch_size": 8}


def test_a_pass_without_gradient_costs_about_a_third_and_counting_needs_no_numbers():
    jmi, other, turns = (cost_of(arguments_of(method))["flops"] for method in ("jmi", "sdmi_ema", "sdmi"))
    assert 4 / 3 < other / jmi < 1.4  # two passes that learn beside two that do not; images need no gradient
    assert turns == pytest.approx(other, rel=1e-3)
    config = JMIConfig.from_method(
        "lejepa", encoder_config=encoder_config("resnet_tiny", 32), projector_hidden_size=32, projection_size=16
    )
    views = torch.randn(2, 8, 3, 32, 32)
    assert count_step(JMIForPreTraining(config), *views)["flops"] / 8 == cost_of(arguments_of("lejepa"))["flops"]
    assert cost_of(arguments_of("jmi") | {"init_from": "somewhere"}) is None


@pytest.mark.parametrize("draw", [comparison_figure, mi_figure, rows_figure])
def test_figures_are_transparent_so_that_dark_pages_can_show_them(draw, tmp_path):
    runs = [made(m, s, linear=0.1 * i, **{"mi/cos_dv": i}) for i, m in enumerate(METHODS) for s in (0, 1)]
    draw(runs, tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as image:
        alpha = np.asarray(image.convert("RGBA"))[..., 3]
    assert (alpha == 0).mean() > 0.5
    assert (alpha > 0).mean() > 0.01


def test_growth_is_told_with_how_sure_it_is_and_with_what_the_alarm_said():
    def verdict(grew, gain, because=()):
        curve = {"grew": grew, "because": [*because], "gain": gain, "standard_error": 0.1, "monotone_share": 0.9}
        return {"growth": {"mi/cos_dv_calibrated": curve}, "alarms": []}

    alarm = [{"kind": "stagnation", "step": 3, "message": "x"}, {"kind": "ceiling_reached", "step": 4, "message": "x"}]
    runs = [
        replace(made("jmi"), results=verdict(True, 2.0)),
        replace(made("jmi", 1), results=verdict(True, 1.0)),
        replace(made("simsiam"), results=verdict(False, 0.1, ["gained little"]) | {"alarms": alarm}),
    ]
    assert growth_table(runs).splitlines()[2:] == [
        "| `jmi` | 2 of 2 | 1.50 ± 0.71 | 10 | 0.90 ± 0.00 | none |",
        "| `simsiam` | 0 of 1: gained little | 0.10 | 1 | 0.90 | ceiling reached (a note), stagnation |",
    ]


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
