"""The only file that knows about processes: a gather with exact gradients, and batch norm over the global batch.

Every process computes the loss of the same global batch. Backward of `gather` sums over processes, the mean that DDP
takes of the gradients divides by their number, so the result is the gradient of one process that held everything.
All of it is the identity when there is one process.
"""

from datetime import timedelta

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import UserError

_SIGNS_OF_LOSS = ("Connection closed by peer", "Connection reset by peer", "Timed out waiting", "gloo/transport",
                  "Broken pipe")  # fmt: skip


def num_processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_index() -> int:
    return dist.get_rank() if num_processes() > 1 else 0


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        parts = [torch.empty_like(z) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, z.contiguous())
        ctx.n = len(z)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        start = dist.get_rank() * ctx.n
        return gradient[start : start + ctx.n]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient


def gather(z: Tensor) -> Tensor:
    """The rows of all processes in their order: (n, D) -> (N, D). n must be the same everywhere."""
    return _Gather.apply(z) if num_processes() > 1 else z


def all_sum(x: Tensor) -> Tensor:
    """The sum of x over processes, any shape, differentiable."""
    return _Sum.apply(x) if num_processes() > 1 else x


class Agreement:
    """What the hosts of all processes agree on within `minutes`, over gloo: no device is asked, and none waits."""

    def __init__(self, minutes: float):
        self.of_several = num_processes() > 1
        timeout = timedelta(minutes=minutes)  # else torch's own half an hour, whatever the other groups were given
        self._group = dist.new_group(backend="gloo", timeout=timeout) if self.of_several else None

    def largest(self, *numbers: int) -> list[int]:
        """The largest of each of these numbers over processes. To be called by all of them alike."""
        if not self.of_several:
            return list(numbers)
        found = torch.tensor(numbers)
        dist.all_reduce(found, dist.ReduceOp.MAX, group=self._group)
        return found.tolist()


def reason_of_loss(error: BaseException) -> str | None:
    """What an error says of another process that died or does not answer; None if that is not what it is about."""
    text = str(error)
    lost = isinstance(error, dist.DistError) or any(sign in text for sign in _SIGNS_OF_LOSS)
    return text.strip().splitlines()[0][:160] if lost and isinstance(error, RuntimeError) else None


def each_group_from_all(x: Tensor, group: int) -> Tensor:
    """The global batch, laid out so that no two rows of a group of consecutive rows come from one such group (if there
    are as many groups as rows in a group): this process's rows of it, (n, …) -> (n, …), without gradient.

    For split batch norm: the rows of a batch are random already, so a fixed layout shuffles as well as a random one.
    """
    rows = gather(x.detach())
    order = torch.arange(len(rows), device=x.device).view(-1, group).T.flatten()
    return rows[order[process_index() * len(x) : (process_index() + 1) * len(x)]]


def each_group_back(x: Tensor, group: int) -> Tensor:
    """The inverse of `each_group_from_all`."""
    rows = gather(x.detach())
    order = torch.arange(len(rows), device=x.device).view(group, -1).T.flatten()
    return rows[order[process_index() * len(x) : (process_index() + 1) * len(x)]]


