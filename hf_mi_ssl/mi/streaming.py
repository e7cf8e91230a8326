"""Sums over all N × M pairings of factors, tile by tile: memory linear in N, gradients by hand.

The score of a pairing is an inner product, so that the gradient of a sum of f(score) is two matrix products per tile.
Backward computes the scores again, one product more than keeping them costs; what is saved is the traffic to memory.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# The side of a tile. On a CPU 1 MB in float32, what a core's cache holds; elsewhere large, as every launch costs.
_SIDE = {"cpu": 512}
_SIDE_ELSEWHERE = 2048


def log_sum_exp_rows(left: Tensor, right: Tensor, skip: tuple[int, ...] = (), symmetric: bool = False) -> Tensor:
    """log Σ_j exp(left_i · right_j) over the j with |i − j| not in `skip`: (N, F), (M, F) -> (N,)

    `symmetric` says that the scores of (i, j) and (j, i) are the same function of the embeddings: one is computed and
    stands for both, so that gradients are right for embeddings, not for `left` and `right` each.
    """
    if len(left) * len(right) > 4 * _side(left) ** 2:
        return _LogSumExpRows.apply(left, right, skip, symmetric)
    scores = left @ right.T
    for distance in skip:
        _fill_diagonals(scores, distance)
    return torch.logsumexp(scores, 1)


def sum_of_powers(left: Tensor, right: Tensor, offset: Tensor, order: int) -> Tensor:
    """Σ_ij (left_i · right_j − offset)^order, a scalar; offset is one too."""
    return _SumOfPowers.apply(left, right, offset, order)


class _LogSumExpRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, left, right, skip, symmetric):
        sums = left.new_full((len(left),), -torch.inf)
        for rows, columns, scores in _tiles(left, right, skip, symmetric):
            sums[rows] = torch.logaddexp(sums[rows], torch.logsumexp(scores, 1))
            if symmetric and rows != columns:
                sums[columns] = torch.logaddexp(sums[columns], torch.logsumexp(scores, 0))
        ctx.save_for_backward(left, right, sums)
        ctx.skip, ctx.symmetric = skip, symmetric
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        left, right, sums = ctx.saved_tensors
        to_left, to_right = torch.zeros_like(left), torch.zeros_like(right)
        for rows, columns, scores in _tiles(left, right, ctx.skip, ctx.symmetric):
            weights = (scores - sums[rows, None]).exp_().mul_(gradient[rows, None])
            if ctx.symmetric and rows != columns:
                weights += scores.sub_(sums[columns]).exp_().mul_(gradient[columns])
            to_left[rows].addmm_(weights, right[columns])
            to_right[columns].addmm_(weights.T, left[rows])
        return to_left, to_right, None, None


class _SumOfPowers(torch.autograd.Function):
    @staticmethod
    def forward(ctx, left, right, offset, order):
        ctx.save_for_backward(left, right, offset)
        ctx.order = order
        return torch.stack([scores.sub_(offset).pow_(order).sum() for _, _, scores in _tiles(left, right)]).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        left, right, offset = ctx.saved_tensors
        to_left, to_right, to_offset = torch.zeros_like(left), torch.zeros_like(right), torch.zeros_like(offset)
        for rows, columns, scores in _tiles(left, right):
            weights = scores.sub_(offset).pow_(ctx.order - 1).mul_(ctx.order * gradient)
            to_left[rows].addmm_(weights, right[columns])
            to_right[columns].addmm_(weights.T, left[rows])
            to_offset -= weights.sum()
        return to_left, to_right, to_offset, None


def _side(x: Tensor) -> int:
    return _SIDE.get(x.device.type, _SIDE_ELSEWHERE)


def _tiles(left: Tensor, right: Tensor, skip: tuple[int, ...] = (), symmetric: bool = False):
    """(rows, columns, scores) of one tile after another, without those below the diagonal if `symmetric`.

    The scores of pairings to be skipped are −inf; all may be overwritten.
    """
    side = _side(left)
    for i in range(0, len(left), side):
        for j in range(i if symmetric else 0, len(right), side):
            rows, columns = slice(i, i + side), slice(j, j + side)
            scores = left[rows] @ right[columns].T
            for distance in skip:
                _fill_diagonals(scores, distance, j - i)
            yield rows, columns, scores


def _fill_diagonals(scores: Tensor, distance: int, shift: int = 0) -> None:
    """−inf where |row − column| is `distance`; the tile's columns begin `shift` after its rows."""
    for offset in {distance, -distance}:
        scores.diagonal(offset - shift).fill_(-torch.inf)
