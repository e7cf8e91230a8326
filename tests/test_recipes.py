"""The two recipes as a user runs them: what they write, that they resume bit for bit, and how they answer mistakes."""

import difflib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from PIL import Image
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import AutoImageProcessor, AutoModel, AutoModelForPreTraining

from hf_mi_ssl import SDMIForPreTraining
from hf_mi_ssl.errors import ExitCode, UserError
from hf_mi_ssl.methods import METHODS
from hf_mi_ssl.training import MetricsLog, optimization, read_records
from tests.conftest import SMALLER

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
FAST = ["--image_size", "16", "--per_device_train_batch_size", "16", "--num_train_epochs", "2", "--eval_steps", "100",
        "--set", "projector_hidden_size=32", "projection_size=16", "--dataloader_num_workers", "0"]  # fmt: skip


def data(folder) -> list[str]:
    return ["--dataset_name", "imagefolder", "--data_dir", str(folder)]


def recipe_of(method: str) -> Path:
    return RECIPES / f"pretrain_{METHODS[method].paradigm}.py"


def run(method: str, output_dir, *argv) -> int:
    """The recipe of that method in this process; returns its exit code."""
    spec = importlib.util.spec_from_file_location("recipe", recipe_of(method))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    smaller = [f"{name}={value}" for name, value in SMALLER.items() if name in METHODS[method].columns]
    before = sys.argv
    sys.argv = command(method, output_dir, *(["--set", *smaller] if smaller else []), *argv)
    try:
        return module.run_recipe(module.main, module.__doc__, method=METHODS[method].paradigm)
    finally:
        sys.argv = before
        AcceleratorState._reset_state(reset_partial_state=True)
        PartialState._reset_state()


def log_of(output_dir) -> list[dict]:
    """The log without what reruns may differ in."""
    records = read_records(Path(output_dir) / "metrics.jsonl")
    return [{key: value for key, value in record.items() if key != "images_per_second"} for record in records]


def results_of(output_dir) -> dict:
    found = json.loads((Path(output_dir) / "results.json").read_text())
    del found["timing"]
    return found


def weights_of(output_dir) -> dict:
    return load_file(Path(output_dir) / "pretraining" / "model.safetensors")