class _OnGPUs(torch.autograd.Function):
    """By the kernels of torch's SyncBatchNorm, which save x alone; its own function has the host wait each time."""

    @staticmethod
    def forward(ctx, x, weight, bias, running_mean, running_var, rate, eps):
        x = x if x.is_contiguous(memory_format=torch.channels_last) else x.contiguous()
        counts = torch.full((num_processes(),), x.numel() // x.shape[1], dtype=_wide(x), device=x.device)
        found = gather(torch.cat(torch.batch_norm_stats(x, eps))[None]).chunk(2, 1)
        running = running_mean, running_var, rate
        mean, scale = torch.batch_norm_gather_stats_with_counts(x, *found, *running, eps, counts)
        ctx.save_for_backward(x, mean, scale, weight, counts.int())
        return torch.batch_norm_elemt(x, weight, bias, mean, scale, eps)

    @staticmethod
    def backward(ctx, gradient):
        *at, counts = ctx.saved_tensors
        gradient = gradient if gradient.is_contiguous(memory_format=torch.channels_last) else gradient.contiguous()
        *sums, of_weight, of_bias = torch.batch_norm_backward_reduce(gradient, *at, True, *ctx.needs_input_grad[1:3])
        of_x = torch.batch_norm_backward_elemt(gradient, *at, *all_sum(torch.cat(sums)).chunk(2), counts)
        needed = zip((of_weight, of_bias), ctx.needs_input_grad[1:3])  # kernels give empty ones for others
        return of_x, *(found if need else None for found, need in needed), None, None, None, None


class GlobalBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm with the statistics of all processes, on any device (torch's SyncBatchNorm refuses the CPU).

    Equal to plain batch norm over the concatenated batch in value, gradient and running statistics.
    """

    alone = False  # whether every process is given the whole batch

    def _check_input_dim(self, x: Tensor) -> None:
        if x.ndim < 2:
            raise ValueError(f"expected an input of at least 2 dimensions, got {x.ndim}")

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.alone or num_processes() == 1:
            return super().forward(x)
        rate = self._count() if self.track_running_stats else 0.0
        if x.is_cuda and self.track_running_stats:
            return _OnGPUs.apply(x, self.weight, self.bias, self.running_mean, self.running_var, rate, self.eps)
        wide = x.to(_wide(x))
        axes, shape = [0, *range(2, x.ndim)], [1, -1] + [1] * (x.ndim - 2)
        count = x.numel() // x.shape[1] * num_processes()  # local batches are equal
        mean = all_sum(wide.sum(axes)) / count
        centred = wide - mean.view(shape)
        variance = all_sum(centred.square().sum(axes)) / count  # two passes: E[x²] − E[x]² would cancel
        if self.track_running_stats:
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), rate)
                self.running_var.lerp_((variance * (count / (count - 1))).to(self.running_var.dtype), rate)
        normalised = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        return normalised.to(x.dtype)

    def _count(self) -> float:
        """Count a batch; what share of the running statistics becomes that of this batch."""
        self.num_batches_tracked.add_(1)
        return self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)


class GroupBatchNorm(GlobalBatchNorm):
    """Batch norm over groups of `group_size` consecutive images, as if each were on a device of its own: split or
    ghost batch norm (arXiv 1705.08741). Groups lie within a process, so their statistics do not depend on how many
    processes there are; the running statistics are the mean over the groups of all.
    """

    group_size: int

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        if len(x) % self.group_size:
            raise UserError(
                f"batch_norm_group_size {self.group_size} does not divide the {len(x)} images of a process: "
                f"change it with --set, or --per_device_train_batch_size"
            )
        parts, means, variances = [], [], []
        for group in x.split(self.group_size):
            mean, variance = (torch.zeros(x.shape[1], dtype=_wide(x), device=x.device) for _ in range(2))
            parts.append(F.batch_norm(group, mean, variance, self.weight, self.bias, True, 1.0, self.eps))
            means.append(mean)  # with momentum 1, running statistics are those of the group
            variances.append(variance)
        if self.track_running_stats:
            with torch.no_grad():
                rate = self._count()
                for running, found in ((self.running_mean, means), (self.running_var, variances)):
                    mean = all_sum(torch.stack(found).mean(0)) / num_processes()
                    running.lerp_(mean.to(running.dtype), rate)
        return torch.cat(parts)


class _WithActivation:
    """timm's batch norm holds the activation after it."""

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


class GlobalBatchNormAct(_WithActivation, GlobalBatchNorm):
    """`GlobalBatchNorm` in place of timm's batch norm with activation."""


class GroupBatchNormAct(_WithActivation, GroupBatchNorm):
    """`GroupBatchNorm` in place of timm's batch norm with activation."""


def globalize_batch_norm(module: nn.Module) -> nn.Module:
    """Give every batch norm inside `module` the statistics of all processes, in place; parameters, buffers and names
    stay, so checkpoints do too. Nothing changes on one process, or where batch norm is split into groups.

    Raises:
        UserError: for a kind of batch norm that it does not know.
    """
    return module if num_processes() == 1 else _replace_batch_norm(module, GlobalBatchNorm, GlobalBatchNormAct)


def split_batch_norm(module: nn.Module, group_size: int) -> nn.Module:
    """Give every batch norm inside `module` the statistics of groups of `group_size` images, in place, as above."""
    _replace_batch_norm(module, GroupBatchNorm, GroupBatchNormAct)
    for layer in module.modules():
        if isinstance(layer, GroupBatchNorm):
            layer.group_size = group_size
    return module


def _replace_batch_norm(module: nn.Module, plain: type, with_activation: type) -> nn.Module:
    for layer in module.modules():
        if type(layer) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            layer.__class__ = plain
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm) and not isinstance(layer, GlobalBatchNorm):
            if not (hasattr(layer, "act") and hasattr(layer, "drop")):
                raise UserError(f"{type(layer).__name__} has no global or split form: take another encoder")
            layer.__class__ = with_activation
    return module


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32
