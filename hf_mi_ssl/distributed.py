"""The only file that knows about processes: a gather with exact gradients, and batch norm over the global batch.

Every process computes the loss of the same global batch. Backward of `gather` sums over processes, the mean that DDP
takes of the gradients divides by their number, so the result is the gradient of one process that held everything.
All of it is the identity when there is one process.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .errors import UserError


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


class GlobalBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm with the statistics of all processes, on any device (torch's SyncBatchNorm refuses the CPU).

    Equal to plain batch norm over the concatenated batch in value, gradient and running statistics.
    """

    def _check_input_dim(self, x: Tensor) -> None:
        if x.ndim < 2:
            raise ValueError(f"expected an input of at least 2 dimensions, got {x.ndim}")

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or num_processes() == 1:
            return super().forward(x)
        wide = x if x.dtype == torch.float64 else x.float()
        axes = [0, *range(2, x.ndim)]
        shape = [1, -1] + [1] * (x.ndim - 2)
        count = x.numel() // x.shape[1] * num_processes()  # local batches are equal
        mean = all_sum(wide.sum(axes)) / count
        centred = wide - mean.view(shape)
        variance = all_sum(centred.square().sum(axes)) / count  # two passes: E[x²] − E[x]² would cancel
        if self.track_running_stats:
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                rate = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), rate)
                self.running_var.lerp_((variance * (count / (count - 1))).to(self.running_var.dtype), rate)
        normalised = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        return normalised.to(x.dtype)


class GlobalBatchNormAct(GlobalBatchNorm):
    """The same for timm's batch norm that holds the activation after it."""

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


def globalize_batch_norm(module: nn.Module) -> nn.Module:
    """Give every batch norm inside `module` the statistics of all processes, in place; parameters, buffers and names
    stay, so checkpoints do too. Nothing changes on one process.

    Raises:
        UserError: for a kind of batch norm that it does not know.
    """
    if num_processes() == 1:
        return module
    for layer in module.modules():
        if type(layer) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            layer.__class__ = GlobalBatchNorm
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm) and not isinstance(layer, GlobalBatchNorm):
            if not (hasattr(layer, "act") and hasattr(layer, "drop")):
                raise UserError(
                    f"{type(layer).__name__} has no form for several processes; use one, or another encoder"
                )
            layer.__class__ = GlobalBatchNormAct
    return module
