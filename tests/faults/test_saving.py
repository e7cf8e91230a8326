"""A save that is cut short at any point, files that are damaged, directories that are shared: nothing is lost."""

import contextlib
import errno
import functools
import json
import logging
import os
import re
import shutil
import signal
import sys
from pathlib import Path
from unittest import mock

import datasets
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError

from hf_mi_ssl.data import open_train_and_held_out
from hf_mi_ssl.errors import ExitCode, UserError
from hf_mi_ssl.hub import export_encoder, export_pretraining
from hf_mi_ssl.training import (
    MetricsLog,
    checkpoints,
    data_state,
    latest_checkpoint,
    load_checkpoint,
    run_recipe,
    save_checkpoint,
)
from hf_mi_ssl.training.checkpoints import verify
from hf_mi_ssl.training.state import lock
from hf_mi_ssl.views import opencv
from tests.conftest import small_model
from tests.faults.harness import ends_of, forked, images_of, log_of, same, states_of, train, two_processes
from tests.faults.test_leaving import signalled_in_step
from tests.test_checkpoints import a_state

STEPS = ["--max_train_steps", 4, "--checkpointing_steps", 1]
LATEST = ["--resume_from_checkpoint", "latest"]
IMAGES = {"image_size": 8, "mean": [0.5] * 3, "std": [0.5] * 3}


def flips_and_cuts(checkpoint: Path):
    """(file, content) with one bit flipped at seven places, and cut at five."""
    for file in sorted(checkpoint.iterdir()):
        whole = file.read_bytes()
        for share in (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.999):
            flipped = bytearray(whole)
            flipped[int(share * len(whole))] ^= 1
            yield file, bytes(flipped)
        for length in {0, 1, len(whole) // 2, int(0.99 * len(whole)), len(whole) - 1}:
            yield file, whole[:length]


def test_what_is_flipped_or_cut_is_rejected_by_name(tmp_path, caplog, figure):
    for step in (1, 2):
        save_checkpoint(tmp_path, step, a_state(step), {}, 2)
    newest, damaged, rejected = tmp_path / "checkpoint-2", 0, 0
    for file, content in flips_and_cuts(newest):
        whole = file.read_bytes()
        file.write_bytes(content)
        caplog.clear()
        if file.name == "manifest.json" and verify(newest) is None:
            assert json.loads(content) == json.loads(whole)  # in white space
        else:
            damaged += 1
            with caplog.at_level(logging.WARNING):
                assert latest_checkpoint(tmp_path).name == "checkpoint-1"
            assert len(caplog.messages) == 1
            assert str(newest) in caplog.text
            assert file.name in caplog.text or (file.name == "manifest.json" and "manifest" in caplog.text)
            rejected += 1
        file.write_bytes(whole)
    assert rejected >= 60
    figure("flipped and truncated files rejected by name", f"{rejected} of {damaged}")


def test_a_disk_that_fills_up_ends_the_run_in_one_line_and_it_goes_on_later(flat, tmp_path, capsys):
    argv = [*images_of(flat), *STEPS]
    assert train("jmi", tmp_path / "whole", *argv) == 0
    save_file = checkpoints.save_file

    def full_at_the_third(tensors, path):
        if path.parent.name == ".tmp-3":
            path.write_bytes(b"torn")
            raise OSError(errno.ENOSPC, "No space left on device")
        save_file(tensors, path)

    with mock.patch.object(checkpoints, "save_file", full_at_the_third):
        assert train("jmi", tmp_path / "full", *argv) == ExitCode.NOT_WRITTEN
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("pretrain_jmi.py"))
    assert str(tmp_path / "full" / "checkpoints" / "checkpoint-3") in line
    assert "bytes needed" in line
    assert "last good checkpoint is" in line
    assert sorted(p.name for p in (tmp_path / "full" / "checkpoints").iterdir()) == ["checkpoint-1", "checkpoint-2"]
    assert train("jmi", tmp_path / "full", *argv, "--resume_from_checkpoint", "latest") == 0
    assert same(states_of(tmp_path / "full"), states_of(tmp_path / "whole"))


