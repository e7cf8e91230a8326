"""Accuracy of weighted nearest-neighbour classification, as a metric of `evaluate`."""

import datasets
import evaluate

from hf_mi_ssl.evaluation import knn_predict, knn_protocol
from hf_mi_ssl.metrics.accuracy import row, split_of

_INPUTS = """
Args:
    predictions: representations of test images, (M, D)
    references: their labels, (M,), any integers
    train, train_labels: representations (N, D) of the images that vote, and their labels (N,)
    k, temperature: how many vote, and how their cosine weighs

Returns: {"knn_top1": {value, low, high, n, protocol}}; low and high are the 95 % interval (Wilson)
"""


class Knn(evaluate.Metric):
    def _info(self):
        row_of_floats = datasets.List(datasets.Value("float32"))
        return evaluate.MetricInfo(
            description=knn_predict.__doc__,
            citation="arXiv 1805.01978; arXiv 2104.14294",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": row_of_floats, "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions, references, train, train_labels, k=20, temperature=0.07):
        split = split_of(train, train_labels, predictions, references)
        predicted = knn_predict(split.train, split.train_labels, split.test, split.num_classes, k, temperature)
        protocol = f"{knn_protocol(k, temperature)}, among {len(split.train):,} of train"
        return {"knn_top1": row(int((predicted == split.test_labels).sum()), len(predicted), protocol)}
