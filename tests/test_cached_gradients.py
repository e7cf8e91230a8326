"""A large batch in parts, by cached gradients, is the plain large batch in loss and gradient."""

import copy

import pytest
import torch
from accelerate import Accelerator

from hf_mi_ssl import JMIConfig, JMIForPreTraining
from hf_mi_ssl.methods import METHODS
from hf_mi_ssl.training import forward_backward
from tests.conftest import small_config, small_model
from tests.test_distributed import run_processes


@pytest.fixture
def wide_views(views):
    return tuple(view.double() for view in views)


def loss_and_gradients(model, views, part_size, phase="E"):
    outputs = forward_backward(Accelerator(cpu=True), model, views, part_size, phase)
    return outputs.loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same(one, other):
    torch.testing.assert_close(one[0], other[0], rtol=1e-10, atol=1e-12)
    assert one[1].keys() == other[1].keys()
    for name in one[1]:
        torch.testing.assert_close(one[1][name], other[1][name], rtol=1e-7, atol=1e-11, msg=lambda m, n=name: n + m)


def test_parts_equal_the_whole_for_every_row_with_split_batch_norm(method, wide_views):
    model = small_model(method, batch_norm_group_size=2).double()
    if METHODS[method].columns.get("target_shuffle"):
        model.eval()  # shuffled within a part, images meet others in their groups
    for phase in model.phases:
        whole = loss_and_gradients(copy.deepcopy(model), wide_views, 12, phase)
        parts = loss_and_gradients(copy.deepcopy(model), wide_views, 4, phase)
        assert_same(parts, whole)


def test_global_batch_norm_makes_a_difference_which_is_why_the_documentation_says_so(wide_views):
    model = small_model("jmi").double()
    whole, parts = (loss_and_gradients(copy.deepcopy(model), wide_views, size) for size in (12, 4))
    assert (whole[0] - parts[0]).abs() > 1e-4


def test_parts_carry_local_views_too(wide_views):
    local = [view[:, :, :8, :8] for view in wide_views]
    for method in ("dino", "simclr"):
        model = small_model(method, batch_norm_group_size=2).double()
        views = (*wide_views, local)
        whole, parts = (loss_and_gradients(copy.deepcopy(model), views, size) for size in (12, 6))
        assert_same(parts, whole)


def test_running_statistics_move_once_for_each_part_and_the_queue_once_for_the_batch(wide_views):
    model = small_model("nnclr", batch_norm_group_size=2).double()
    loss_and_gradients(model, wide_views, 4)
    assert model.queue.position == 12
    assert model.draws == 1
    counters = {int(b) for name, b in model.named_buffers() if name.startswith("encoder.") and b.ndim == 0}
    assert counters == {6}  # three parts, two views


def test_dropout_draws_the_same_in_both_passes(wide_views):
    config = small_config("jmi").to_dict()
    config["encoder_config"] = {"model_type": "vit", "image_size": 16, "patch_size": 8, "hidden_size": 16,
                                "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
                                "hidden_dropout_prob": 0.5}  # fmt: skip
    model = JMIForPreTraining(JMIConfig(**(config | {"batch_norm_group_size": 2}))).double()
    seen = []
    model.projector.register_forward_hook(lambda module, given, z: seen.append(z.detach()))
    loss_and_gradients(model, wide_views, 6)
    first, second = seen[:4], seen[4:]
    assert all(torch.equal(z, again) for z, again in zip(first, second, strict=True))
    assert not torch.equal(first[0], model.projector(model.encoder(wide_views[0][:6]).pooler_output))


def test_parts_and_accumulation_go_together(wide_views):
    """Two large batches accumulated, each in parts, leave the mean of their gradients."""
    model = small_model("jmi", batch_norm_group_size=2).double()
    batches = [tuple(view[:8] for view in wide_views), tuple(view[4:] for view in wide_views)]
    alone = [loss_and_gradients(copy.deepcopy(model), views, 8)[1] for views in batches]
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    for views in batches:
        with accelerator.accumulate(model):
            forward_backward(accelerator, model, views, 4)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, (alone[0][name] + alone[1][name]) / 2, rtol=1e-7, atol=1e-11)


def parts_on_a_process(rank, world, views, methods):
    found = {}
    for name in methods:
        model = small_model(name, batch_norm_group_size=2).double()
        network = torch.nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
        accelerator = Accelerator(cpu=True)
        outputs = forward_backward(accelerator, network, tuple(view.chunk(world)[rank] for view in views), 2)
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        found[name] = (outputs.loss.detach(), gradients)
    return found


def test_parts_on_two_processes_equal_the_whole_on_one(wide_views):
    methods = ("sdmi_ema", "byol", "swav", "simclr", "barlow_twins")
    one, two = run_processes(2, parts_on_a_process, wide_views, methods)
    for name in methods:
        assert_same(one[name], loss_and_gradients(small_model(name, batch_norm_group_size=2).double(), wide_views, 12))
        assert_same(two[name], one[name])
