"""Bugs that nearly every peer has, each as the test that catches it. Those of several processes are in
`test_peers_bugs_distributed`, those of evaluation and scripts in `test_peers_bugs_around`, and of some the claim is
tested where it belongs:

    LARS off at zero weight decay; adapting or decaying norms and biases    test_optimization
    a gather without gradient, or with that of the local rows alone         test_distributed
    a SyncBN flag that does nothing for a batch norm it does not know       test_distributed, test_split_batch_norm
    a queue whose size the batch has to divide; a batch of other size       test_oracles
    shuffling that SyncBN does not replace                                  test_split_batch_norm
    the momentum of the target stepped once an epoch                        test_same_run
    statistics of the target neither averaged nor copied                    test_modeling
    schedules with a state that a checkpoint lacks                          test_optimization
    an arbitrary checkpoint taken up, or half a one                         test_checkpoints
    a stem with padding 2, and so maps of 34 × 34                           test_encoders
    scales in a loss that its paper lacks (Barlow's)                        test_oracles
    kNN by distance; a rank of eigenvalues in place of singular values      test_evaluation
    the best of all epochs on the test set reported                         test_same_run (resuming measures the end)
    InfoNCE without its ceiling; a critic measured where it was fitted      test_estimators
    a short last batch of an epoch                                          test_store
"""

import copy
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch.optim.optimizer import register_optimizer_step_post_hook

from hf_mi_ssl import SDMIForPreTraining
from hf_mi_ssl.data.splits import Part
from hf_mi_ssl.encoders import representation_size
from hf_mi_ssl.errors import UserError
from hf_mi_ssl.mi import MARGINAL_TERMS, MIObjective, Pairs, bounds
from hf_mi_ssl.mi.critics import cosine
from hf_mi_ssl.training import (
    Plan,
    TrainingState,
    announce,
    load_checkpoint,
    optimization,
    parse_arguments,
    save_checkpoint,
)
from tests.conftest import forward, small_config, small_model
from tests.oracles import barlow_twins, vicreg
from tests.runs import FAST, run


def buffers(model):
    return {name: value.clone() for name, value in model.named_buffers()}


def assert_untouched(model, before):
    for name, value in model.named_buffers():
        assert torch.equal(value, before[name]), name


def objective(name):
    config = small_config(name)
    return MIObjective(config.critic, config.temperature, config.joint, config.marginal)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# Losses


def test_vicregs_variance_has_its_half():
    """Two views of standard deviation ½: hinges of ½ and ½, whose half sum is ½. Without it, a weight of 25 is 50."""
    z = torch.tensor([0.5, -0.5]).double().repeat(5000)[:, None] * torch.ones(1, 4)
    term = MARGINAL_TERMS["variance"](Pairs(z, z, cosine))
    assert term.item() == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize(("name", "by_its_paper"), [
    ("barlow_twins", lambda a, b: barlow_twins.loss(a, b, 0.0051)),
    ("vicreg", lambda a, b: vicreg.loss(a, b, 25, 25, 1)),
])  # fmt: skip
def test_the_last_batch_may_be_of_any_size(name, by_its_paper):
    """A normaliser that is the size of the first batch, or that of the data loader, would show."""
    of_row = objective(name)
    for n in (32, 7, 2):
        a, b = normal(n, 5), normal(n, 5, seed=1)
        torch.testing.assert_close(-of_row(a, b).value, by_its_paper(a, b))


@pytest.mark.parametrize("name", ["vicreg", "barlow_twins", "corinfomax", "jmi_taylor", "spectral"])
def test_covariance_does_not_overflow_in_half_precision(name):
    """Entries of Σ are 9e4 here, and half precision ends at 65504."""
    of_row, a = objective(name), (300 * normal(64, 8)).half()
    b = (a.double() + 30 * normal(64, 8, seed=1)).half()
    with torch.autocast("cpu", dtype=torch.float16):
        bound = of_row(a, b)
    assert bound.value.dtype == torch.float32
    torch.testing.assert_close(bound.value.double(), of_row(a.double(), b.double()).value, rtol=1e-4, atol=1e-4)


