"""How the two recipes answer mistakes: one line, exit code 2, nothing lost."""

import json
import shutil
import subprocess
import sys

import pytest

from tests.runs import FAST, Stopped, assert_same_run, command, data, results_of, run, stop_after


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
