"""Batch norm over processes on GPUs: torch's kernels, and what we do between them."""

from unittest import mock

import pytest
import torch
from torch import nn

from hf_mi_ssl.distributed import GlobalBatchNorm, _OnGPUs
from tests.test_distributed import run_processes


def columns(x):
    return x.transpose(0, 1).flatten(1)  # (C, n), one row for each channel


def as_rows(values, x):
    return values.view(1, -1, *[1] * (x.ndim - 2))


# What torch's kernels for CUDA compute, in plain code


def batch_norm_stats(x, eps):
    return columns(x).mean(1), (columns(x).var(1, correction=0) + eps).rsqrt()


def batch_norm_gather_stats_with_counts(x, means, scales, running_mean, running_var, rate, eps, counts):
    n, shares = counts.sum(), (counts / counts.sum())[:, None]
    mean = (shares * means).sum(0)
    variance = (shares * (scales**-2 - eps + (means - mean) ** 2)).sum(0)
    running_mean.lerp_(mean, rate)
    running_var.lerp_(variance * n / (n - 1), rate)
    return mean, (variance + eps).rsqrt()


def batch_norm_elemt(x, weight, bias, mean, scale, eps):
    normalised = (x - as_rows(mean, x)) * as_rows(scale, x)
    return normalised if weight is None else normalised * as_rows(weight, x) + as_rows(bias, x)


def batch_norm_backward_reduce(gradient, x, mean, scale, weight, of_x, of_weight, of_bias):
    total = columns(gradient).sum(1)
    with_x = (columns(gradient) * (columns(x) - mean[:, None])).sum(1)
    none = torch.empty(0)  # as the kernel for channels_last has it
    return total, with_x, with_x * scale if of_weight else none, total if of_bias else none


def batch_norm_backward_elemt(gradient, x, mean, scale, weight, total, with_x, counts):
    n, centred = counts.sum(), x - as_rows(mean, x)
    rest = gradient - as_rows(total / n, x) - centred * as_rows(with_x * scale**2 / n, x)
    return rest * as_rows(scale if weight is None else scale * weight, x)


PLAIN = {name: value for name, value in globals().items() if name.startswith("batch_norm_")}


def layer_of(kind, x, **more):
    layer = kind(x.shape[1], **more).to(x.dtype if x.dtype == torch.float64 else torch.float32)
    with torch.no_grad():
        if not layer.affine:
            return layer
        layer.weight.copy_(torch.linspace(0.5, 2, x.shape[1]))
        layer.bias.copy_(torch.linspace(-1, 1, x.shape[1]))
    return layer


def step_of(layer, x, pull, forward=None):
    x = x.detach().requires_grad_()
    out = (forward or layer)(x)
    out.backward(pull)
    learned = [layer.weight.grad, layer.bias.grad] if layer.affine else []
    found = out, x.grad, *learned, layer.running_mean, layer.running_var
    return [value.detach().cpu() for value in found]


def step_on(rank, world, x, pull, device, affine):
    layer = layer_of(GlobalBatchNorm, x, affine=affine).to(device)
    mine = [of.chunk(world)[rank].to(device) for of in (x, pull)]
    if device == "cuda":
        return step_of(layer, *mine)
    settings = layer.weight, layer.bias, layer.running_mean, layer.running_var, 0.1, layer.eps
    with mock.patch.multiple(torch, **PLAIN):
        return step_of(layer, *mine, lambda mine: _OnGPUs.apply(mine, *settings))


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")],
        ),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("shape", "affine"), [((8, 3), True), ((8, 3), False), ((8, 3, 2), True), ((8, 3, 4, 5), True)]
)
def test_two_processes_equal_plain_batch_norm_of_the_whole_batch(shape, affine, dtype, device):
    """On a GPU, both processes share it, and talk over gloo."""
    if device == "cpu" and dtype == torch.bfloat16:
        pytest.skip("the kernels' own matter")
    generator = torch.Generator().manual_seed(0)
    x, pull = (torch.randn(shape, generator=generator).to(dtype) * 2 + 1 for _ in range(2))
    if len(shape) == 4:
        x, pull = x.to(memory_format=torch.channels_last), pull.contiguous()
    start = "spawn" if device == "cuda" else "fork"  # CUDA does not survive a fork
    parts = run_processes(2, step_on, x, pull, device, affine, start_method=start)
    wide = [of.double() for of in (x, pull)]
    kind = nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d
    expected = step_of(layer_of(kind, wide[0], affine=affine), *wide)
    together = [torch.cat(of) for of in zip(*(part[:2] for part in parts))]
    together += [sum(of) for of in zip(*(part[2:-2] for part in parts))]  # which DDP and the loss take the mean of
    close = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype]
    for found, value in zip([*together, *parts[0][-2:]], expected, strict=True):
        torch.testing.assert_close(found.double(), value, rtol=close, atol=10 * close)
    assert all(torch.equal(*of) for of in zip(parts[0][-2:], parts[1][-2:]))


def kept_by_two_layers(rank, world):
    layer = nn.Sequential(GlobalBatchNorm(3), GlobalBatchNorm(3)).cuda()
    x = torch.randn(4, 3, 5, 5, device="cuda", requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        layer(x)
    return sum(kept)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_a_layer_keeps_its_input_and_no_more_for_the_way_back():
    kept = run_processes(2, kept_by_two_layers, start_method="spawn")[0]
    assert kept < 2 * 4 * 3 * 25 + 100
