"""A save that is cut short at any point, files that are damaged, directories that are shared: nothing is lost."""

import contextlib
import errno
import functools
import json
import logging
import os
import shutil
import signal
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors import SafetensorError

from hf_mi_ssl.errors import ExitCode, UserError
from hf_mi_ssl.hub import export_encoder, export_pretraining
from hf_mi_ssl.training import (
    MetricsLog,
    checkpoints,
    latest_checkpoint,
    load_checkpoint,
    run_recipe,
    save_checkpoint,
)
from hf_mi_ssl.training.checkpoints import verify
from hf_mi_ssl.training.state import lock
from tests.conftest import small_model
from tests.faults.harness import ends_of, forked, images_of, same, states_of, train, two_processes
from tests.test_checkpoints import a_state

STEPS = ["--max_train_steps", 4, "--checkpointing_steps", 1]
LATEST = ["--resume_from_checkpoint", "latest"]
IMAGES = {"image_size": 8, "mean": [0.5] * 3, "std": [0.5] * 3}
GOLDEN = Path(__file__).parent / "golden"


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
    assert not [*tmp_path.iterdir()]
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


def test_a_run_that_ended_while_another_waited_for_its_lock_is_not_written_over(flat, tmp_path, capsys):
    def another_ends(directory):
        (directory / "metrics.jsonl").write_text('{"step": 1}\n')
        return lock(directory)

    with mock.patch("hf_mi_ssl.training.state.lock", another_ends):
        assert train("jmi", tmp_path, *images_of(flat), *STEPS) == ExitCode.ARGUMENTS
    assert "holds a run already" in capsys.readouterr().err
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'


def test_a_checkpoint_that_cannot_be_removed_ends_no_run(tmp_path, caplog, monkeypatch):
    def busy(path):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    save_checkpoint(tmp_path, 1, a_state(1), {}, total_limit=1)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "discard", busy)
        path = save_checkpoint(tmp_path, 2, a_state(2), {}, total_limit=1)
    assert "cannot remove" in caplog.text
    assert verify(path) is None
    save_checkpoint(tmp_path, 3, a_state(3), {}, total_limit=1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]


@pytest.mark.parametrize(
    ("sees", "ends"),
    [
        ({"latest_checkpoint": lambda root: root / "checkpoint-2"}, [0, 0]),
        ({"digest": lambda path: "of other files"}, [ExitCode.ARGUMENTS] * 2),
        ({"digest": mock.Mock(side_effect=FileNotFoundError)}, [ExitCode.ARGUMENTS] * 2),
    ],
    ids=["an older one", "another of that name", "none"],
)
def test_processes_go_on_from_the_same_checkpoint(sees, ends, flat, tmp_path):
    """A network's disk may show one of them later what is there; or every machine has a disk of its own."""
    argv = [*images_of(flat), *STEPS, "--checkpoints_total_limit", 9, "--per_device_train_batch_size"]
    assert train("jmi", tmp_path, *argv, 16) == 0
    shutil.rmtree(tmp_path / "checkpoints" / "checkpoint-4")

    def run():
        with contextlib.ExitStack() as stack:
            for name, answer in sees.items() if os.environ["RANK"] == "1" else ():
                stack.enter_context(mock.patch(f"hf_mi_ssl.training.state.{name}", answer))
            return train("jmi", tmp_path, *argv, 8, *LATEST)

    with forked(run, *two_processes()) as children:
        assert ends_of(children) == ends
    assert latest_checkpoint(tmp_path / "checkpoints").name == ("checkpoint-3" if any(ends) else "checkpoint-4")