def test_a_tensor_that_is_not_finite_is_neither_saved_nor_loaded(tmp_path):
    state = a_state()
    state["model"]["weight"][1, 1] = torch.inf
    with pytest.raises(UserError, match="model/weight is not finite") as raised:
        save_checkpoint(tmp_path, 1, state, {}, 1)
    assert raised.value.exit_code == ExitCode.NOT_FINITE
    assert latest_checkpoint(tmp_path) is None
    with mock.patch.object(checkpoints, "refuse_not_finite"):
        path = save_checkpoint(tmp_path, 1, state, {}, 1)
    with pytest.raises(UserError, match="model/weight is not finite"):
        load_checkpoint(path)


def test_a_damaged_checkpoint_of_a_later_step_does_not_push_out_the_good_ones(tmp_path):
    for step in (1, 2, 9):
        save_checkpoint(tmp_path, step, a_state(step), {}, 3)
    (tmp_path / "checkpoint-9" / "model.safetensors").write_bytes(b"")
    save_checkpoint(tmp_path, 3, a_state(3), {}, 1)
    assert latest_checkpoint(tmp_path).name == "checkpoint-3"
    save_checkpoint(tmp_path, 9, a_state(9), {}, 1)  # which replaces it
    assert same(load_checkpoint(latest_checkpoint(tmp_path))[0], a_state(9))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-9"]


def test_the_only_checkpoint_is_not_taken_away_to_save_the_same_step_again(tmp_path):
    path = save_checkpoint(tmp_path, 5, a_state(5), {}, 1)
    written = path.stat().st_ino
    assert save_checkpoint(tmp_path, 5, a_state(5), {}, 1) == path
    assert path.stat().st_ino == written


def test_two_runs_never_share_an_output_directory(flat, tmp_path, capsys):
    argv = [*images_of(flat), *STEPS, "--resume_from_checkpoint", "latest"]
    ready, go_on = os.pipe(), os.pipe()

    def hold():
        held = lock(tmp_path)
        os.write(ready[1], b".")
        os.read(go_on[0], 1)
        held.close()
        return 0

    with forked(hold, {}) as children:
        os.read(ready[0], 1)
        opened = mock.Mock(side_effect=AssertionError("data were opened"))
        assert train("jmi", tmp_path, *argv, opened=opened) == ExitCode.LOCKED
        said = capsys.readouterr().err
        assert f"is locked by a run that still goes on (process {children[0]} on " in said
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
        os.kill(children[0], signal.SIGKILL)
        assert ends_of(children) == [-signal.SIGKILL]
    assert train("jmi", tmp_path, *argv) == 0  # the lock of a dead process is taken over
    assert f"process {os.getpid()} on" in (tmp_path / ".lock").read_text()


GOLDEN = Path(__file__).parent / "golden"


def test_a_checkpoint_of_format_1_goes_on(flat, tmp_path, capsys):
    """Written once, by `python -m tests.faults.write_golden`, and never again while the format stays."""
    assert sum(path.stat().st_size for path in GOLDEN.rglob("*")) < 200_000
    states, record = load_checkpoint(GOLDEN / "checkpoint-2")
    assert record["step"] == 2
    assert states["model"]["encoder.embedder.embedder.convolution.weight"].shape == (8, 3, 7, 7)
    assert states["optimizer"]["state"][0]["step"] == 2
    argv = [*images_of(flat), *STEPS, "--resume_from_checkpoint", GOLDEN / "checkpoint-2"]
    assert train("jmi", tmp_path, *argv) == 0
    assert states_of(tmp_path)[1] == 4
    capsys.readouterr()
    shutil.copytree(GOLDEN, tmp_path / "later")
    manifest = tmp_path / "later" / "checkpoint-2" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format_version": 1', '"format_version": 2'))
    argv = [*argv[:-1], tmp_path / "later" / "checkpoint-2"]
    assert train("jmi", tmp_path / "other", *argv) == ExitCode.ARGUMENTS
    assert "format 2 is not this version's 1" in capsys.readouterr().err


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