def test_the_shift_of_log_sum_exp_does_not_change_the_value():
    """Rows far apart: a maximum along the wrong axis would underflow all but one of them, or change what it shifts."""
    scores = normal(9, 9) + torch.linspace(-300, 300, 9).double()[:, None]
    rows = [torch.cat([row[:i], row[i + 1 :]]) for i, row in enumerate(scores)]
    plain = sum(scores[i, i] - row.exp().mean().log() for i, row in enumerate(rows)) / 9
    torch.testing.assert_close(bounds.row_wise_dv(scores.float()).double(), plain, rtol=0, atol=1e-3)
    nce = sum(row[i] - row.exp().mean().log() for i, row in enumerate(scores)) / 9
    torch.testing.assert_close(bounds.info_nce(scores.float()).double(), nce, rtol=0, atol=1e-3)
    dv = scores.diagonal().mean() - torch.cat(rows).exp().mean().log()
    torch.testing.assert_close(bounds.dv(scores.float()).double(), dv, rtol=0, atol=1e-3)


# Batch norm, target, queue


def test_batch_norm_sees_each_view_by_itself(method, views):
    """Joined into one batch, the views would share their statistics: another method."""
    a, b = views
    model = small_model(method)
    one, other = (forward(copy.deepcopy(model), a, view) for view in (b, 3 * b + 5))
    assert torch.equal(one.embeddings_a, other.embeddings_a)
    one, other = (forward(copy.deepcopy(model), view, b) for view in (a, 3 * a + 5))
    assert torch.equal(one.embeddings_b, other.embeddings_b)


def test_probing_a_dimension_does_not_pollute_batch_norm(method):
    model = small_model(method)
    before = buffers(model)
    model.check_images(16, local_size=8)
    assert representation_size(model.encoder) == 16
    assert_untouched(model, before)
    assert all(module.training for module in model.modules())


def test_averaging_does_not_zero_the_counter_of_batch_norm(views):
    model = small_model("byol")
    for _ in range(3):
        forward(model, *views)
    for _ in range(2):
        model.embed(views[0])  # the two branches may have seen different numbers of views
    model.update_target(0.99)
    counters = {name: value for name, value in model.named_buffers() if name.endswith("num_batches_tracked")}
    assert {name.startswith("target.") for name in counters} == {True, False}
    for name, count in counters.items():
        assert count.item() == (6 if "predictor" in name else 8), name


@pytest.mark.parametrize("critic", ["cosine", "bilinear", "negative_squared_distance"])
def test_pushing_into_the_queue_after_the_loss_does_not_fail_in_backward(critic, views):
    model = small_model("moco_v2", critic=critic)
    twin = copy.deepcopy(model)
    twin.queue.push = lambda z: None
    for each in (model, twin):
        forward(each, *views).loss.backward()
    for ours, theirs in zip(model.parameters(), twin.parameters()):
        assert ours.grad is None or torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("name", ["moco_v2", "nnclr"])
def test_the_queue_is_not_lost_at_resume(name, views, tmp_path):
    model = small_model(name)
    forward(model, *views)
    states, _ = load_checkpoint(save_checkpoint(tmp_path, 1, {"model": model.state_dict()}, {}, 1))
    again = small_model(name, seed=1)
    again.load_state_dict(states["model"])
    assert again.queue.position == 12
    assert torch.equal(again.queue.embeddings, model.queue.embeddings)
    assert torch.equal(forward(again, *views).loss, forward(model, *views).loss)


