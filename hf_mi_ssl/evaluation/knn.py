"""Weighted nearest-neighbour classification of frozen representations by cosine: accuracy without any training."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError


def knn_protocol(k: int = 20, temperature: float = 0.07) -> str:
    """What `knn_predict` does, in words."""
    return f"cosine kNN on clean images, k = {k} (all when fewer), votes weighted by exp(cosine / {temperature:g})"


def knn_predict(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
) -> Tensor:
    """argmax_c Σ_{i ∈ k nearest, y_i = c} e^{cos(h, h_i)/τ}: (N, D), (N,), (M, D) -> predicted labels (M,)

    As in arXiv 1805.01978 and 2104.14294. Equal cosines rank by position in `train`, equal votes by class number.
    Works in blocks of test rows. Raises UserError for empty or non-finite input, and for k or τ that are not positive.
    """
    if k < 1 or not temperature > 0:
        raise UserError(f"kNN needs k of at least 1 and a temperature above 0; got k = {k}, τ = {temperature:g}")
    if len(train) == 0 or len(train) != len(train_labels):
        raise UserError(f"kNN needs labelled training rows; got {len(train)} rows and {len(train_labels)} labels")
    if not (train.isfinite().all() and test.isfinite().all()):
        raise UserError("representations hold NaN or infinity; check the checkpoint")
    k = min(k, len(train))
    known = F.normalize(train.float(), dim=1)
    block = max(1, 2**24 // len(train))  # 64 MiB of cosines
    predictions = [
        _vote(F.normalize(rows.float(), dim=1) @ known.T, train_labels, num_classes, k, temperature)
        for rows in test.split(block)
    ]
    return torch.cat(predictions) if predictions else train_labels.new_empty(0)


def _vote(cosines: Tensor, labels: Tensor, num_classes: int, k: int, temperature: float) -> Tensor:
    values, neighbours = cosines.topk(min(k + 1, cosines.shape[1]), dim=1)
    # topk chooses freely among equal values; only rows whose next neighbour is as near as the last that votes pay for
    # a stable sort
    tied = (values[:, k:] == values[:, k - 1 : k]).any(1)
    values, neighbours = values[:, :k], neighbours[:, :k]
    if tied.any():
        neighbours[tied] = cosines[tied].sort(dim=1, descending=True, stable=True).indices[:, :k]
    weights = torch.exp((values.double() - 1) / temperature)
    votes = weights.new_zeros(len(cosines), num_classes)
    return votes.scatter_add_(1, labels[neighbours], weights).argmax(1)
