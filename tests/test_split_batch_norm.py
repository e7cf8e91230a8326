"""Split batch norm: each group of images as on a device of its own, on any number of processes; shuffled groups."""

import copy

import pytest
import torch
from torch import nn

from hf_mi_ssl.distributed import (
    GroupBatchNorm,
    each_group_back,
    each_group_from_all,
    globalize_batch_norm,
    split_batch_norm,
)
from hf_mi_ssl.errors import UserError
from tests.conftest import small_model
from tests.test_distributed import run_processes


def normal(*shape, seed=0):
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 1


def batch_norm(ndim, **settings):
    """With a scale and a shift that matter."""
    layer = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[ndim](3, **settings).double()
    if layer.affine:
        nn.init.uniform_(layer.weight), nn.init.uniform_(layer.bias)
    return layer


def gradients(layer, x, y):
    """Of a function of y that treats no two entries alike."""
    weights = torch.arange(1.0, y.numel() + 1, dtype=y.dtype).view_as(y)
    return torch.autograd.grad((weights * y.square()).mean(), [x, *layer.parameters()])


@pytest.mark.parametrize("settings", [{}, {"affine": False}, {"momentum": None}, {"track_running_stats": False}])
@pytest.mark.parametrize("shape", [(12, 3), (12, 3, 2), (12, 3, 2, 4)])
def test_groups_are_separate_batches_in_value_and_gradient(shape, settings):
    torch.manual_seed(0)
    plain = batch_norm(len(shape), **settings)
    split = split_batch_norm(copy.deepcopy(plain), 4)
    x = normal(*shape).requires_grad_()
    expected = torch.cat([copy.deepcopy(plain)(group) for group in x.split(4)])
    found = split(x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    apart = torch.cat([plain(group) for group in x.split(4)])  # the same, through one layer's parameters
    for ours, theirs in zip(gradients(split, x, found), gradients(plain, x, apart), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    assert (found - batch_norm(len(shape), affine=False)(x)).abs().max() > 0.1  # and not those of one batch


def test_one_group_is_plain_batch_norm_with_its_running_statistics():
    torch.manual_seed(0)
    plain = batch_norm(2)
    split = split_batch_norm(copy.deepcopy(plain), 12)
    for seed in range(3):
        torch.testing.assert_close(split(normal(12, 3, seed=seed)), plain(normal(12, 3, seed=seed)))
    for name, value in plain.named_buffers():
        torch.testing.assert_close(split.get_buffer(name), value)


def steps_of_split_batch_norm(rank, world, batches, momentum):
    layer = split_batch_norm(nn.BatchNorm1d(3, momentum=momentum).double(), 2)
    for x in batches:
        layer(x.chunk(world)[rank])
    return dict(layer.named_buffers())


@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_are_the_mean_over_the_groups_of_all_processes(momentum):
    batches = [normal(8, 3, seed=seed) for seed in range(2)]
    mean, variance = torch.zeros(3).double(), torch.ones(3).double()
    for number, x in enumerate(batches, start=1):
        rate = momentum or 1 / number
        groups = x.view(4, 2, 3)
        mean = (1 - rate) * mean + rate * groups.mean(1).mean(0)
        variance = (1 - rate) * variance + rate * groups.var(1).mean(0)
    found = [steps_of_split_batch_norm(0, 1, batches, momentum)]
    for world in (2, 4):
        found += run_processes(world, steps_of_split_batch_norm, batches, momentum)
    for buffers in found:
        torch.testing.assert_close(buffers["running_mean"], mean)
        torch.testing.assert_close(buffers["running_var"], variance)
        assert buffers["num_batches_tracked"] == 2


def test_a_batch_that_the_groups_do_not_divide_is_refused_in_one_line():
    layer = split_batch_norm(nn.BatchNorm1d(3), 4)
    with pytest.raises(UserError, match="batch_norm_group_size 4 does not divide the 10 images") as caught:
        layer(torch.zeros(10, 3))
    assert "\n" not in str(caught.value)
    assert layer.eval()(torch.zeros(10, 3)).shape == (10, 3)  # evaluation may have batches of any size
    with pytest.raises(UserError, match="--per_device_train_batch_size 10"):
        small_model("moco_v2", batch_norm_group_size=4).check_images(16, batch_size=10)


def test_eval_mode_uses_running_statistics():
    plain = batch_norm(4)
    split = split_batch_norm(copy.deepcopy(plain), 2)
    for layer in (plain, split):
        layer.running_mean.fill_(0.5), layer.running_var.fill_(4.0)
        layer.eval()
    x = normal(7, 3, 2, 2)
    assert torch.equal(split(x), plain(x))
    assert (split.running_mean == 0.5).all()


def test_half_precision_keeps_its_type_and_the_statistics_theirs():
    layer = split_batch_norm(nn.BatchNorm2d(3), 4)
    x = normal(8, 3, 5, 5).float()
    half = layer(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert layer.running_mean.dtype == torch.float32
    torch.testing.assert_close(half.float(), layer(x), rtol=2e-2, atol=3e-2)


def test_batch_norm_that_holds_its_activation_is_split_too():
    """timm's BatchNormAct2d is no BatchNorm2d by type."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model("test_efficientnet", num_classes=0).double()
    split = split_batch_norm(copy.deepcopy(model), 2)
    norms = [m for m in split.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(isinstance(norm, GroupBatchNorm) and norm.group_size == 2 for norm in norms)
    x = normal(4, 3, 32, 32)
    expected = torch.cat([copy.deepcopy(model)(group) for group in x.split(2)])
    torch.testing.assert_close(split(x), expected, rtol=1e-8, atol=1e-10)


def test_what_is_split_stays_split_on_several_processes_and_keeps_its_names():
    layer = nn.Sequential(nn.BatchNorm1d(3))
    names = list(layer.state_dict())
    assert list(split_batch_norm(layer, 2).state_dict()) == names
    assert all(run_processes(2, globalized_after_splitting))


def globalized_after_splitting(rank, world):
    layer = globalize_batch_norm(split_batch_norm(nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm2d(3)), 2))
    return all(type(inner) is GroupBatchNorm and inner.group_size == 2 for inner in layer)


# Shuffled groups


def laid_out(rank, world, n, group):
    """The rows' numbers after shuffling, and after shuffling back."""
    rows = torch.arange(n).chunk(world)[rank].view(-1, 1)
    shuffled = each_group_from_all(rows, group)
    return shuffled.flatten(), each_group_back(shuffled, group).flatten()


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize(("n", "group"), [(16, 4), (8, 2), (24, 2), (16, 2), (16, 1)])
def test_no_two_images_of_a_target_group_share_an_online_group_and_back_is_the_inverse(n, group, world):
    parts = run_processes(world, laid_out, n, group) if world > 1 else [laid_out(0, 1, n, group)]
    shuffled, back = (torch.cat(rows) for rows in zip(*parts, strict=True))
    assert sorted(shuffled.tolist()) == list(range(n))
    for rows in shuffled.view(-1, group):
        assert len({int(row) // group for row in rows}) == group  # n // group ≥ group here
    assert torch.equal(back, torch.arange(n))


def test_with_fewer_groups_than_images_in_one_they_are_mixed_as_far_as_they_can_be():
    shuffled, back = laid_out(0, 1, 8, 4)
    assert [(rows // 4).bincount().tolist() for rows in shuffled.view(2, 4)] == [[2, 2], [2, 2]]
    assert torch.equal(back, torch.arange(8))


def target_rows(rank, world, view):
    model = small_model("moco_v2", target_init="independent").double()
    return model._target(view.chunk(world)[rank]).detach()


def test_the_targets_of_shuffled_groups_are_those_of_the_layout_in_the_order_of_the_images():
    view = normal(8, 3, 16, 16)
    order = torch.arange(8).view(-1, 2).T.flatten()
    model = small_model("moco_v2", target_init="independent").double()
    expected = torch.empty(8, model.config.projection_size, dtype=torch.float64)
    expected[order] = model.target(view[order]).detach()
    for world in (2, 4):
        torch.testing.assert_close(torch.cat(run_processes(world, target_rows, view)), expected)
    assert (expected - small_model("moco_v2", target_init="independent").double().target(view)).abs().max() > 1e-3


def two_steps_of_moco(rank, world, batches):
    model = globalize_batch_norm(small_model("moco_v2", target_init="independent").double())
    network = nn.parallel.DistributedDataParallel(model, broadcast_buffers=False) if world > 1 else model
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for views in batches:
        optimizer.zero_grad()
        loss = network(*(view.chunk(world)[rank] for view in views)).loss
        loss.backward()
        optimizer.step()
        model.update_target(0.9)
        losses.append(loss.detach())
    return losses, model.state_dict()


def test_moco_on_several_processes_is_moco_on_one():
    batches = [(x, x + 0.1 * normal(8, 3, 16, 16, seed=9)) for x in (normal(8, 3, 16, 16, seed=s) for s in range(2))]
    losses, state = two_steps_of_moco(0, 1, batches)
    for world in (2, 4):
        for theirs, other in run_processes(world, two_steps_of_moco, batches):
            torch.testing.assert_close(theirs, losses, rtol=1e-10, atol=1e-12)
            for name, value in state.items():
                torch.testing.assert_close(other[name], value, rtol=1e-9, atol=1e-11, msg=lambda m, n=name: n + m)