@pytest.fixture(scope="module")
def run_of_four(flat, tmp_path_factory):
    """(arguments, directory) of a run of four steps with all its checkpoints."""
    argv = [*images_of(flat), *STEPS, "--checkpoints_total_limit", 9]
    directory = tmp_path_factory.mktemp("runs") / "whole"
    assert train("jmi", directory, *argv) == 0
    return argv, directory


def test_a_run_that_goes_on_from_an_earlier_step_forgets_the_later_checkpoints(run_of_four, tmp_path):
    argv, whole = run_of_four
    shutil.copytree(whole, tmp_path / "again")
    earlier = tmp_path / "again" / "checkpoints" / "checkpoint-2"
    stopped = {"MetricsLog": signalled_in_step(3, signal.SIGTERM)}
    assert train("jmi", tmp_path / "again", *argv, "--resume_from_checkpoint", earlier, **stopped) == ExitCode.STOPPED
    assert latest_checkpoint(earlier.parent).name == "checkpoint-3"
    assert train("jmi", tmp_path / "again", *argv, *LATEST) == 0
    assert log_of(tmp_path / "again") == log_of(whole)
    assert same(states_of(tmp_path / "again"), states_of(whole))


DAMAGED_LOGS = {
    "gone": lambda lines: None,
    "empty": lambda lines: [],
    "short": lambda lines: lines[:-2],
    "torn in the middle": lambda lines: [*lines[:2], lines[2][:9] + "\n", *lines[3:]],
    "a step missing": lambda lines: [*lines[:2], *lines[3:]],
    "a step twice": lambda lines: [*lines[:3], *lines[2:]],
    "an empty record": lambda lines: [*lines[:2], "{}\n", *lines[2:]],
    "a step of text": lambda lines: [*lines[:2], lines[2].replace('"step": ', '"step": "1", "was": '), *lines[3:]],
    "a loss of text": lambda lines: [*lines[:2], lines[2].replace('"loss": ', '"loss": "1", "was": '), *lines[3:]],
    "nested": lambda lines: [*lines[:2], "[" * 100_000 + "\n", *lines[2:]],
}


@pytest.mark.parametrize("damage", DAMAGED_LOGS)
def test_a_log_that_lacks_steps_before_the_checkpoint_is_refused_in_one_line(damage, run_of_four, tmp_path, capsys):
    argv, whole = run_of_four
    shutil.copytree(whole, tmp_path / "run")
    log = tmp_path / "run" / "metrics.jsonl"
    lines = DAMAGED_LOGS[damage](log.read_text().splitlines(keepends=True))
    log.unlink() if lines is None else log.write_text("".join(lines))
    before = sorted((path, path.is_file() and path.read_bytes()) for path in tmp_path.rglob("*[!k]"))
    capsys.readouterr()
    assert train("jmi", tmp_path / "run", *argv, *LATEST) == ExitCode.ARGUMENTS
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pretrain_jmi.py")]
    assert len(said) == 1
    assert f"{log} is damaged" in said[0]
    assert sorted((path, path.is_file() and path.read_bytes()) for path in tmp_path.rglob("*[!k]")) == before


@pytest.mark.parametrize("code", [errno.EROFS, errno.EIO, errno.EACCES, errno.EFBIG])
def test_a_log_that_cannot_be_written_ends_the_run_in_one_line(code, flat, tmp_path, capsys):
    class Refused(MetricsLog):
        def _write(self, records):
            raise OSError(code, os.strerror(code), str(self.path))

    argv = [*images_of(flat), *STEPS]
    assert train("jmi", tmp_path, *argv, MetricsLog=Refused) == ExitCode.NOT_WRITTEN
    assert f"{tmp_path / 'metrics.jsonl'}: {os.strerror(code)}" in capsys.readouterr().err
    assert train("jmi", tmp_path, *argv, *LATEST) == 0


