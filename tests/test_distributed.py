"""Two processes with n images each compute what one process with 2n computes: loss, gradients, statistics."""

import copy
import os
import tempfile

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from hf_mi_ssl.distributed import GlobalBatchNorm, all_sum, gather, globalize_batch_norm
from hf_mi_ssl.errors import UserError
from hf_mi_ssl.methods import METHODS
from tests.conftest import forward, small_model


def _worker(rank, world, store, function, results, arguments):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, world), rank=rank, world_size=world)
    try:
        torch.save(function(rank, world, *arguments), f"{results}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def run_processes(world, function, *arguments, start_method="fork"):
    """`function(rank, world, *arguments)` in processes that talk over gloo; what each returned, by rank."""
    with tempfile.TemporaryDirectory() as folder:
        settings = (world, os.path.join(folder, "store"), function, folder, arguments)
        mp.start_processes(_worker, settings, nprocs=world, start_method=start_method)
        return [torch.load(f"{folder}/{rank}.pt") for rank in range(world)]


def a_model(name):
    # Independent branches: equal ones would hide a mistaken order of arguments.
    columns = {"target_init": "independent"} if METHODS[name].paradigm == "sdmi" else {}
    # Fewer dimensions than images: a covariance without full rank would amplify rounding.
    return small_model(name, projection_size=8, **columns).double()


def loss_and_gradients(model, views, phase):
    loss = forward(model, *views, phase).loss
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def train_step_of_every_row(rank, world, views):
    found = {}
    for name in METHODS:
        model = globalize_batch_norm(a_model(name))
        mine = [view.chunk(world)[rank] for view in views]
        for phase in model.phases:
            model.zero_grad()
            wrapped = nn.parallel.DistributedDataParallel(
                copy.deepcopy(model), broadcast_buffers=False, find_unused_parameters=len(model.phases) > 1
            )
            kwargs = {"phase": phase} if METHODS[name].paradigm == "sdmi" else {}
            loss = wrapped(*mine, **kwargs).loss
            loss.backward()
            inner = wrapped.module
            gradients = {n: p.grad for n, p in inner.named_parameters() if p.grad is not None and p.grad.any()}
            found[name, phase] = (loss.detach(), gradients, dict(inner.named_buffers()))
    return found


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_every_row_equals_one_process_in_loss_gradients_and_statistics(world):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, 3, 16, 16, generator=generator, dtype=torch.float64)
    views = [x + 0.3 * torch.randn(x.shape, generator=generator, dtype=torch.float64) for _ in range(2)]
    per_rank = run_processes(world, train_step_of_every_row, views)
    for (name, phase), (loss, gradients, buffers) in per_rank[0].items():
        model = a_model(name)
        whole, expected = loss_and_gradients(model, views, phase)
        torch.testing.assert_close(loss, whole, rtol=1e-10, atol=1e-12)
        nonzero = {n: g for n, g in expected.items() if g.abs().max() > 1e-12}
        assert set(nonzero) <= set(gradients), (name, phase)
        for parameter, gradient in nonzero.items():
            torch.testing.assert_close(
                gradients[parameter],
                gradient,
                rtol=1e-8,
                atol=1e-11,
                msg=lambda m, at=(name, parameter): f"{at}: {m}",
            )
        for buffer, value in model.named_buffers():
            torch.testing.assert_close(buffers[buffer], value, rtol=1e-10, atol=1e-12)
        for other in per_rank[1:]:
            assert torch.equal(other[name, phase][0], loss)
            for parameter, gradient in gradients.items():
                assert torch.equal(other[name, phase][1][parameter], gradient)


def gather_and_sum(rank, world):
    z = torch.full((2, 3), float(rank + 1), dtype=torch.float64, requires_grad=True)
    rows = gather(z)
    weights = torch.arange(1.0, rows.numel() + 1, dtype=torch.float64).view_as(rows)
    (rows * weights).sum().backward()
    y = torch.tensor([float(rank + 1)], requires_grad=True)
    total = all_sum(y)
    (3 * total).sum().backward()
    return rows.detach(), z.grad, total.detach(), y.grad


def test_gather_keeps_the_order_of_ranks_and_its_gradient_sums_over_processes():
    for rank, (rows, gradient, total, of_sum) in enumerate(run_processes(2, gather_and_sum)):
        assert rows[:, 0].tolist() == [1, 1, 2, 2]
        weights = torch.arange(1.0, 13, dtype=torch.float64).view(4, 3)
        assert torch.equal(gradient, 2 * weights[2 * rank : 2 * rank + 2])  # both processes' losses reach the row
        assert total.item() == 3
        assert of_sum.item() == 6


def test_one_process_needs_no_process_group():
    z = torch.randn(3, 2)
    assert gather(z) is z
    assert all_sum(z) is z
    layer = nn.BatchNorm2d(3)
    assert type(globalize_batch_norm(nn.Sequential(layer))[0]) is nn.BatchNorm2d


def test_global_batch_norm_is_batch_norm_on_one_process():
    x = torch.randn(4, 3, 5, 5)
    ours, plain = GlobalBatchNorm(3), nn.BatchNorm2d(3)
    assert torch.equal(ours(x), plain(x))
    assert torch.equal(ours.running_var, plain.running_var)


def global_batch_norm_shapes(rank, world, x, bf16):
    layer = GlobalBatchNorm(3, momentum=None) if x.ndim == 2 else GlobalBatchNorm(3)
    mine = x.chunk(world)[rank]
    return layer(mine.bfloat16() if bf16 else mine).detach(), layer.running_mean, layer.running_var


@pytest.mark.parametrize("shape", [(8, 3), (8, 3, 2), (8, 3, 2, 4)])
@pytest.mark.parametrize("bf16", [False, True])
def test_global_batch_norm_equals_plain_batch_norm_of_the_whole_batch(shape, bf16):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3 + 1
    parts = run_processes(2, global_batch_norm_shapes, x, bf16)
    plain = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)]
    layer = plain(3, momentum=None) if len(shape) == 2 else plain(3)
    expected = layer(x)
    close = {"rtol": 2e-2, "atol": 3e-2} if bf16 else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(torch.cat([out.float() for out, _, _ in parts]), expected.detach(), **close)
    torch.testing.assert_close(parts[0][1], layer.running_mean, **close)
    torch.testing.assert_close(parts[1][2], layer.running_var, **close)


def timm_step(rank, world, x):
    import timm

    torch.manual_seed(0)
    model = globalize_batch_norm(timm.create_model("test_efficientnet", num_classes=0).double())
    return model(x.chunk(world)[rank]).detach(), dict(model.named_buffers())


def test_batch_norm_that_holds_its_activation_is_global_too():
    """timm's BatchNormAct2d is no BatchNorm2d by type: it would silently keep the statistics of each process."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model("test_efficientnet", num_classes=0).double()
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    parts = run_processes(2, timm_step, x)
    torch.testing.assert_close(torch.cat([out for out, _ in parts]), model(x).detach(), rtol=1e-8, atol=1e-10)
    for name, value in model.named_buffers():
        torch.testing.assert_close(parts[0][1][name], value, rtol=1e-8, atol=1e-10)


def an_unknown_batch_norm(rank, world):
    class Mine(nn.BatchNorm1d):
        pass

    try:
        globalize_batch_norm(nn.Sequential(Mine(3)))
    except UserError as error:
        return str(error)
    return "accepted"


def test_a_batch_norm_of_an_unknown_kind_is_refused_rather_than_left_local():
    assert run_processes(2, an_unknown_batch_norm)[0].startswith("Mine has no global or split form")
