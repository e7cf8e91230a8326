"""Numbers that go wrong: a step without a finite gradient leaves no trace, is counted, and ends a run if it stays."""

import contextlib
import math
import os

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from timm.optim import create_optimizer_v2

from hf_mi_ssl.errors import ExitCode
from hf_mi_ssl.evaluation import held_out
from hf_mi_ssl.methods import METHODS
from hf_mi_ssl.training import Plan, Skips, Updates, parse_arguments
from hf_mi_ssl.views import RandomViews
from tests.conftest import forward, small_model
from tests.faults.harness import ends_of, forked, images_of, log_of, same, states_of, train, two_processes
from tests.test_waiting import Waits

STEPS = ["--max_train_steps", 6, "--checkpointing_steps", 1, "--checkpoints_total_limit", 9]


def views_with(value: float, *steps: int, rank: int | None = None):
    """Views of which one pixel of the batches `steps` (1, 2, …) has that value, on that process or on all."""

    class Poisoned(RandomViews):
        calls = 0

        def __call__(self, images, epoch, indices):
            found = super().__call__(images, epoch, indices)
            if epoch >= 0:  # not those of evaluations
                self.calls += 1
                if self.calls in steps and rank in (None, int(os.environ.get("RANK", 0))):
                    found[0][1, 0, 2, 2] = value
            return found

    return Poisoned


@pytest.mark.parametrize(
    "value", [float("nan"), *(pytest.param(float(value), marks=pytest.mark.slow) for value in ("inf", "-inf"))]
)
def test_a_step_that_is_not_finite_is_skipped_without_a_trace(value, flat, tmp_path):
    assert train("moco_v2", tmp_path, *images_of(flat), *STEPS, RandomViews=views_with(value, 3)) == 0
    assert_skipped(tmp_path, 3)


def assert_skipped(output_dir, step):
    """Nothing that is learned or remembered differs after that step, but for a target that follows as ever."""
    (before, _), (after, _) = (states_of(output_dir, step - 1), states_of(output_dir, step))
    assert same(before["optimizer"]["state"], after["optimizer"]["state"])
    followed = [name for name in before["model"] if not same(before["model"][name], after["model"][name])]
    assert all(name.startswith("target.") for name in followed), followed
    steps = [record for record in log_of(output_dir) if "loss" in record]
    assert [record["step"] for record in steps] == list(range(1, len(steps) + 1))
    assert [record.get("skipped_steps", 0) for record in steps] == [int(r["step"] >= step) for r in steps]
    assert steps[step - 1]["loss"] is None
    assert all(isinstance(record["loss"], float) for record in steps if record["step"] != step)


@pytest.mark.slow
def test_no_row_is_poisoned_by_a_step_that_is_not_finite(method, flat, tmp_path):
    for name, extra in (("plain", []), ("accumulated", ["--gradient_accumulation_steps", 2, "--max_grad_norm", 1])):
        batch = 3 if not extra else 6  # the second of the third step
        views = views_with(float("nan"), batch)
        assert train(method, tmp_path / name, *images_of(flat), *STEPS, *extra, RandomViews=views) == 0
        if METHODS[method].columns.get("target") != "gradient":  # else θ moves in the phase that was finite
            assert_skipped(tmp_path / name, 3)


def test_a_gradient_of_one_process_that_is_not_finite_skips_the_step_on_all(flat, tmp_path):
    def run():
        argv = [*images_of(flat), *STEPS, "--per_device_train_batch_size", 8]
        return train("byol", tmp_path, *argv, RandomViews=views_with(float("nan"), 3, rank=1))

    with forked(run, *two_processes()) as children:
        assert ends_of(children) == [0, 0]
    assert_skipped(tmp_path, 3)


@pytest.mark.parametrize(("method", "said"), [("moco_v2", "checkpoint-2"), ("jmi", "none yet")])
def test_steps_that_stay_so_end_the_run_and_the_last_good_checkpoint_is_named(method, said, flat, tmp_path, capsys):
    saved = "checkpoint-2" in said
    bad = (3, 4, 5) if saved else (1, 2, 3)
    argv = [*images_of(flat), "--max_train_steps", 6, "--checkpointing_steps", 2 if saved else 5]
    assert train(method, tmp_path, *argv, RandomViews=views_with(float("nan"), *bad)) == ExitCode.NOT_FINITE
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pretrain_")]
    assert len(lines) == 1
    assert "3 steps in a row" in lines[0]
    if saved:  # and what was saved after a skipped step is as good
        states, step = states_of(tmp_path)
        assert step in (2, 4)
        assert all(t.isfinite().all() for t in states["model"].values())
        assert f"checkpoint-{step}" in lines[0]
    else:
        assert said in lines[0]


