"""Linear probe: multinomial logistic regression on frozen representations, and ridge regression to check it.

All learning rates train at once as columns of one matrix, so that a sweep costs little more than one run; all ridge
penalties share one decomposition. Which of them counts is chosen within train.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import counter
from ..errors import UserError

LEARNING_RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)  # for each row of train: features have variance 1
_WHERE = "on frozen representations of clean images, standardised by train"
_CHOSEN = "chosen on a stratified 10 % of train, refitted on all of train, test used once"
LINEAR_PROTOCOL = f"logistic regression {_WHERE}; SGD, momentum 0.9, cosine schedule; learning rate {_CHOSEN}"
RIDGE_PROTOCOL = f"ridge regression to one-hot labels {_WHERE}; closed form; penalty {_CHOSEN}"
_BATCH, _EPOCHS, _MIN_STEPS, _MOMENTUM = 256, 30, 1000, 0.9
_ROWS = 2**16  # that float64 sums take at once
_LOGITS = 2**27  # that are held at once


@dataclass(frozen=True)
class LinearProbeResult:
    """Top-1 accuracy on the test split (a fraction), the counts behind it, and the learning rate, or the penalty, that
    train chose."""

    accuracy: float
    correct: int
    n: int
    chosen: float
    protocol: str


def accuracy_interval(correct: int, n: int) -> tuple[float, float]:
    """(p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n), z = 1.96: the 95 % interval of an accuracy (Wilson 1927)

    Raises UserError for n = 0.
    """
    if n < 1:
        raise UserError("an accuracy needs at least one image")
    z, p = 1.959964, correct / n
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    centre, scale = p + z**2 / (2 * n), 1 + z**2 / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def linear_probe(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    num_classes: int,
    seed: int,
    device: torch.device | None = None,
) -> LinearProbeResult:
    """Accuracy of softmax(W h + b): (N, D), (N,), (M, D), (M,) with labels in 0 … C − 1.

    Deterministic in `seed`, which orders the batches and draws the selection split. Runs on `device`, or where `train`
    is, on one thread of a CPU; a copy of `train` is made where it is, and comes from there batch by batch. Raises
    UserError for unusable input.
    """
    fit = partial(_fit, device=device or train.device)
    return _probe(fit, LEARNING_RATES, LINEAR_PROTOCOL, train, train_labels, test, test_labels, num_classes, seed)


def ridge_probe(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, num_classes: int, seed: int
) -> LinearProbeResult:
    """Accuracy of argmax_c (W h + b)_c, W = argmin ‖Y − HW − b‖² + λN ‖W‖², Y one-hot: arguments as `linear_probe`.

    Nothing is iterated: a logistic regression far below it has not converged. `seed` draws the selection split.
    """
    return _probe(_ridge, PENALTIES, RIDGE_PROTOCOL, train, train_labels, test, test_labels, num_classes, seed)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Batches this small lose by sharing threads (a hundredfold on a busy machine), and so no core count shows in the
    result."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _probe(
    fit: Callable[..., Tensor],
    grid: tuple[float, ...],
    protocol: str,
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    num_classes: int,
    seed: int,
) -> LinearProbeResult:
    _check(train, train_labels, test, test_labels, num_classes)
    held_out = selection_split(train_labels.cpu(), seed).to(train.device)
    test, labels, test_labels = (x.to(train.device) for x in (test, train_labels, test_labels))
    mean, std = _moments(train)
    std = torch.where(std > 1e-6 * (mean.abs() + std.max()), std, torch.inf)  # dead dimensions stay silent
    train, test = (_standardised(h, mean, std) for h in (train, test))

    with _one_thread():
        kept, asked = (~held_out).nonzero()[:, 0], held_out.nonzero()[:, 0]
        weights, hits, losses = fit(train, labels, kept, num_classes, grid, seed), 0, 0.0
        for rows in asked.split(max(1, _LOGITS // (len(grid) * num_classes))):
            logits, y = _logits(train[rows], weights, num_classes), labels[rows].to(weights.device)  # (n, L, C), (n,)
            hits = hits + (logits.argmax(2) == y[:, None]).sum(0)
            of_y = -logits.log_softmax(2)[torch.arange(len(y), device=y.device), :, y]
            losses = losses + of_y.mean(0) * (len(rows) / len(asked))
        # small splits tie often: the loss decides then; a learning rate that diverged has no loss and loses
        losses = torch.nan_to_num(losses, torch.inf).tolist()
        best = max(range(len(grid)), key=lambda i: (hits[i].item(), -losses[i]))

        weights = fit(train, labels, torch.arange(len(train), device=train.device), num_classes, grid[best:][:1], seed)
        predicted = [_logits(rows, weights, num_classes)[:, 0].argmax(1) for rows in test.split(_ROWS)]
        correct = int((torch.cat(predicted).to(test_labels.device) == test_labels).sum())
    return LinearProbeResult(correct / len(test), correct, len(test), grid[best], protocol)


def _moments(h: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each dimension, (D,) float64, of some rows at a time: copies stay small."""
    found = [
        (len(rows) / len(h), rows.double().mean(0), rows.double().var(0, correction=0)) for rows in h.split(_ROWS)
    ]
    mean = sum(share * of_rows for share, of_rows, _ in found)
    return mean, sum(share * (var + (of_rows - mean) ** 2) for share, of_rows, var in found).sqrt()


