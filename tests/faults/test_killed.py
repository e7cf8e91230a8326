"""Killed at any instant and started again with the same command, a run gives what an undisturbed one gives."""

import os
import random
import signal
import time

import pytest
import torch

from hf_mi_ssl.errors import ExitCode
from hf_mi_ssl.training import MetricsLog, latest_checkpoint
from tests.faults.harness import ends_of, forked, images_of, log_of, same, states_of, train, two_processes

LATEST = ["--resume_from_checkpoint", "latest"]


class Counted(MetricsLog):
    """A log whose process can be watched from outside: `steps[0]` counts what it notes."""

    steps = torch.zeros(1, dtype=torch.int64).share_memory_()

    def step(self, *arguments):
        super().step(*arguments)
        self.steps += self.accelerator.is_main_process


def newest(output) -> int:
    path = latest_checkpoint(output / "checkpoints")
    return int(path.name.split("-")[1]) if path else 0


def killed(run, processes, kills: int, output, seed: int = 0) -> tuple[int, int]:
    """Run it again and again, with a SIGKILL to one process some steps later, at any instant of a step or a save or,
    at times, while it starts; then to the end. Returns how many kills there were, and the most steps that one cost."""
    chance, counted, lost = random.Random(seed), 0, 0
    for kill in range(kills):
        begun = newest(output)
        Counted.steps.zero_()
        wanted = chance.randrange(5)
        with forked(run, *processes()) as children:
            while Counted.steps < wanted:
                assert os.waitpid(-1, os.WNOHANG) == (0, 0), f"it ended by itself, after {kill} kills"
                time.sleep(0.001)
            time.sleep(chance.uniform(0, 0.02 if wanted else 0.5))
            victim = chance.choice(children)
            os.kill(victim, signal.SIGKILL)
            assert ends_of([victim]) == [-signal.SIGKILL]
            counted += 1
            lost = max(lost, begun + int(Counted.steps) - newest(output))
            assert set(ends_of([child for child in children if child != victim])) <= {ExitCode.PROCESS_LOST}
    with forked(run, *processes()) as children:
        assert ends_of(children, 400) == [0] * len(children)
    return counted, lost


def assert_undisturbed(one, other):
    assert same(states_of(one), states_of(other))
    assert log_of(one) == log_of(other)


@pytest.mark.parametrize(
    ("world", "kills"),
    [(1, 3), pytest.param(1, 40, marks=pytest.mark.slow), pytest.param(2, 40, marks=pytest.mark.slow)],
)
def test_a_run_survives_every_sigkill_bit_for_bit(world, kills, flat, tmp_path, figure):
    steps = 5 * kills
    argv = [*images_of(flat), "--max_train_steps", steps, "--checkpointing_steps", 2]
    argv += ["--per_device_train_batch_size", 16 // world, *LATEST]
    train("sdmi_ema", tmp_path / "warm", *argv, "--max_train_steps", 1)  # everything is imported and decoded

    def processes():
        return two_processes() if world == 2 else [{}]

    def run(name):
        return lambda: train("sdmi_ema", tmp_path / name, *argv, "--process_timeout", 0.15, MetricsLog=Counted)

    with forked(run("whole"), *processes()) as children:
        assert ends_of(children, 400) == [0] * world
    counted, lost = killed(run("killed"), processes, kills, tmp_path / "killed")
    assert lost <= 2
    assert_undisturbed(tmp_path / "whole", tmp_path / "killed")
    logged = [record["step"] for record in log_of(tmp_path / "killed") if "loss" in record]
    assert logged == list(range(1, steps + 1))
    figure("SIGKILLs survived, bitwise, every log line once", f"{counted} of {kills} on {world}")
    figure("most steps lost on SIGKILL, saved every 2", f"{lost} on {world}")