def test_an_evaluation_that_is_not_finite_names_the_last_checkpoint_before(flat, tmp_path, capsys, monkeypatch):
    measured, calls = held_out.map_images, []

    def overflowing(*arguments):
        calls.append(1)
        found, indices = measured(*arguments)
        return {name: x * (1.0 if len(calls) == 1 else float("inf")) for name, x in found.items()}, indices

    monkeypatch.setattr(held_out, "map_images", overflowing)
    argv = [*images_of(flat), *STEPS, "--eval_steps", 4]
    assert train("jmi", tmp_path, *argv) == ExitCode.NOT_FINITE
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pretrain_")]
    assert "embeddings are not finite" in line
    assert line.endswith("the last one before is " + str(tmp_path / "checkpoints" / "checkpoint-3"))


def test_too_many_in_a_row_or_overall_end_a_run():
    args = parse_arguments(["--max_train_steps", "1000"], "", method="jmi")
    plan = Plan(args, num_images=1000)

    def first_too_many(bad):
        skips = Skips(plan)
        for step in range(1, 1001):
            skips.add({}, bad(step))
            if skips.too_many:
                return step, skips.too_many
        return None

    assert first_too_many(lambda step: step in (7, 8)) is None
    assert first_too_many(lambda step: step >= 7) == (9, "3 steps in a row")
    assert first_too_many(lambda step: step % 100 == 0) is None  # 1 %
    assert first_too_many(lambda step: step % 50 == 0) == (550, "11 steps")


def test_the_count_of_a_resumed_run_goes_on(flat, tmp_path):
    views = views_with(float("nan"), 2)
    assert train("jmi", tmp_path, *images_of(flat), *STEPS, RandomViews=views) == 0
    whole = log_of(tmp_path)
    argv = [*images_of(flat), *STEPS, "--resume_from_checkpoint", tmp_path / "checkpoints" / "checkpoint-3"]
    assert train("jmi", tmp_path, *argv) == 0
    assert log_of(tmp_path) == whole


def three_steps(optimizer, poisoned, told, scaler=None, waits=True, bad=1):
    """Parameters and averages after three steps of which the second, or `bad`, may be poisoned; what was skipped, and
    how often the host waited after the first. Without `waits` as if on another device."""
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._reset_state()
    accelerator = Accelerator(cpu=True)
    accelerator.scaler = scaler
    model = small_model("byol")
    network, optimizer = accelerator.prepare(model, optimizer(model.parameters()))
    updates, skipped, waited = Updates(accelerator, model, optimizer), [], Waits()
    assert updates.waits
    updates.waits = waits
    generator = torch.Generator().manual_seed(0)
    for step in range(3):
        views = [torch.randn(8, 3, 8, 8, generator=generator) for _ in "ab"]
        if step == bad and poisoned:
            views[0][0, 0, 0, 0] = torch.nan
        updates.begin()
        if step:
            assert updates._can_be_told == told
        loss = forward(network, *views).loss
        (loss if scaler is None else scaler.scale(loss)).backward()
        with waited if step else contextlib.nullcontext():
            updates.step(loss)
        skipped.append(bool(updates.take_skipped()))
    return model.state_dict(), optimizer.optimizer.state_dict()["state"], skipped, len(waited.found)


