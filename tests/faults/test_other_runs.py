"""A run goes on as itself alone: with other settings, images, views or precision, it is refused."""

import os
import re
import shutil

import datasets
import pytest
import torch
from PIL import Image

from hf_mi_ssl.data import open_train_and_held_out
from hf_mi_ssl.errors import ExitCode
from hf_mi_ssl.training import (
    data_state,
)
from hf_mi_ssl.views import opencv
from tests.faults.harness import ends_of, forked, images_of, train, two_processes

STEPS = ["--max_train_steps", 4, "--checkpointing_steps", 1]
LATEST = ["--resume_from_checkpoint", "latest"]


def test_another_run_is_refused_with_all_differences(flat, tmp_path, capsys):
    assert train("jmi", tmp_path, *images_of(flat), *STEPS) == 0
    others = ["--seed", 3, "--learning_rate", 0.1, "--set", "temperature=0.3", "--resume_from_checkpoint", "latest"]
    assert train("jmi", tmp_path, *images_of(flat), *STEPS, *others) == ExitCode.OTHER_RUN
    said = capsys.readouterr().err
    for difference in ("seed 0 → 3", "learning_rate 0.005 → 0.1", "'temperature': 0.3"):
        assert difference in said


def changed_images(folder):
    """Other pixels, of as many images under the same names."""
    for file in folder.rglob("*.png"):
        image = Image.open(file)
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(file)


@pytest.mark.parametrize("split", ["train", pytest.param("test", marks=pytest.mark.slow)])
def test_other_images_than_those_of_the_run_are_refused(split, folder, tmp_path, capsys):
    images, run = tmp_path / "images", {"opened": open_train_and_held_out}
    shutil.copytree(folder, images)
    resume = [*STEPS, "--resume_from_checkpoint", "latest"]
    assert train("jmi", tmp_path / "run", *images_of(images), *resume, **run) == 0
    changed_images(images / split)
    assert train("jmi", tmp_path / "run", *images_of(images), *resume, **run) == ExitCode.OTHER_RUN
    name = {"train": "images_of_train", "test": "images_of_held_out"}[split]
    assert re.search(rf"belongs to another run \({name} '\w+' → '\w+'\)", capsys.readouterr().err)


def test_another_sample_of_what_is_held_out_is_refused(folder, tmp_path, capsys, monkeypatch):
    def with_room_for(images):
        monkeypatch.setattr(data_state, "room_for_pixels", lambda device: images * 3 * 8 * 8)
        argv = [*images_of(folder), *STEPS, "--resume_from_checkpoint", "latest"]
        return train("jmi", tmp_path, *argv, opened=open_train_and_held_out)

    assert [with_room_for(20), with_room_for(20), with_room_for(9)] == [0, 0, ExitCode.OTHER_RUN]
    assert "(num_held_out '20' → '9')" in capsys.readouterr().err


def test_processes_hold_the_same_images_out_whatever_memory_each_has(folder, tmp_path, monkeypatch):
    held, argv = torch.zeros(2).share_memory_(), [*images_of(folder), *STEPS, "--per_device_train_batch_size", 8]

    def opened(**arguments):
        parts = open_train_and_held_out(**arguments)
        held[int(os.environ["RANK"])] = len(parts[1])
        return parts

    def run():
        room = (20 + 4 * int(os.environ["RANK"])) * 3 * 8 * 8
        monkeypatch.setattr(data_state, "room_for_pixels", lambda device: room)
        return train("jmi", tmp_path, *argv, opened=opened)

    with forked(run, *two_processes()) as children:
        assert ends_of(children) == [0, 0]
    assert held.tolist() == [20, 20]


def test_the_same_images_elsewhere_go_on_and_it_is_said(folder, tmp_path, caplog):
    run = {"opened": open_train_and_held_out}
    resume = [*STEPS, "--resume_from_checkpoint", "latest"]
    assert train("jmi", tmp_path / "run", *images_of(folder), *resume, **run) == 0
    caplog.clear()
    assert train("jmi", tmp_path / "run", *images_of(folder), *resume, **run) == 0
    assert "the data were moved" not in caplog.text
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert train("jmi", tmp_path / "run", *images_of(tmp_path / "elsewhere"), *resume, **run) == 0
    assert caplog.text.count("the data were moved, or written again, since the checkpoint") == 1


def test_a_stream_of_other_images_is_refused_wherever_they_lie(flat, tmp_path, capsys):
    def rows(place, *colours):
        place.mkdir()
        for shard, colour in enumerate(colours):
            pictures = [Image.new("RGB", (8, 8), (colour, row, 0)) for row in range(40)]
            features = datasets.Features({"image": datasets.Image()})
            datasets.Dataset.from_dict({"image": pictures}, features=features).to_parquet(place / f"{shard}.parquet")
        return ["--dataset_name", "parquet", "--data_files", f"train={place}/*.parquet", "--streaming"]

    argv = ["--max_train_steps", 2, "--checkpointing_steps", 1, "--resume_from_checkpoint", "latest"]
    run = {"opened": open_train_and_held_out}
    assert train("jmi", tmp_path / "run", *rows(tmp_path / "a", 1, 2, 3), *argv, **run) == 0
    assert train("jmi", tmp_path / "run", *rows(tmp_path / "b", 1, 2, 3), *argv, **run) == 0
    capsys.readouterr()
    for place, colours in (("c", (1, 2, 4)), ("d", (2, 1, 3))):
        assert train("jmi", tmp_path / "run", *rows(tmp_path / place, *colours), *argv, **run) == ExitCode.OTHER_RUN
        assert "images_of_train '" in capsys.readouterr().err


def test_who_makes_the_views_belongs_to_a_run(flat, tmp_path, capsys, monkeypatch):
    argv = [*images_of(flat), "--image_size", 96, "--max_train_steps", 1, "--resume_from_checkpoint", "latest"]
    monkeypatch.setattr(opencv, "_installed", lambda: True)
    assert train("jmi", tmp_path, *argv) == 0
    monkeypatch.setattr(opencv, "_installed", lambda: False)
    assert train("jmi", tmp_path, *argv) == ExitCode.OTHER_RUN
    assert "(views_by 'opencv' → 'torch')" in capsys.readouterr().err


def test_the_precision_that_was_found_belongs_to_a_run(flat, tmp_path, capsys, monkeypatch):
    argv = [*images_of(flat), *STEPS]
    assert train("jmi", tmp_path, *argv) == 0
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert train("jmi", tmp_path, *argv, *LATEST) == ExitCode.OTHER_RUN
    assert "(mixed_precision 'no' → 'bf16')" in capsys.readouterr().err
    assert train("jmi", tmp_path, *argv, *LATEST, "--mixed_precision", "no") == 0  # which is the same


@pytest.mark.parametrize("resume", [[], LATEST])
@pytest.mark.parametrize("there", ["config.json", "model.safetensors", "results.json"])
def test_nothing_of_another_model_or_run_is_written_over(there, resume, flat, tmp_path, capsys):
    (tmp_path / there).write_text("{}")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')  # a run whose checkpoints are gone
    for name in (*tmp_path.glob("metrics.jsonl"), None):
        assert train("jmi", tmp_path, *images_of(flat), *STEPS, *resume) == ExitCode.ARGUMENTS
        assert f"holds {there} without the log and the checkpoints" in capsys.readouterr().err
        assert (tmp_path / there).read_text() == "{}"
        if name:
            name.unlink()
