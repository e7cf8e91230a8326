"""Sums over all N × M pairings of feature vectors, block by block: memory linear in N, gradients by hand.

The score of a pairing is an inner product, so that the gradient of a sum of f(score) is two matrix products per block.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_DENSE = 1024**2  # as many scores are computed at once, and kept
_BLOCK = 2**19  # scores in a block: 2 MB in float32, which a core's cache holds


def log_sum_exp_rows(left: Tensor, right: Tensor, skip_diagonal: bool) -> Tensor:
    """log Σ_j exp(left_i · right_j), j ≠ i if `skip_diagonal`: (N, F), (M, F) -> (N,)"""
    if len(left) * len(right) > _DENSE:
        return _LogSumExpRows.apply(left, right, skip_diagonal)
    scores = left @ right.T
    if skip_diagonal:
        scores = scores.masked_fill(torch.eye(len(left), dtype=torch.bool, device=left.device), -torch.inf)
    return torch.logsumexp(scores, 1)


def sum_of_powers(left: Tensor, right: Tensor, offset: Tensor, order: int) -> Tensor:
    """Σ_ij (left_i · right_j − offset)^order, a scalar; offset is one too."""
    return _SumOfPowers.apply(left, right, offset, order)


class _LogSumExpRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, left, right, skip_diagonal):
        sums = left.new_empty(len(left))
        for rows, scores in _score_blocks(left, right, skip_diagonal):
            sums[rows] = torch.logsumexp(scores, 1)
        ctx.save_for_backward(left, right, sums)
        ctx.skip_diagonal = skip_diagonal
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        left, right, sums = ctx.saved_tensors
        to_left, to_right = torch.empty_like(left), torch.zeros_like(right)
        for rows, scores in _score_blocks(left, right, ctx.skip_diagonal):
            weights = scores.sub_(sums[rows, None]).exp_().mul_(gradient[rows, None])
            to_left[rows] = weights @ right
            to_right.addmm_(weights.T, left[rows])
        return to_left, to_right, None


class _SumOfPowers(torch.autograd.Function):
    @staticmethod
    def forward(ctx, left, right, offset, order):
        ctx.save_for_backward(left, right, offset)
        ctx.order = order
        blocks = _score_blocks(left, right, False)
        return torch.stack([scores.sub_(offset).pow_(order).sum() for _, scores in blocks]).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        left, right, offset = ctx.saved_tensors
        to_left, to_right, to_offset = torch.empty_like(left), torch.zeros_like(right), torch.zeros_like(offset)
        for rows, scores in _score_blocks(left, right, False):
            weights = scores.sub_(offset).pow_(ctx.order - 1).mul_(ctx.order * gradient)
            to_left[rows] = weights @ right
            to_right.addmm_(weights.T, left[rows])
            to_offset -= weights.sum()
        return to_left, to_right, to_offset, None


def _score_blocks(left: Tensor, right: Tensor, skip_diagonal: bool):
    """(rows, scores) of one block of rows after another; the scores may be overwritten."""
    size = max(1, _BLOCK // len(right))
    for start in range(0, len(left), size):
        rows = slice(start, min(start + size, len(left)))
        scores = left[rows] @ right.T
        if skip_diagonal:
            scores.diagonal(start).fill_(-torch.inf)
        yield rows, scores
