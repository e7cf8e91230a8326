"""A process that dies or hangs, at any instant, ends the run within the time that was set, in one line."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hf_mi_ssl.data import BadImages, load_corpus, pixel_file
from hf_mi_ssl.errors import ExitCode, UserError
from hf_mi_ssl.training import Leaving, MetricsLog, latest_checkpoint
from hf_mi_ssl.views import RandomViews
from tests.faults.harness import RECIPES, ends_of, forked, images_of, train, two_processes

STEPS = ["--max_train_steps", 400, "--checkpointing_steps", 2, "--per_device_train_batch_size", 8]
SAID = "another process of the run died or does not answer"


def assert_one_line(said: str) -> None:
    assert "Traceback" not in said
    assert len([line for line in said.splitlines() if SAID in line]) == 1, said


def lose(number: int) -> None:
    os.kill(os.getpid(), number)


def after_step(step: int, then):
    """A log whose second process does `then` after that step."""

    class Lost(MetricsLog):
        def step(self, record, images, skipped):
            super().step(record, images, skipped)
            if record["step"] == step and os.environ["RANK"] == "1":
                then()

    return Lost


def test_a_process_that_dies_ends_the_run_at_once(flat, tmp_path, capfd):
    def run():
        lost = after_step(3, lambda: lose(signal.SIGKILL))
        return train("byol", tmp_path, *images_of(flat), *STEPS, MetricsLog=lost)

    started = time.monotonic()
    with forked(run, *two_processes()) as children:
        assert ends_of(children, 30) == [ExitCode.PROCESS_LOST, -signal.SIGKILL]
    assert time.monotonic() - started < 30  # of the 30 minutes that are allowed
    assert_one_line(capfd.readouterr().err)
    assert latest_checkpoint(tmp_path / "checkpoints").name == "checkpoint-2"


@pytest.mark.parametrize("victim", [0, 1])
def test_one_that_dies_before_all_have_met_does(victim, flat, tmp_path, capfd):
    """Nobody is told of that death: the others wait for the time that was set, or, if it was the first process, to
    which they connect, for twice that: torch tries again once."""

    def run():
        if os.environ["RANK"] == str(victim):
            lose(signal.SIGKILL)
        return train("jmi", tmp_path, *images_of(flat), *STEPS, "--process_timeout", 0.02)

    with forked(run, *two_processes()) as children:
        assert ends_of([children[1 - victim]], 20) == [ExitCode.PROCESS_LOST]
    assert_one_line(capfd.readouterr().err)


def in_views(monkeypatch):
    class Hanging(RandomViews):
        def __call__(self, images, epoch, indices):
            if epoch > 0 and os.environ["RANK"] == "1":
                lose(signal.SIGSTOP)
            return super().__call__(images, epoch, indices)

    return {"RandomViews": Hanging}


def in_agreement(monkeypatch):
    is_time = Leaving._is_time

    def hanging(self, done, steps):
        if done >= 3 and os.environ["RANK"] == "1":
            lose(signal.SIGSTOP)
        self.next = done  # they ask each other after each step
        return is_time(self, done, steps)

    monkeypatch.setattr(Leaving, "_is_time", hanging)
    return {}


@pytest.mark.parametrize("where", [pytest.param(in_views, marks=pytest.mark.slow), in_agreement])
def test_one_that_hangs_ends_the_run_within_the_time_that_was_set(where, flat, tmp_path, capfd, monkeypatch):
    patches = where(monkeypatch)

    def run():
        return train("jmi", tmp_path, *images_of(flat), *STEPS, "--process_timeout", 0.03, **patches)

    with forked(run, *two_processes()) as children:
        assert ends_of(children[:1], 30) == [ExitCode.PROCESS_LOST]
    assert_one_line(capfd.readouterr().err)
    assert latest_checkpoint(tmp_path / "checkpoints") is not None


def test_a_second_signal_ends_one_that_waits_for_another_that_hangs(flat, tmp_path):
    class Hanging(RandomViews):
        def __call__(self, images, epoch, indices):
            if epoch > 0 and os.environ["RANK"] == "1":
                (tmp_path / "hangs").touch()
                lose(signal.SIGSTOP)
            return super().__call__(images, epoch, indices)

    def run():
        return train("jmi", tmp_path / "run", *images_of(flat), *STEPS, RandomViews=Hanging)

    with forked(run, *two_processes()) as children:
        while not (tmp_path / "hangs").exists():
            time.sleep(0.01)
        for _ in range(2):
            time.sleep(2)
            assert os.waitpid(children[0], os.WNOHANG) == (0, 0)
            os.kill(children[0], signal.SIGTERM)
        assert ends_of(children[:1], 5) == [128 + signal.SIGTERM]
    assert latest_checkpoint(tmp_path / "run" / "checkpoints") is not None


@pytest.mark.parametrize("hangs", [False, True])
def test_one_that_hangs_while_it_decodes_for_all_is_not_waited_for(hangs, flat, tmp_path, monkeypatch):
    corpus, ready = load_corpus("imagefolder", data_dir=str(flat), split="train"), os.pipe()
    write = pixel_file._write

    def held(path, *arguments):
        os.write(ready[1], b".")
        for _ in range(100 if hangs else 4):
            time.sleep(0.2)
            if not hangs:  # it writes, if slowly
                path.with_suffix(".tmp").touch()
        return write(path, *arguments)

    def decode():
        monkeypatch.setattr(pixel_file, "_write", held)
        pixel_file.open_file(corpus, 8, tmp_path, 0, 60, BadImages())
        return 0

    with forked(decode, {}):
        os.read(ready[0], 1)
        if hangs:
            with pytest.raises(UserError, match=r"\.tmp gave nothing in 0.3 seconds") as raised:
                pixel_file.open_file(corpus, 8, tmp_path, 0, 0.3, BadImages())
            assert raised.value.exit_code == ExitCode.PROCESS_LOST
        else:
            assert len(pixel_file.open_file(corpus, 8, tmp_path, 0, 0.3, BadImages())[0]) == len(corpus)


def workers_of(launcher: int) -> dict[int, int]:
    """The processes of a launcher: rank → id."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    ranks = {}
    for child in children:
        try:
            lines = Path(f"/proc/{child}/environ").read_text().split("\0")
        except (FileNotFoundError, ProcessLookupError):  # it ended since it was listed: a launcher starts tools too
            continue
        environment = dict(line.split("=", 1) for line in lines if "=" in line)
        if "RANK" in environment:
            ranks[int(environment["RANK"])] = int(child)
    return ranks


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found in /proc")
@pytest.mark.parametrize(
    ("number", "met"), [(signal.SIGKILL, False), (signal.SIGKILL, True), (signal.SIGSTOP, True)],
    ids=["dies before all have met", "dies", "hangs"],
)  # fmt: skip
def test_the_launcher_ends_a_run_that_has_lost_a_process(number, met, flat, tmp_path):
    """`torchrun` ends the others itself once one has ended: by SIGTERM and, where one does not answer, 30 s later."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2]
    command += [RECIPES / "pretrain_jmi.py", "--output_dir", tmp_path, *images_of(flat)]
    command += ["--image_size", 8, "--mi_steps", 0, "--eval_steps", 999, "--dataloader_num_workers", 0, *STEPS]
    command += ["--process_timeout", 0.1]
    environment = os.environ | {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    with (tmp_path / "said").open("w") as said:
        launcher = subprocess.Popen(list(map(str, command)), env=environment, stdout=said, stderr=said)
    workers = {}
    try:
        until = time.monotonic() + 120
        while len(workers) < 2 or (met and latest_checkpoint(tmp_path / "checkpoints") is None):
            assert time.monotonic() < until
            assert launcher.poll() is None, (tmp_path / "said").read_text()
            time.sleep(0.05)
            workers = workers_of(launcher.pid)
        os.kill(workers[1], number)
        assert launcher.wait(120) == 1  # torchrun's own, whatever the processes' were
        left = [process for process in workers.values() if Path(f"/proc/{process}").exists()]
    finally:
        if launcher.poll() is None:
            for process in (launcher.pid, *workers.values()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            launcher.wait()
    assert not left
    told = (tmp_path / "said").read_text()
    assert 'pretrain_jmi.py", line' not in told  # no traceback but torchrun's
    if number == signal.SIGSTOP:
        assert SAID in told
        assert f"exitcode  : {ExitCode.PROCESS_LOST}" in told
    else:
        assert "Signal 9 (SIGKILL) received by PID" in told
    assert met == (latest_checkpoint(tmp_path / "checkpoints") is not None)
