"""Leaving on request: the step is finished, the run saved, nothing lost; a second signal ends it at once."""

import os
import signal
import subprocess
import sys
import time

import pytest

from hf_mi_ssl.errors import ExitCode
from hf_mi_ssl.evaluation import Evaluation
from hf_mi_ssl.training import MetricsLog
from hf_mi_ssl.training.leaving import SIGNALS
from tests.faults.harness import RECIPES, ends_of, forked, images_of, log_of, same, states_of, train, two_processes

STEPS = ["--max_train_steps", 8, "--checkpointing_steps", 99]
AGAIN = ["--resume_from_checkpoint", "latest"]


def signalled_in_step(step: int, *numbers: int):
    """A log that sends these signals to its process while it notes that step."""

    class Signalled(MetricsLog):
        def step(self, record, images, skipped):
            super().step(record, images, skipped)
            if record["step"] == step:
                for number in numbers:
                    os.kill(os.getpid(), number)

    return Signalled


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_finishes_the_step_saves_and_ends_the_run(number, flat, tmp_path, capsys, figure):
    argv = [*images_of(flat), *STEPS]
    before = signal.getsignal(number)
    assert train("sdmi", tmp_path / "whole", *argv) == 0
    stopped = tmp_path / "stopped"
    assert train("sdmi", stopped, *argv, MetricsLog=signalled_in_step(3, number)) == ExitCode.STOPPED
    lines = [line for line in capsys.readouterr().err.splitlines() if "pretrain_sdmi.py" in line]
    assert len(lines) == 1
    assert f"stopped by {number.name} after step 3 of 8; the same command with --resume" in lines[0]
    figure("steps lost on SIGTERM, SIGINT, SIGUSR1", 3 - states_of(stopped)[1])
    assert states_of(stopped)[1] == 3
    assert signal.getsignal(number) is before
    assert train("sdmi", stopped, *argv, *AGAIN) == 0
    assert same(states_of(stopped), states_of(tmp_path / "whole"))
    assert log_of(stopped) == log_of(tmp_path / "whole")


def test_hours_that_are_over_are_as_a_signal(flat, tmp_path, capsys):
    argv = [*images_of(flat), *STEPS]
    assert train("jmi", tmp_path, *argv, "--max_hours", 1e-9) == ExitCode.STOPPED
    assert "stopped by --max_hours are over" in capsys.readouterr().err
    assert not (tmp_path / "checkpoints").exists()  # no step was made
    assert train("jmi", tmp_path, *argv, *AGAIN, "--max_hours", 1) == 0


@pytest.mark.parametrize("at", [4, *(pytest.param(at, marks=pytest.mark.slow) for at in (0, 8))])
def test_a_signal_in_an_evaluation_breaks_it_off_and_the_resumed_run_makes_it(at, flat, tmp_path, monkeypatch):
    argv = [*images_of(flat), *STEPS, "--eval_steps", 4]
    assert train("byol", tmp_path / "whole", *argv) == 0
    track, calls = Evaluation.track, []

    def signalled(self, *arguments):
        calls.append(1)
        if len(calls) == 1 + at // 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return track(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluation, "track", signalled)
        assert train("byol", tmp_path / "stopped", *argv) == ExitCode.STOPPED
    evaluated = [record["step"] for record in log_of(tmp_path / "stopped") if "loss" not in record]
    assert evaluated == [step for step in (0, 4, 8) if step < at]
    assert train("byol", tmp_path / "stopped", *argv, *AGAIN) == 0
    assert log_of(tmp_path / "stopped") == log_of(tmp_path / "whole")
    assert same(states_of(tmp_path / "stopped"), states_of(tmp_path / "whole"))


def test_a_signal_before_training_ends_the_run_where_it_is(flat, tmp_path):
    def opened(**_):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    assert train("jmi", tmp_path, *images_of(flat), *STEPS, opened=opened) == ExitCode.STOPPED


def test_a_second_signal_ends_the_process_at_once(flat, tmp_path):
    class Late(MetricsLog):
        def step(self, record, images, skipped):
            super().step(record, images, skipped)
            if record["step"] == 3:
                for _ in range(2):  # of one request: a launcher passes on what the terminal has sent already
                    os.kill(os.getpid(), signal.SIGTERM)
                SIGNALS.at -= 2  # two seconds pass
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(60)

    argv = [*images_of(flat), "--max_train_steps", 8, "--checkpointing_steps", 2]
    with forked(lambda: train("jmi", tmp_path, *argv, MetricsLog=Late), {}) as children:
        assert ends_of(children) == [-signal.SIGTERM]
    assert states_of(tmp_path)[1] == 2
    assert train("jmi", tmp_path, *argv, *AGAIN) == 0


