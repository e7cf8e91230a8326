"""What kNN and the linear probe share: representations and labels in, a row with its interval out."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import UserError
from ..evaluation import accuracy_interval


class Split(NamedTuple):
    """What a classifier learns from and what it is judged on, on the device of `train`; labels are 0 … C − 1."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    num_classes: int


def split_of(train, train_labels, predictions, references) -> Split:
    """Arrays or lists, (N, D), (N,), (M, D), (M,), with labels of any integers, as a `Split`.

    Raises UserError for representations of two sizes."""
    train = torch.as_tensor(train, dtype=torch.float32)
    test = torch.tensor(predictions, dtype=torch.float32, device=train.device)
    if train.shape[1:] != test.shape[1:]:
        shapes = f"train is {[*train.shape]}, predictions are {[*test.shape]}"
        raise UserError(f"train and test need representations of one size, from one encoder: {shapes}")
    known, asked = (torch.as_tensor(labels, device=train.device) for labels in (train_labels, references))
    classes = torch.cat([known, asked]).unique()
    return Split(train, torch.searchsorted(classes, known), test, torch.searchsorted(classes, asked), len(classes))


def row(correct: int, n: int, protocol: str) -> dict[str, Any]:
    """The accuracy of `correct` in `n` with its 95 % interval (Wilson), by the keys of `results.json`."""
    low, high = accuracy_interval(correct, n)
    return {"value": correct / n, "low": low, "high": high, "n": n, "protocol": protocol}
