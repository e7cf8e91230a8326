"""Accuracy of a linear classifier on frozen representations, and of its check in closed form, as a metric."""

import datasets
import evaluate

from hf_mi_ssl.evaluation import linear_probe, ridge_probe
from hf_mi_ssl.metrics.accuracy import row, split_of

_INPUTS = """
Args:
    predictions: representations of test images, (M, D)
    references: their labels, (M,), any integers
    train, train_labels: representations (N, D) that the classifier learns from, and their labels (N,)
    seed: of the batches and of the tenth of train that chooses

Returns: {"linear_top1": {value, low, high, n, protocol, chosen}, "ridge_top1": the same}; low and high are the 95 %
    interval (Wilson), `chosen` is the learning rate, or the penalty, that the tenth of train chose
"""


class LinearProbe(evaluate.Metric):
    def _info(self):
        row_of_floats = datasets.List(datasets.Value("float32"))
        return evaluate.MetricInfo(
            description=f"{linear_probe.__doc__}\n\n    Its check: {ridge_probe.__doc__}",
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": row_of_floats, "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions, references, train, train_labels, seed=0):
        split = split_of(train, train_labels, predictions, references)
        found = {"linear_top1": linear_probe(*split, seed), "ridge_top1": ridge_probe(*split, seed)}
        return {name: row(one.correct, one.n, one.protocol) | {"chosen": one.chosen} for name, one in found.items()}