@pytest.mark.parametrize("points", [pytest.param(n, marks=[pytest.mark.slow] * (n != 5)) for n in range(1, 11)])
def test_a_second_signal_during_a_save_leaves_the_last_or_the_new_checkpoint(points, flat, tmp_path, monkeypatch):
    """It comes before the so-many-th file of the checkpoint of step 4 is synced, or not before all are."""
    fsync, passed = os.fsync, [0]

    def late(descriptor):
        if (tmp_path / "checkpoints" / ".tmp-4").exists():
            passed[0] += 1
            if passed[0] == points:
                os.kill(os.getpid(), signal.SIGTERM)  # the second
                time.sleep(60)
        fsync(descriptor)

    class Signalled(MetricsLog):
        def step(self, record, images, skipped):
            super().step(record, images, skipped)
            if record["step"] == 4:
                os.kill(os.getpid(), signal.SIGTERM)
                SIGNALS.at -= 2

    monkeypatch.setattr(os, "fsync", late)
    argv = [*images_of(flat), "--max_train_steps", 8, "--checkpointing_steps", 2]
    with forked(lambda: train("jmi", tmp_path, *argv, MetricsLog=Signalled), {}) as children:
        (code,) = ends_of(children)
    whole = points == 10  # seven files, the manifest and the directory are synced before
    assert code == (ExitCode.STOPPED if whole else -signal.SIGTERM)
    assert states_of(tmp_path)[1] == (4 if whole else 2)
    monkeypatch.setattr(os, "fsync", fsync)
    assert train("jmi", tmp_path, *argv, *AGAIN) == 0
    assert states_of(tmp_path)[1] == 8


@pytest.mark.parametrize("told", [(1,), *(pytest.param(told, marks=pytest.mark.slow) for told in ((0,), (0, 1)))])
def test_processes_leave_after_the_same_step_whoever_was_told(told, flat, tmp_path):
    argv = [*images_of(flat), *STEPS, "--per_device_train_batch_size", 8]

    def run():
        mine = signalled_in_step(3, signal.SIGTERM) if int(os.environ["RANK"]) in told else MetricsLog
        return train("sdmi", tmp_path, *argv, "--eval_steps", 4, *AGAIN, MetricsLog=mine)

    with forked(run, *two_processes()) as children:
        assert ends_of(children) == [ExitCode.STOPPED] * 2
    step = states_of(tmp_path)[1]
    assert 3 <= step <= 8
    steps = [record["step"] for record in log_of(tmp_path) if "loss" in record]
    assert steps == list(range(1, step + 1))


SLURM = """#!/usr/bin/env bash
# srun with two tasks, or scontrol: what they were told is kept
echo "$(basename "$0") $*" >> "$CALLS"
if [ "$(basename "$0")" = srun ]; then
    shift
    for task in 0 1; do SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_NTASKS=2 "$@" & jobs="$jobs $!"; done
    for job in $jobs; do wait $job || code=$?; done
    exit ${code:-0}
fi
"""


@pytest.mark.parametrize(
    ("code", "given", "resumes"),
    [(0, [], "latest"), (2, [], "latest"), (int(ExitCode.STOPPED), [], "latest"),
     (0, ["--resume_from_checkpoint", "elsewhere"], "elsewhere")],
)  # fmt: skip
def test_the_job_of_slurm_is_queued_again_only_when_it_was_asked_to_stop(code, given, resumes, tmp_path):
    for name in ("srun", "scontrol"):
        (tmp_path / name).write_text(SLURM)
        (tmp_path / name).chmod(0o755)
    told = "import os, sys; words = [*sys.argv[1:], *map(os.environ.get, ('RANK', 'LOCAL_RANK', 'WORLD_SIZE'))]\n"
    told += "os.write(1, (' '.join(words) + '\\n').encode())"  # at once: two processes write to one pipe
    (tmp_path / "recipe.py").write_text(f"{told}\nsys.exit({code})")
    (tmp_path / "python").symlink_to(sys.executable)
    settings = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls"), "SLURM_JOB_ID": "7"}
    job = ["bash", RECIPES / "slurm" / "pretrain.sbatch", tmp_path / "recipe.py", "--method", "simclr", *given]
    done = subprocess.run(job, env=os.environ | settings | {"SLURM_JOB_NODELIST": "n"}, capture_output=True, text=True)
    lines = sorted(done.stdout.splitlines())
    assert lines == [f"--method simclr --resume_from_checkpoint {resumes} {rank} {rank} 2" for rank in (0, 1)]
    requeued = "scontrol requeue 7" in (tmp_path / "calls").read_text().splitlines()
    assert requeued == (code == ExitCode.STOPPED)
    assert done.returncode == (0 if requeued else code)
