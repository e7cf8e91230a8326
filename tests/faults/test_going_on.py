"""From which checkpoint a run goes on, its own or one from elsewhere, and what becomes of later ones."""

import contextlib
import json
import shutil
import signal

import pytest

from hf_mi_ssl.errors import ExitCode
from hf_mi_ssl.training import (
    MetricsLog,
    latest_checkpoint,
)
from tests.faults.harness import images_of, log_of, same, states_of, train
from tests.faults.test_leaving import signalled_in_step

STEPS = ["--max_train_steps", 4, "--checkpointing_steps", 1]
LATEST = ["--resume_from_checkpoint", "latest"]
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