@pytest.mark.parametrize("poisoned", [False, True])
@pytest.mark.parametrize("name", ["AdamW", "SGD"])
def test_an_optimiser_that_is_told_on_the_device_skips_as_one_that_is_not(name, poisoned):
    def build(told):
        more = {"momentum": 0.9} if name == "SGD" else {}
        return lambda parameters: getattr(torch.optim, name)(parameters, lr=0.01, fused=True, **more)

    told, on_a_cpu = (three_steps(build(True), poisoned, True, waits=waits) for waits in (False, True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Updates, "_can_be_told", False)
        untold = three_steps(build(False), poisoned, False)
    assert same(told[0], untold[0])
    assert same(told[0], on_a_cpu[0])
    assert same(told[1], untold[1])
    assert same(told[1], on_a_cpu[1])
    assert told[2] == on_a_cpu[2] == untold[2] == [False, poisoned, False]
    assert (told[3], untold[3]) == (0, 2)
    assert all(tensor.isfinite().all() for tensor in told[0].values())


@pytest.mark.parametrize("poisoned", [False, True])
@pytest.mark.parametrize(
    ("name", "settings", "waits"),
    [
        ("lars", {"momentum": 0.9, "always_adapt": True}, False),
        ("lion", {}, False),
        ("momentum", {"momentum": 0.9, "foreach": True}, False),
        ("momentum", {"momentum": 0.0}, False),
        ("lamb", {}, True),  # it counts in its groups
        ("adan", {}, True),
        ("adafactor", {}, True),  # and it in its state
    ],
)
def test_an_optimiser_that_cannot_be_told_is_put_back_on_the_device(name, settings, waits, poisoned):
    def build(parameters):
        return create_optimizer_v2(list(parameters), name, lr=0.01, weight_decay=0.1, **settings)

    expected, found = (three_steps(build, poisoned, False, waits=as_today) for as_today in (True, False))
    assert same(expected[0], found[0])
    assert same(expected[1], found[1])
    assert expected[2] == found[2] == [False, poisoned, False]
    assert expected[3] >= 2
    assert found[3] == (expected[3] if waits else 0)
    assert all(tensor.isfinite().all() for tensor in found[0].values())


@pytest.mark.parametrize("bad", [0, 1])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", ["AdamW", "SGD"])
@pytest.mark.parametrize(("scale", "counted"), [(2.0**16, False), (1.0, True)])
def test_the_scaler_of_fp16_finds_its_scale_without_being_counted(scale, counted, name, fused, bad):
    def build(parameters):
        more = {"momentum": 0.9} if name == "SGD" else {}
        return getattr(torch.optim, name)(parameters, lr=0.01, fused=fused, **more)

    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    weights, averages, skipped, _ = three_steps(build, True, False, scaler, bad=bad)
    assert skipped == [counted and step == bad for step in range(3)]
    assert scaler.get_scale() == scale / 2
    kept = [value for state in averages.values() for value in state.values()]
    assert all(tensor.isfinite().all() for tensor in (*weights.values(), *kept))  # running statistics too
    assert {state["step"].item() for state in averages.values() if "step" in state} <= {2}


def test_the_first_step_of_a_parameter_is_looked_at_before_it_makes_averages():
    """As that of a target which moves by its own gradient is the second step of all; kernels that skip would keep the
    memory that they asked for."""
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._reset_state()
    accelerator, model = Accelerator(cpu=True), torch.nn.ModuleList(torch.nn.Linear(3, 3) for _ in "ab")
    optimizer = accelerator.prepare(torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True))
    updates, before = Updates(accelerator, model, optimizer), model[1].weight.clone()
    for layer, factor in zip(model, (1.0, torch.nan), strict=True):
        loss = (factor * layer(torch.ones(2, 3))).sum()
        loss.backward()
        updates.begin()
        updates.step(loss)
    assert bool(updates.take_skipped())
    assert torch.equal(model[1].weight, before)
    assert set(optimizer.optimizer.state) == set(model[0].parameters())


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("loss", [math.inf, -math.inf, math.nan])
def test_a_loss_that_is_not_finite_is_skipped_though_its_gradient_is(loss, fused):
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._reset_state()
    accelerator, model = Accelerator(cpu=True, gradient_accumulation_steps=2), torch.nn.Linear(3, 3)
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=0.1, fused=fused))
    updates = Updates(accelerator, model, optimizer)
    skipped, weights = [], []
    for more in (0.0, loss, 0.0):
        updates.begin()
        for part in range(2):
            with accelerator.accumulate(model):
                found = model(torch.ones(2, 3)).square().sum() + (more if part == 0 else 0.0)
                accelerator.backward(found)
                assert part or all(p.grad.isfinite().all() for p in model.parameters())
                updates.step(found)
        skipped.append(bool(updates.take_skipped()))
        weights.append(model.weight.detach().clone())
    assert skipped == [False, True, False]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
