"""Taken up from a checkpoint of any step, by any number of processes, a run gives what the whole one gives."""

import shutil
import signal

import pytest
import torch

from hf_mi_ssl import hub
from hf_mi_ssl.data import open_train_and_held_out
from hf_mi_ssl.errors import ExitCode
from hf_mi_ssl.evaluation import Evaluation
from hf_mi_ssl.methods import METHODS
from hf_mi_ssl.training import build_optimizer
from hf_mi_ssl.views import RandomViews
from tests.faults.harness import ends_of, forked, images_of, log_of, same, states_of, train, two_processes
from tests.faults.test_leaving import signalled_in_step

LATEST = ["--resume_from_checkpoint", "latest"]


def resumed_at_every_step(method, flat, tmp_path, workers) -> int:
    """How many steps of an epoch, all but the last, it was resumed after."""
    epoch, resumed_after = 7, 0
    argv = [*images_of(flat), "--max_train_steps", epoch, "--checkpointing_steps", 1]
    argv += ["--checkpoints_total_limit", 99, "--dataloader_num_workers", workers]
    if workers:  # which decode each batch
        argv += ["--data_placement", "stream"]
    opened = open_train_and_held_out if workers else None
    more = {"opened": opened} if opened else {}
    assert train(method, tmp_path / "whole", *argv, **more) == 0
    whole, log = states_of(tmp_path / "whole", epoch), log_of(tmp_path / "whole")
    for step in range(1, epoch):
        output = tmp_path / f"from-{step}"
        origin = tmp_path / "whole" / "checkpoints" / f"checkpoint-{step}"
        assert train(method, output, *argv, "--resume_from_checkpoint", origin, **more) == 0
        assert same(states_of(output, epoch), whole), step
        resumed = [record for record in log_of(output) if record["step"] > step]
        assert resumed == [record for record in log if record["step"] > step]
        shutil.rmtree(output)
        resumed_after += 1
    return resumed_after


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_resumes_at_every_step_bit_for_bit(workers, flat, tmp_path):
    resumed_at_every_step("sdmi", flat, tmp_path, workers)


@pytest.mark.parametrize("method", ["jmi", "sdmi"])
def test_a_run_that_dies_before_a_revision_is_exported_exports_it_when_it_goes_on(method, flat, tmp_path, monkeypatch):
    class Died(BaseException):
        pass

    class Dying(hub.Publisher):
        def __init__(self, args, is_main_process):
            self.args = args

        def revise(self, revision, encoder, recipe):
            if revision == "epoch-001":
                raise Died

    class Noting(Dying):
        def revise(self, revision, encoder, recipe):
            noted.append(revision)

    noted, argv = [], [*images_of(flat), "--num_train_epochs", 2, "--hub_revision_epochs", 1]
    monkeypatch.setattr(hub, "Publisher", Dying)
    with pytest.raises(Died):
        train(method, tmp_path, *argv)
    monkeypatch.setattr(hub, "Publisher", Noting)
    assert train(method, tmp_path, *argv, "--resume_from_checkpoint", "latest") == 0
    assert [name for name in noted if name] == ["epoch-001", "epoch-002"]
    noted.clear()
    one_step = ["--per_device_train_batch_size", 64, "--num_train_epochs", 1]
    assert train(method, tmp_path / "short", *argv, *one_step) == 0
    assert [name for name in noted if name] == ["epoch-001"]  # and nothing of a model that is not trained


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_every_row_resumes_at_every_step_bit_for_bit(workers, flat, tmp_path, figure):
    resumed = [resumed_at_every_step(method, flat, tmp_path / method, workers) for method in METHODS]
    figure("resumed at every step, bitwise", f"{len(resumed)} rows, {sum(resumed)} times, {workers} workers")


class WideViews(RandomViews):
    """Views in float64, so that the order of sums shows in the last digits only."""

    def __call__(self, *arguments):
        return [view.double() for view in super().__call__(*arguments)]


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(flat, tmp_path, figure, monkeypatch):
    argv = [*images_of(flat), "--max_train_steps", 12, "--optimizer", "sgd", "--learning_rate", 0.05, *LATEST]

    def optimizer_of_wide(model, args):
        return build_optimizer(model.double(), args)

    for part_of_evaluation in ("track", "with_statistics"):  # whose views are not wide
        monkeypatch.setattr(Evaluation, part_of_evaluation, lambda *_: {})

    def run(name, world, until):
        def processes():
            return two_processes(world) if world > 1 else [{}]

        def part():
            more = {"MetricsLog": signalled_in_step(until, signal.SIGTERM)} if until < 12 else {}
            batch = ["--per_device_train_batch_size", 16 // world]
            return train(
                "jmi", tmp_path / name, *argv, *batch, RandomViews=WideViews, build_optimizer=optimizer_of_wide, **more
            )

        with forked(part, *processes()) as children:
            assert ends_of(children) == [ExitCode.STOPPED if until < 12 else 0] * world

    run("whole", 1, 12)
    for world, until in ((1, 3), (4, 6), (2, 9), (1, 12)):
        run("elastic", world, until)
    losses = [[r["loss"] for r in log_of(tmp_path / name) if "loss" in r] for name in ("whole", "elastic")]
    assert len(losses[0]) == len(losses[1]) == 12
    difference = max(abs(a - b) for a, b in zip(*losses, strict=True))
    assert difference <= 1e-12
    one, other = (states_of(tmp_path / name)[0]["model"] for name in ("whole", "elastic"))
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-8, atol=1e-8)
    figure("processes 1, 4, 2, 1: difference in losses", f"{difference:.1e}")