def test_the_scaler_of_gradients_is_in_the_checkpoint(tmp_path):
    def state():
        model = torch.nn.Linear(2, 2)
        optimizer = torch.optim.SGD(model.parameters())
        scaler = torch.amp.GradScaler("cpu")
        accelerator = SimpleNamespace(
            scaler=scaler, is_main_process=True, num_processes=1, wait_for_everyone=lambda: None
        )
        return scaler, TrainingState(args, Plan(args, 96), accelerator, model=model, optimizer=optimizer)

    args = parse_arguments(["--output_dir", str(tmp_path)], "", method="jmi")
    scaler, training = state()
    scaler.scale(torch.ones(()))  # makes its state
    scaler.update(128.0)
    training.save(1)
    scaler, training = state()
    assert training.resume("latest") == 1
    assert scaler.state_dict()["scale"] == 128.0
    states, record = load_checkpoint(tmp_path / "checkpoints" / "checkpoint-1")
    states["scaler"]["scale"] = "evil"
    save_checkpoint(tmp_path / "checkpoints", 2, states, record, 2)
    with pytest.raises(UserError, match="its scaler of gradients has no scale"):
        training.resume("latest")


# The loop


@pytest.fixture(scope="module")
def events(tmp_path_factory) -> list[str]:
    """What happens in three steps of two batches, in order, with LARS and a target that follows."""
    found, root = [], tmp_path_factory.mktemp("loop")
    generator = torch.Generator().manual_seed(0)
    for i, pixels in enumerate(torch.randint(256, (40, 16, 16, 3), generator=generator, dtype=torch.uint8).numpy()):
        Image.fromarray(pixels).save(root / f"{i}.png")

    def note(of, event):
        def noted(self, *arguments, **more):
            fresh = all(parameter.grad is None for parameter in self.parameters())
            found.append(event if fresh else f"{event}, gradients there")
            return of(self, *arguments, **more)

        return noted

    hook = register_optimizer_step_post_hook(lambda *_: found.append("step"))
    argv = ["--dataset_name", "imagefolder", "--data_dir", root, *FAST, "--optimizer", "lars", "--mi_steps", 0,
            "--per_device_train_batch_size", 4, "--gradient_accumulation_steps", 2,
            "--max_train_steps", 3]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimization, "_try_out", lambda *_: None)  # it takes a step of its own
        patch.setattr(SDMIForPreTraining, "forward", note(SDMIForPreTraining.forward, "forward"))
        patch.setattr(SDMIForPreTraining, "update_target", note(SDMIForPreTraining.update_target, "target"))
        assert run("sdmi_ema", root / "run", *argv) == 0
    hook.remove()
    return found


def test_the_target_moves_after_the_optimiser_and_once_a_step_under_accumulation(events):
    assert [event.split(",")[0] for event in events] == ["forward", "forward", "step", "target"] * 3


def test_gradients_that_an_optimiser_wrote_into_are_not_used_again(events):
    """Some LARS scale them in place."""
    assert [event for event in events if event != "step"] == ["forward", "forward, gradients there", "target"] * 3


def announced(tmp_path, num_images, *argv, **columns):
    model = small_model("moco_v2", **columns) if columns else small_model("jmi")
    args = parse_arguments(["--output_dir", str(tmp_path), *argv], "", method="moco_v2" if columns else "jmi")
    plan = Plan(args, num_images)
    train = Part(SimpleNamespace(where="nowhere"), torch.arange(num_images), "train")
    announce(args, plan, Accelerator(cpu=True), model, train, train, start=0)
    return plan


def test_accumulation_is_said_not_to_enlarge_the_set_of_negatives(tmp_path, capsys):
    plan = announced(tmp_path, 960, "--gradient_accumulation_steps", "4")
    assert (plan.global_batch, plan.images_per_step) == (64, 256)
    assert "a loss compares the 64 images of one batch" in capsys.readouterr().out


@pytest.mark.parametrize(("columns", "warnings"), [({"queue_size": 20}, 0), ({"queue_size": 21}, 1), ({}, 0)])
def test_a_queue_that_holds_the_images_of_the_batch_is_warned_of_with_the_way_out(columns, warnings, tmp_path, caplog):
    announced(tmp_path, 80, **columns)
    said = [record.getMessage() for record in caplog.records if "queue" in record.getMessage()]
    assert len(said) == warnings
    for message in said:
        assert message.startswith("queue_size=21 is more than a quarter of the 80 training images")
        assert message.endswith("--set queue_size=20")
        assert "\n" not in message