@pytest.mark.parametrize("place", ["directory", "/proc/self"])
def test_an_output_directory_that_cannot_be_locked_costs_one_line(place, flat, tmp_path, capsys):
    (tmp_path / ".lock").mkdir()
    where = tmp_path if place == "directory" else Path(place)
    assert train("jmi", where, *images_of(flat), *STEPS) == ExitCode.ARGUMENTS
    assert f"--output_dir {where} cannot be written to" in capsys.readouterr().err


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


def test_a_checkpoint_from_elsewhere_does_not_go_on_over_another_run(run_of_four, flat, tmp_path, capsys):
    argv, whole = run_of_four
    shutil.copytree(whole, tmp_path / "run")
    assert train("jmi", tmp_path / "other", *argv, "--seed", 5) == 0
    elsewhere = tmp_path / "other" / "checkpoints" / "checkpoint-2"
    resume = ["--seed", 5, "--resume_from_checkpoint", elsewhere]
    assert train("jmi", tmp_path / "run", *argv, *resume) == ExitCode.OTHER_RUN
    assert "checkpoint-4 belongs to another run (seed 0 → 5)" in capsys.readouterr().err
    assert log_of(tmp_path / "run") == log_of(whole)


class Died(BaseException):
    pass


class BeforeItsLog(MetricsLog):
    def __init__(self, *_):
        raise Died


class AfterAStep(MetricsLog):
    def step(self, *_):
        raise Died


@pytest.mark.parametrize("again", ["latest", "elsewhere"])
@pytest.mark.parametrize("dies", [BeforeItsLog, AfterAStep, signalled_in_step(3, signal.SIGTERM)])
def test_a_run_that_began_elsewhere_and_ended_early_goes_on(dies, again, run_of_four, tmp_path):
    argv, whole = run_of_four
    elsewhere = ["--resume_from_checkpoint", whole / "checkpoints" / "checkpoint-2"]
    with contextlib.suppress(Died):
        assert train("jmi", tmp_path, *argv, *elsewhere, MetricsLog=dies) == ExitCode.STOPPED
    assert latest_checkpoint(tmp_path / "checkpoints").name in ("checkpoint-2", "checkpoint-3")
    assert train("jmi", tmp_path, *argv, *(LATEST if again == "latest" else elsewhere)) == 0
    assert log_of(tmp_path) == [record for record in log_of(whole) if record["step"] > 2]
    assert same(states_of(tmp_path), states_of(whole))


def test_a_later_checkpoint_from_elsewhere_is_refused_before_anything_is_written(run_of_four, tmp_path, capsys):
    argv, whole = run_of_four
    shutil.copytree(whole, tmp_path / "run")
    for later in ("checkpoint-3", "checkpoint-4"):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / later, ignore_errors=True)
    there = sorted((tmp_path / "run" / "checkpoints").iterdir())
    log = tmp_path / "run" / "metrics.jsonl"
    log.write_text("".join(line for line in log.read_text().splitlines(True) if json.loads(line)["step"] <= 2))
    before = log.read_bytes()
    elsewhere = ["--resume_from_checkpoint", whole / "checkpoints" / "checkpoint-4", "--checkpoints_total_limit", 1]
    assert train("jmi", tmp_path / "run", *argv, *elsewhere) == ExitCode.ARGUMENTS
    assert "can be read up to step 2, and the checkpoint is of step 4" in capsys.readouterr().err
    assert sorted((tmp_path / "run" / "checkpoints").iterdir()) == there
    assert log.read_bytes() == before
    assert train("jmi", tmp_path / "run", *argv, *LATEST) == 0
    assert same(states_of(tmp_path / "run"), states_of(whole))


@pytest.mark.parametrize("place", ["run", "elsewhere"])
def test_a_run_that_is_stopped_says_what_goes_on_and_not_back(place, run_of_four, tmp_path, capsys):
    argv, whole = run_of_four
    for name in ("run", "elsewhere"):
        shutil.copytree(whole, tmp_path / name)
    begun = tmp_path / place / "checkpoints" / "checkpoint-2"
    output = tmp_path / ("run" if place == "run" else "new")
    stops = signalled_in_step(3, signal.SIGTERM)
    resumed = train("jmi", output, *argv, "--resume_from_checkpoint", begun, MetricsLog=stops)
    assert resumed == ExitCode.STOPPED
    again = " with --resume_from_checkpoint latest" if place == "run" else ""
    assert f"the same command{again} goes on" in capsys.readouterr().err