def assert_same_run(one, other):
    """Weights, log and results bit for bit."""
    first, second = weights_of(one), weights_of(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert log_of(one) == log_of(other)
    assert results_of(one) == results_of(other)


@pytest.fixture(scope="session")
def finished(folder, tmp_path_factory) -> Path:
    """The output of a complete run of the two-encoder prototype."""
    output = tmp_path_factory.mktemp("run") / "sdmi"
    assert run("sdmi", output, *data(folder), *FAST) == 0
    return output


# What a run writes


def test_the_output_directory_holds_what_the_design_says(finished):
    names = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    assert {name for name in names if not name.startswith("checkpoints/")} == {
        ".lock", "README.md", "config.json", "model.safetensors", "preprocessor_config.json", "training_args.json",
        "metrics.jsonl", "results.json", "pretraining/config.json", "pretraining/model.safetensors",
        "figures/training.png", "figures/mi.png", "figures/quality.png", "figures/spectrum.png",
        "figures/embedding_map.png",
    }  # fmt: skip
    assert {Path(name).parts[1] for name in names if name.startswith("checkpoints/")} == {
        "checkpoint-6", "checkpoint-12",
    }  # fmt: skip
    assert {path.suffix for path in finished.rglob("*") if path.is_file()} <= {
        "", ".md", ".json", ".jsonl", ".safetensors", ".png",
    }  # fmt: skip


def test_the_log_has_a_line_for_each_step_with_exactly_the_keys_of_the_design(finished):
    records = read_records(finished / "metrics.jsonl")
    steps = [record for record in records if "loss" in record]
    assert [record["step"] for record in steps] == list(range(1, 13))
    for record in steps:
        assert set(record) == {"step", "epoch", "loss", "joint/expected_score", "marginal/exact", "value",
                               "learning_rate", "images_per_second"}  # fmt: skip
        assert record["loss"] == pytest.approx(-record["value"])
        assert record["value"] == pytest.approx(record["joint/expected_score"] - record["marginal/exact"], abs=1e-5)
    evaluations = [record for record in records if "loss" not in record]
    assert [record["step"] for record in evaluations] == [0, 12]
    spaces, estimators = ("mi", "mi_h", "mi_target"), ("cos_dv", "cos_dv_calibrated", "info_nce", "jsd")
    keys = {f"eval/{space}/{name}{part}" for space in spaces for name in estimators
            for part in ("", "/ceiling", "/saturated", "/low", "/high", "/n")}  # fmt: skip
    keys |= {f"eval/rank/{name}" for name in ("rankme", "effective_rank", "effective_rank_of_directions",
                                            "participation_ratio")}  # fmt: skip
    keys |= {f"eval/collapse/{name}" for name in ("std", "dead_dimensions", "mean_cosine", "largest_norm", "alignment",
                                                "uniformity")}  # fmt: skip
    keys |= {"eval/knn_top1", "eval/linear_top1"}
    for record in evaluations:
        assert set(record) == keys | {"step", "epoch"}
        for name in estimators:
            assert record[f"eval/mi/{name}/low"] <= record[f"eval/mi/{name}"] <= record[f"eval/mi/{name}/high"]
            assert record[f"eval/mi/{name}"] <= record[f"eval/mi/{name}/ceiling"] + 0.5


def test_the_results_name_protocol_split_and_interval_for_pixels_random_and_trained(finished):
    results = json.loads((finished / "results.json").read_text())
    assert set(results) == {"method", "encoder", "dataset", "seed", "steps", "images_seen", "hardware", "timing",
                            "versions", "evaluations", "alarms", "growth", "row", "dataset_license",
                            "bad_images"}  # fmt: skip
    assert set(results["growth"]) == {f"{where}/{name}" for where in ("mi", "mi_h", "mi_target")
                                      for name in ("cos_dv", "cos_dv_calibrated")}  # fmt: skip
    assert (results["steps"], results["images_seen"], results["method"]) == (12, 192, "sdmi")
    accuracies = {}
    for row in results["evaluations"]:
        of_mi = {"ceiling", "saturated", "kind"} if row["name"].startswith("mi") else set()
        assert of_mi <= set(row)
        assert set(row) - of_mi == {
            "name",
            "value",
            "low",
            "high",
            "n",
            "split",
            "protocol",
            "encoder",
            "branch",
        }
        assert row["split"] == "test"
        assert row["protocol"]
        if row["name"].endswith("_top1"):
            assert row["n"] == 32
            assert row["low"] <= row["value"] <= row["high"]
            accuracies[row["name"], row["encoder"], row["branch"]] = row["value"]
    assert set(accuracies) == {
        ("knn_top1", "pixels", "online"),
        *((name, "random", "online") for name in ("knn_top1", "linear_top1")),
        *((name, "trained", branch) for name in ("knn_top1", "linear_top1") for branch in ("online", "target")),
    }
    assert accuracies["knn_top1", "pixels", "online"] == 1  # red and green


def test_the_encoder_loads_and_sees_what_the_run_saw(finished, folder):
    encoder = AutoModel.from_pretrained(finished)
    whole = AutoModelForPreTraining.from_pretrained(finished, subfolder="pretraining")
    processor = AutoImageProcessor.from_pretrained(finished)
    image = Image.open(next((folder / "test").rglob("*.png")))
    pixels = processor(image, return_tensors="pt")
    assert pixels["pixel_values"].shape == (1, 3, 16, 16)
    with torch.no_grad():
        h = encoder(**pixels).pooler_output
        torch.testing.assert_close(h, whole.encoder.eval()(**pixels).pooler_output)


def test_the_card_says_what_was_measured_and_nothing_else(finished):
    card = (finished / "README.md").read_text().replace("\\", "")
    results = json.loads((finished / "results.json").read_text())
    assert "expected_score" in card
    assert "log mean_{i≠j} exp T(a_i, b_j)" in card
    assert str(finished) not in card
    assert f"{results['images_seen']}" in card


# The same run twice, interrupted, on two processes


def test_two_runs_with_one_seed_are_identical_and_with_another_differ(flat, tmp_path):
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        assert run("sdmi", tmp_path / name, *data(flat), *FAST, "--seed", seed) == 0
    assert_same_run(tmp_path / "one", tmp_path / "again")
    assert log_of(tmp_path / "other") != log_of(tmp_path / "one")


class Stopped(BaseException):
    """The end of a process, as far as the run can see."""


def stop_after(step: int, monkeypatch) -> None:
    noted = MetricsLog.step

    def note(self, record, images, skipped):
        noted(self, record, images, skipped)
        if record["step"] == step:
            raise Stopped

    monkeypatch.setattr(MetricsLog, "step", note)


ACCUMULATED, HALF = ["--gradient_accumulation_steps", 2], ["--mixed_precision", "bf16"]
# Those that differ in what a checkpoint holds; the others are slow, and tests/faults stops each at every step
FAST_ROWS = [("sdmi", []), ("moco_v2", []), ("jmi", HALF), ("sdmi_ema", ACCUMULATED)]
INTERRUPTED = [(method, []) for method in METHODS]
INTERRUPTED += [(method, extra) for method in ("sdmi", "sdmi_ema", "jmi") for extra in (ACCUMULATED, HALF)]
INTERRUPTED = [pytest.param(*case, marks=() if case in FAST_ROWS else pytest.mark.slow) for case in INTERRUPTED]


@pytest.mark.parametrize(("method", "extra"), INTERRUPTED)
def test_a_run_stopped_in_the_middle_of_an_epoch_resumes_bit_for_bit(method, extra, flat, tmp_path, monkeypatch):
    if "bf16" in extra:  # oneDNN leaves the unused taps of a bf16 gradient unset where a map has one pixel
        extra = [*extra, "--image_size", 32]
    arguments = [*data(flat), *FAST, "--checkpointing_steps", 2, *extra]
    assert run(method, tmp_path / "whole", *arguments) == 0
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(Stopped):
            run(method, tmp_path / "stopped", *arguments)
    assert not (tmp_path / "stopped" / "results.json").exists()
    resumed = [*arguments, "--resume_from_checkpoint", "latest"]
    assert run(method, tmp_path / "stopped", *resumed) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_resuming_a_finished_run_measures_it_again_and_changes_nothing(finished, folder, tmp_path):
    shutil.copytree(finished, tmp_path / "copy")
    (tmp_path / "copy" / "results.json").unlink()
    assert run("sdmi", tmp_path / "copy", *data(folder), *FAST, "--resume_from_checkpoint", "latest") == 0
    assert_same_run(finished, tmp_path / "copy")


def test_another_run_is_not_resumed_and_nothing_written_is_lost(finished, folder, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "copy")
    arguments = [*data(folder), *FAST, "--learning_rate", 0.5]
    assert run("sdmi", tmp_path / "copy", *arguments, "--resume_from_checkpoint", "latest") == ExitCode.OTHER_RUN
    assert "learning_rate 0.005 → 0.5" in capsys.readouterr().err
    assert run("sdmi", tmp_path / "copy", *arguments) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert_same_run(finished, tmp_path / "copy")


def test_a_run_whose_checkpoints_are_all_damaged_is_left_as_it_is(finished, folder, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "copy")
    for checkpoint in (tmp_path / "copy" / "checkpoints").iterdir():
        (checkpoint / "model.safetensors").write_bytes(b"")
    before = (tmp_path / "copy" / "metrics.jsonl").read_bytes()
    assert run("sdmi", tmp_path / "copy", *data(folder), *FAST, "--resume_from_checkpoint", "latest") == 2
    assert "is complete" in capsys.readouterr().err
    assert (tmp_path / "copy" / "metrics.jsonl").read_bytes() == before


def test_the_log_of_a_run_that_died_before_its_first_checkpoint_is_put_aside(flat, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(Stopped):
            run("jmi", tmp_path, *data(flat), *FAST, "--mi_steps", 0)
    assert run("jmi", tmp_path, *data(flat), *FAST, "--mi_steps", 0, "--resume_from_checkpoint", "latest") == 0
    assert len(list(tmp_path.glob("metrics.before-*.jsonl"))) == 1
    assert not any(row["name"].startswith("mi") for row in results_of(tmp_path)["evaluations"])
    assert not any(key.startswith("eval/mi") for record in read_records(tmp_path / "metrics.jsonl") for key in record)
    assert results_of(tmp_path)["growth"] == {}
    assert not (tmp_path / "figures" / "mi.png").exists()


@pytest.mark.parametrize(("method", "phases"), [("sdmi", 2), ("jmi", 1)])
def test_gradients_are_clipped_once_for_each_optimiser_step(method, phases, flat, tmp_path, monkeypatch):
    clipped, stepped = [], []
    clip = Accelerator.clip_grad_norm_

    def note_clip(self, parameters, max_norm):
        clipped.append(clip(self, parameters, max_norm))
        return clipped[-1]

    def note_step(optimizer, *_):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        stepped.append(torch.nn.utils.get_total_norm(gradients))

    monkeypatch.setattr(Accelerator, "clip_grad_norm_", note_clip)
    monkeypatch.setattr(optimization, "_try_out", lambda *_: None)  # it takes a step of its own
    hook = register_optimizer_step_pre_hook(note_step)
    argv = ["--mi_steps", 0, "--max_train_steps", 3, *ACCUMULATED]
    assert run(method, tmp_path / "free", *data(flat), *FAST, *argv) == 0
    assert (len(clipped), len(stepped)) == (0, 3 * phases)
    assert run(method, tmp_path / "clipped", *data(flat), *FAST, *argv, "--max_grad_norm", 1e-3) == 0
    hook.remove()
    assert len(clipped) == 3 * phases
    assert min(clipped) > 1e-3
    assert stepped[3 * phases :] == pytest.approx([1e-3] * 3 * phases, rel=1e-2)


@pytest.mark.parametrize(("method", "last"), [("moco_v3", 0.999), ("byol", 1.0)])
def test_the_momentum_goes_from_the_rows_first_value_to_its_last(method, last, flat, tmp_path, monkeypatch):
    momenta = []
    monkeypatch.setattr(SDMIForPreTraining, "update_target", lambda self, momentum: momenta.append(momentum))
    columns = ["--set", f"target_momentum_end={last}"]
    assert run(method, tmp_path, *data(flat), *FAST, *columns, "--mi_steps", 0) == 0
    first = METHODS[method].columns["target_momentum"]
    assert momenta[0] == first
    assert momenta == sorted(momenta)
    assert momenta[len(momenta) // 2] == pytest.approx((first + last) / 2, abs=1e-9)


def test_training_that_diverges_says_so(flat, tmp_path, capsys):
    argv = ["--optimizer", "sgd", "--learning_rate", 1e30, "--warmup_epochs", 0, "--mi_steps", 0]
    assert run("jmi", tmp_path, *data(flat), *FAST, *argv) == ExitCode.NOT_FINITE
    assert "are not finite: training has diverged" in capsys.readouterr().err
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()


def test_labels_of_any_integers_and_few_images_are_enough(folder, tmp_path):
    import datasets

    for split, n in (("train", 20), ("test", 6)):
        paths = [path for label in ("red", "green") for path in sorted((folder / split / label).iterdir())[: n // 2]]
        cells = [{"bytes": path.read_bytes(), "path": None} for path in paths]
        rows = {"image": cells, "label": [10**9 * ("red" in str(path)) for path in paths]}
        features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"{split}.parquet")
    files = [f"{split}={tmp_path / split}.parquet" for split in ("train", "test")]
    assert run("jmi", tmp_path / "run", "--dataset_name", "parquet", "--data_files", *files, *FAST) == 0
    names = {row["name"] for row in results_of(tmp_path / "run")["evaluations"]}
    assert "knn_top1" in names
    assert not any(name.startswith("mi") for name in names)  # six pairs tell nothing


def command(method, output_dir, *argv):
    return [str(recipe_of(method)), "--method", method, "--output_dir", str(output_dir), *map(str, argv)]


def environment(**more):
    return os.environ | {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"} | more


@pytest.mark.slow
def test_a_killed_process_resumes_bit_for_bit(flat, tmp_path):
    arguments = [*data(flat), *FAST, "--num_train_epochs", 30, "--checkpointing_steps", 7]
    subprocess.run([sys.executable, *command("sdmi", tmp_path / "whole", *arguments)], check=True, env=environment())
    again = command("sdmi", tmp_path / "killed", *arguments, "--resume_from_checkpoint", "latest")
    for kill in range(3):
        process = subprocess.Popen([sys.executable, *again], env=environment(), stderr=subprocess.DEVNULL)
        wanted = tmp_path / "killed" / "checkpoints" / f"checkpoint-{42 * (kill + 1)}"
        while not wanted.exists() and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    subprocess.run([sys.executable, *again], check=True, env=environment())
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sdmi", "jmi"])
def test_two_processes_see_and_log_what_one_of_twice_the_batch_does(name, flat, tmp_path):
    """Images, views, losses and statistics of every step, at learning rate 0: in float32, batch norm amplifies
    rounding until even one process on two threads leaves one process on one. That the gradients and so the updates are
    equal too is stated by `test_distributed`, in float64, for every row."""
    arguments = [*data(flat), *FAST, "--optimizer", "sgd", "--learning_rate", 0]
    subprocess.run([sys.executable, *command(name, tmp_path / "one", *arguments)], check=True, env=environment())
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    two = command(name, tmp_path / "two", *arguments, "--per_device_train_batch_size", 8)
    done = subprocess.run([*launcher, *two], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 processes on cpu") == 1  # and it is said once
    for mine, theirs in zip(log_of(tmp_path / "two"), log_of(tmp_path / "one"), strict=True):
        assert mine.keys() == theirs.keys()
        if "loss" in mine:
            assert mine["loss"] == pytest.approx(theirs["loss"], abs=1e-4)
    first, second = weights_of(tmp_path / "one"), weights_of(tmp_path / "two")
    for key in first:
        torch.testing.assert_close(first[key], second[key], rtol=1e-4, atol=1e-5)


# Other data, other settings


def test_images_without_labels_are_enough(flat, tmp_path):
    assert run("jmi", tmp_path / "run", *data(flat), *FAST) == 0
    rows = results_of(tmp_path / "run")["evaluations"]
    assert not any(row["name"].endswith("_top1") for row in rows)
    assert {row["split"] for row in rows} == {"train (a tenth, held out)"}
    assert rows[0]["n"] == 13
    assert not any("knn" in key for record in log_of(tmp_path / "run") for key in record)


def test_training_goes_on_from_an_encoder_that_was_saved(finished, flat, tmp_path):
    assert run("jmi", tmp_path / "run", *data(flat), *FAST, "--init_from", finished, "--learning_rate", 0) == 0
    start, end = (load_file(path / "model.safetensors") for path in (finished, tmp_path / "run"))
    weights = [name for name in start if name.endswith("weight")]
    assert weights
    assert all(torch.equal(start[name], end[name]) for name in weights)  # nothing was learned at rate 0


def test_cadences_are_what_the_flags_say(folder, tmp_path):
    flags = ["--eval_steps", 5, "--mi_steps", 4, "--checkpointing_steps", 3, "--checkpoints_total_limit", 3]
    assert run("jmi", tmp_path, *data(folder), *FAST, *flags) == 0
    log = log_of(tmp_path)
    assert [record["step"] for record in log if "eval/knn_top1" in record] == [0, 5, 10, 12]
    assert [record["step"] for record in log if "eval/mi/cos_dv" in record] == [0, 4, 8, 12]
    kept = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert kept == {f"checkpoint-{step}" for step in (6, 9, 12)}


def test_tensorboard_gets_every_curve(folder, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert run("jmi", tmp_path, *data(folder), *FAST, "--report_to", "tensorboard") == 0
    events = EventAccumulator(str(next(tmp_path.rglob("events.*")).parent))
    events.Reload()
    assert {"loss", "joint/expected_score", "marginal/exact", "eval/mi/cos_dv"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 13))


# Mistakes


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--lerning_rate", 1], "did you mean --learning_rate?"),
        (["--set", "temprature=1"], "did you mean 'temperature'?"),
        (["--set", "marginal={exakt: 1}"], "did you mean 'exact'?"),
        (["--method", "simsam"], "did you mean 'simsiam'?"),
        (["--method", "simclr"], "use recipes/pretrain_jmi.py"),
        (["--encoder", "resnet_tny"], "did you mean 'resnet_tiny'?"),
        (["--optimizer", "adamww"], "did you mean"),
        (["--dataset_name", "imagefolder", "--data_dir", "absent"], "absent"),
        (["--train_split", "training"], "training"),
        (["--per_device_train_batch_size", 100], "larger than the data set of 96"),
        (["--report_to", "nothing"], "nothing"),
        (["--report_to", "wandb"], "wandb"),
        (["--output_dir", "/dev/null/run"], "/dev/null/run"),
        (["--encoder", "dinov2_small", "--image_size", "20"], "20"),
        (["--encoder", "convnextv2_atto", "--image_size", "8"], "8 pixels"),
        (["--dataset_name", "webdataset"], "cannot load 'webdataset'"),
    ],
)
def test_a_mistake_costs_one_line_and_exit_code_2(argv, said, folder, tmp_path, capsys):
    assert run("sdmi", tmp_path / "run", *data(folder), *FAST, *argv) == 2
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if "pretrain_sdmi.py" in line]
    assert len(lines) == 1
    assert said in lines[0]
    assert "Traceback" not in printed.err + printed.out
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_directory_without_images_is_a_mistake(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert run("sdmi", tmp_path / "run", *data(tmp_path / "empty"), *FAST) == 2
    assert str(tmp_path / "empty") in capsys.readouterr().err


def test_a_corrupt_image_is_named(folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "images")
    (tmp_path / "images" / "train" / "red" / "007.png").write_bytes(b"not a picture")
    assert run("sdmi", tmp_path / "run", *data(tmp_path / "images"), *FAST) == 1
    assert "007.png" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "bad_images.jsonl").read_text())["file"].endswith("007.png")


def test_bad_images_are_skipped_counted_and_listed_wherever_pixels_are_and_through_resuming(
    flat, tmp_path, monkeypatch, capsys
):
    shutil.copytree(flat, tmp_path / "images")
    for name in ("007.png", "030.png"):
        (tmp_path / "images" / name).write_bytes(b"")
    arguments = [*data(tmp_path / "images"), *FAST, "--max_bad_fraction", 0.05, "--mi_steps", 0]
    arguments += ["--checkpointing_steps", 2]
    assert run("jmi", tmp_path / "memory", *arguments, "--data_placement", "memory") == 0
    said = capsys.readouterr().out
    assert "pixels decoded once, in memory" in said
    assert "2 bad images (2 not an image): see bad_images.jsonl" in said
    listed = (tmp_path / "memory" / "bad_images.jsonl").read_bytes()
    assert [json.loads(line)["file"][-7:] for line in listed.splitlines()] == ["007.png", "030.png"]
    assert results_of(tmp_path / "memory")["bad_images"] == {"not an image": 2}
    with monkeypatch.context() as patch:
        stop_after(5, patch)
        with pytest.raises(Stopped):
            run("jmi", tmp_path / "stream", *arguments, "--data_placement", "stream")
    again = ["--data_placement", "stream", "--resume_from_checkpoint", "latest"]
    assert run("jmi", tmp_path / "stream", *arguments, *again) == 0
    assert_same_run(tmp_path / "memory", tmp_path / "stream")
    assert (tmp_path / "stream" / "bad_images.jsonl").read_bytes() == listed


def test_a_mistake_shows_no_traceback_at_the_shell(tmp_path):
    argv = command("jmi", tmp_path / "run", "--set", "temprature=1")
    done = subprocess.run([sys.executable, *argv], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("pretrain_jmi.py: ")


# The recipes as documents


def test_the_recipes_differ_in_names_and_in_the_m_step_only():
    sdmi, jmi = ((RECIPES / f"pretrain_{name}.py").read_text().split('"""', 2)[2] for name in ("sdmi", "jmi"))
    sdmi = sdmi.replace("SDMI", "JMI").replace('method="sdmi_ema"', 'method="jmi"')
    m_step = ("phase", "update_target", "cosine_momentum", "branches_take_turns", "# Train:")
    for line in difflib.ndiff(sdmi.splitlines(), jmi.splitlines()):
        if line[0] in "+-" and line[1:].strip():
            inside_the_loop = line[2:].strip() in {
                "for pair in pairs:", "with accelerator.accumulate(network):", "updates.begin()", "updates.step()",
                "outputs = forward_backward(accelerator, network, pair, args.per_device_train_batch_size)",
            }  # fmt: skip
            assert any(word in line for word in m_step) or inside_the_loop or "build_accelerator(args)" in line, line


def test_an_unknown_key_in_the_configuration_file_is_refused(tmp_path):
    from hf_mi_ssl.training import parse_arguments

    (tmp_path / "run.yaml").write_text("metod: sdmi\n")
    with pytest.raises(UserError, match="did you mean --method"):
        parse_arguments(["--config", str(tmp_path / "run.yaml")], "", method="sdmi")


@pytest.mark.parametrize("path", sorted((RECIPES / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_is_understood(path):
    from hf_mi_ssl import JMIConfig, SDMIConfig
    from hf_mi_ssl.training import parse_arguments

    args = parse_arguments(["--config", str(path)], "")
    config = SDMIConfig if METHODS[args.method].paradigm == "sdmi" else JMIConfig
    config.from_method(args.method, **args.columns)


PUBLISHED = [  # what a paper's setting has in other columns than its row
    ("moco_v3_imagenet", "target_momentum", 0.996),
    ("corinfomax_imagenet", "joint", {"negative_mse_on_sphere": 2000}),
    ("corinfomax_imagenet", "projector_hidden_norm", True),
    ("corinfomax_cifar10", "joint", {"negative_mse_on_sphere": 250}),
    ("spectral_imagenet", "marginal", {"squared_score": 10}),
    ("dino_imagenet", "num_prototypes", 60000),
    ("simclr_imagenet", "temperature", 0.1),
    ("simclr_imagenet", "projector_output_norm", True),
    ("byol_imagenet", "target_momentum", 0.996),
    ("moco_v2_imagenet", "queue_size", 65536),
    ("swav_imagenet", "num_prototypes", 3000),
    ("vicreg_imagenet", "marginal", {"variance": 25, "covariance": 1}),
]


@pytest.mark.parametrize(("name", "column", "value"), PUBLISHED)
def test_a_configuration_makes_the_model_that_was_published(name, column, value):
    from hf_mi_ssl import JMIConfig, SDMIConfig
    from hf_mi_ssl.training import parse_arguments

    args = parse_arguments(["--config", str(RECIPES / "configs" / f"{name}.yaml")], "")
    config = SDMIConfig if METHODS[args.method].paradigm == "sdmi" else JMIConfig
    assert getattr(config.from_method(args.method, **args.columns), column) == value
