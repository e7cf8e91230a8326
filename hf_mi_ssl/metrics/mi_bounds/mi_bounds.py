"""Mutual information of two views' embeddings, as a measurement of `evaluate`, in nats."""

from dataclasses import asdict

import datasets
import evaluate
import torch

from hf_mi_ssl.errors import refuse_unknown
from hf_mi_ssl.estimators import TRACKED
from hf_mi_ssl.estimators.fixed import ESTIMATORS
from hf_mi_ssl.estimators.fixed_critic import cross_fit_all

_INPUTS = """
Args:
    z_a, z_b: embeddings of two views of each image, (N, D) each, held out from training
    estimators: names of those described above; those tracked in training unless given
    split: what the images are, for the record

Returns: by the estimator's name {value, low, high, standard_error, ceiling, saturated, kind, n, split, protocol,
    warnings}, in nats; low and high are the 95 % interval, and only what is of the kind `lower_bound` is at most the
    mutual information
"""


class MiBounds(evaluate.Measurement):
    def _info(self):
        row_of_floats = datasets.List(datasets.Value("float32"))
        return evaluate.MeasurementInfo(
            description="\n".join(f"{name}: {made.__doc__.splitlines()[0]}" for name, made in ESTIMATORS.items()),
            citation="arXiv 2510.01345; arXiv 1807.03748; arXiv 1905.06922; arXiv 2510.20644; arXiv 1910.06222",
            inputs_description=_INPUTS,
            features=datasets.Features({"z_a": row_of_floats, "z_b": row_of_floats}),
        )

    def _compute(self, z_a, z_b, estimators=tuple(TRACKED), split="held-out"):
        refuse_unknown("estimator", estimators, ESTIMATORS)
        chosen = {name: ESTIMATORS[name]() for name in estimators}
        found = cross_fit_all(chosen, torch.tensor(z_a), torch.tensor(z_b), split)
        return {name: asdict(one) | {"saturated": one.saturated} for name, one in found.items()}