def _standardised(h: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(h − mean) / std with a column of ones behind, (N, D + 1) float32."""
    found = torch.ones(len(h), h.shape[1] + 1, dtype=torch.float32, device=h.device)
    for rows, to in zip(h.split(_ROWS), found.split(_ROWS)):
        to[:, :-1] = (rows - mean) / std
    return found


def selection_split(labels: Tensor, seed: int) -> Tensor:
    """A boolean mask (N,) of every tenth row in an order by class and, within it, by chance: stratified 10 %."""
    order = counter.permutation(len(labels), "linear_probe/selection", seed)
    order = order[labels[order].argsort(stable=True)]
    mask = torch.zeros(len(labels), dtype=torch.bool)
    mask[order[min(5, len(labels) // 2) :: 10]] = True
    return mask


def _logits(x: Tensor, weights: Tensor, num_classes: int) -> Tensor:
    return (x.to(weights.device) @ weights).unflatten(1, (-1, num_classes))  # (n, D) @ (D, L C) -> (n, L, C)


def _fit(
    x: Tensor,
    y: Tensor,
    kept: Tensor,
    num_classes: int,
    learning_rates: tuple[float, ...],
    seed: int,
    device: torch.device,
) -> Tensor:
    """The weights (D, L C), on `device`, of one logistic regression per learning rate, all trained on the same batches
    of the rows `kept`."""
    n, dimension = len(kept), x.shape[1]
    batch = min(_BATCH, n)
    per_epoch = n // batch
    steps = max(_MIN_STEPS, _EPOCHS * per_epoch)
    rates = torch.tensor(learning_rates, device=device).repeat_interleave(num_classes)
    weights = torch.zeros(dimension, len(rates), device=device)
    each, y = torch.arange(batch, device=device), y.to(device)
    velocity = torch.zeros_like(weights)
    for step in range(steps):
        epoch, position = divmod(step, per_epoch)
        if position == 0:
            order = kept[counter.permutation(n, "linear_probe/batches", seed, epoch).to(kept.device)]
            labels = y[order.to(device)]
        rows = slice(position * batch, (position + 1) * batch)
        inputs = x[order[rows]].to(device)
        error = _logits(inputs, weights, num_classes).softmax(2)  # becomes the gradient of the loss by the logits
        error[each, :, labels[rows]] -= 1
        velocity.mul_(_MOMENTUM).addmm_(inputs.T, error.flatten(1), alpha=1 / batch)
        weights -= rates * (0.5 + 0.5 * math.cos(math.pi * step / steps)) * velocity
    return weights


def _ridge(x: Tensor, y: Tensor, kept: Tensor, num_classes: int, penalties: tuple[float, ...], seed: int) -> Tensor:
    """The weights (D, L C) of one ridge regression per penalty; the last column of x is 1 and is not penalised."""
    x, y = x[kept], y[kept]
    mean, targets = x.double().mean(0), F.one_hot(y, num_classes).double()
    gram, cross = torch.zeros(x.shape[1], x.shape[1]).to(mean), torch.zeros(x.shape[1], num_classes).to(mean)
    for rows, labels in zip(x.split(_ROWS), targets.split(_ROWS)):
        centred = rows - mean  # the column of ones becomes 0, and so does its weight
        gram += centred.T @ centred
        cross += centred.T @ labels
    values, directions = torch.linalg.eigh(gram)
    rotated = directions.T @ cross
    shrunk = [rotated / (values.clamp_min(0) + penalty * len(x))[:, None] for penalty in penalties]
    weights = torch.stack([directions @ each for each in shrunk], 1)
    weights[-1] = targets.mean(0) - torch.tensordot(mean, weights, 1)
    return weights.flatten(1).float()


def _check(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, num_classes: int) -> None:
    for name, h, labels in (("train", train, train_labels), ("test", test, test_labels)):
        if len(h) != len(labels) or len(h) < (2 if name == "train" else 1):
            raise UserError(f"the linear probe needs labelled {name} rows; got {len(h)} rows, {len(labels)} labels")
        if not h.isfinite().all():
            raise UserError(f"the {name} representations hold NaN or infinity; check the checkpoint")
        if labels.min() < 0 or labels.max() >= num_classes:
            raise UserError(f"{name} labels must lie in 0 … {num_classes - 1}; got {labels.min()} … {labels.max()}")
