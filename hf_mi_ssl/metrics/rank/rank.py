"""What shape embeddings have, as a measurement of `evaluate`."""

import datasets
import evaluate
import torch

from hf_mi_ssl.errors import UserError
from hf_mi_ssl.evaluation import (
    alpha_req,
    dead_dimensions,
    effective_rank,
    embedding_std,
    mean_cosine,
    participation_ratio,
    rankme,
    uniformity,
)

MEASURES = {
    "rankme": rankme,
    "effective_rank": effective_rank,
    "participation_ratio": participation_ratio,
    "alpha_req": alpha_req,
    "std": embedding_std,
    "dead_dimensions": dead_dimensions,
    "mean_cosine": mean_cosine,
    "uniformity": uniformity,
}


class Rank(evaluate.Measurement):
    def _info(self):
        return evaluate.MeasurementInfo(
            description="\n".join(f"{name}: {one.__doc__.splitlines()[0]}" for name, one in MEASURES.items()),
            citation="arXiv 2210.02885; arXiv 2011.10566; arXiv 2005.10242; Agrawal et al., NeurIPS 2022",
            inputs_description="Args:\n    data: embeddings or representations, (N, D)\n\nReturns: a number by name",
            features=datasets.Features({"data": datasets.List(datasets.Value("float32"))}),
        )

    def _compute(self, data):
        z = torch.tensor(data)
        if not z.isfinite().all():
            raise UserError("embeddings hold NaN or infinity, so that they have no rank; check the checkpoint")
        return {name: measure(z) for name, measure in MEASURES.items()}