def test_what_could_only_not_be_read_is_set_aside_and_not_deleted(run_of_four, tmp_path, caplog):
    """Checkpoints of a later version, say, when an earlier one goes on."""
    argv, whole = run_of_four
    shutil.copytree(whole, tmp_path / "run")
    root = tmp_path / "run" / "checkpoints"
    later = root / "checkpoint-4" / "manifest.json"
    later.write_text(later.read_text().replace('"format_version": 1', '"format_version": 2'))
    assert train("jmi", tmp_path / "run", *argv, *LATEST) == 0
    assert same(states_of(tmp_path / "run"), states_of(whole))
    (aside,) = root.glob("unread-checkpoint-4-*")
    kept = json.loads((aside / "manifest.json").read_text())
    assert (kept["format_version"], kept["step"]) == (2, 4)
    assert "setting checkpoint" in caplog.text


def test_a_checkpoint_under_the_name_of_another_step_is_passed_over(run_of_four, tmp_path, caplog):
    shutil.copytree(run_of_four[1], tmp_path / "run")
    root = tmp_path / "run" / "checkpoints"
    shutil.copytree(root / "checkpoint-2", root / "checkpoint-9")
    assert latest_checkpoint(root).name == "checkpoint-4"
    assert "its manifest is that of step 2" in caplog.text


@pytest.mark.parametrize("name", [".metrics.jsonl.tmp", "metrics.jsonl", ".lock", ".training_args.json.tmp"])
def test_no_link_in_the_directory_of_a_run_is_followed(name, run_of_four, tmp_path, capsys):
    argv, whole = run_of_four
    shutil.copytree(whole, tmp_path / "run")
    victim = tmp_path / "victim"
    link = tmp_path / "run" / name
    if link.exists():
        shutil.copy(link, victim)
        link.unlink()
    else:
        victim.write_text("precious")
    before = victim.read_bytes()
    link.symlink_to(victim)
    code = train("jmi", tmp_path / "run", *argv, *LATEST)
    assert victim.read_bytes() == before
    assert code == (ExitCode.ARGUMENTS if name == ".lock" else 0)


def test_links_and_files_that_are_called_like_checkpoints_stop_no_save(tmp_path):
    elsewhere = save_checkpoint(tmp_path / "elsewhere", 1, a_state(), {}, 1)
    root = tmp_path / "run"
    root.mkdir()
    for name in ("checkpoint-1", "checkpoint-3", ".del-checkpoint-2", ".tmp-4"):
        (root / name).symlink_to(elsewhere, target_is_directory=True)
    for name in (".tmp-foo", "checkpoint-0", "checkpoint-2"):
        (root / name).write_text("")
    (root / "checkpoint-5").symlink_to("nowhere")
    assert latest_checkpoint(root) is None
    for step in (2, 3, 4, 5):
        save_checkpoint(root, step, a_state(step), {}, 1)
    assert same(load_checkpoint(latest_checkpoint(root))[0], a_state(5))
    assert sorted(path.name for path in root.iterdir()) == ["checkpoint-0", "checkpoint-1", "checkpoint-5"]
    assert verify(elsewhere) is None


@pytest.mark.parametrize("export", [export_pretraining, functools.partial(export_encoder, **IMAGES)])
def test_a_disk_that_is_full_while_a_model_is_published_costs_one_line(export, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pretrain_jmi.py"])
    model = small_model("jmi") if export is export_pretraining else small_model("jmi").encoder
    full = SafetensorError("I/O error: No space left on device (os error 28)")  # what safetensors raises then
    monkeypatch.setattr(model, "save_pretrained", mock.Mock(side_effect=full))
    assert run_recipe(lambda _: export(model, tmp_path), "", method="jmi") == ExitCode.NOT_WRITTEN
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert f"{tmp_path}" in said[0]
    assert ": cannot write the weights: I/O error: No space left" in said[0]
