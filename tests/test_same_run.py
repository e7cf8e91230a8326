"""A run again is the same run: with one seed, interrupted and resumed, and on two processes."""

import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from accelerate import Accelerator
from torch.optim.optimizer import register_optimizer_step_pre_hook

from hf_mi_ssl import SDMIForPreTraining
from hf_mi_ssl.errors import ExitCode
from hf_mi_ssl.methods import METHODS
from hf_mi_ssl.training import optimization, read_records
from tests.runs import (
    FAST,
    Stopped,
    assert_same_run,
    command,
    data,
    environment,
    log_of,
    results_of,
    run,
    stop_after,
    weights_of,
)


def test_two_runs_with_one_seed_are_identical_and_with_another_differ(flat, tmp_path):
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        assert run("sdmi", tmp_path / name, *data(flat), *FAST, "--seed", seed) == 0
    assert_same_run(tmp_path / "one", tmp_path / "again")
    assert log_of(tmp_path / "other") != log_of(tmp_path / "one")


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
