"""Which shapes of embeddings are followed in training, and which are measured once, at the end."""

import math

import torch.nn.functional as F
from torch import Tensor

from .spectrum import (
    alignment,
    alpha_req,
    canonical_correlations,
    dead_dimensions,
    effective_rank,
    embedding_std,
    koziol_kurtosis,
    largest_norm,
    leading,
    lidar,
    mardia_skewness,
    mean_cosine,
    participation_ratio,
    rankme,
    uniformity,
)

Measured = dict[str, tuple[float, int, str]]  # (value, n, protocol) by name
_ONE_VIEW = "one view of each image"


def tracked_geometry(z_a: Tensor, z_b: Tensor) -> dict[str, float]:
    """What is cheap enough to follow, of the embeddings of two views, (N, D) each, by its name in the log."""
    return {
        "rank/rankme": rankme(z_a),
        "rank/effective_rank": effective_rank(z_a),
        "rank/effective_rank_of_directions": effective_rank(F.normalize(z_a.double(), dim=1)),
        "rank/participation_ratio": participation_ratio(z_a),
        "collapse/std": embedding_std(z_a),
        "collapse/dead_dimensions": dead_dimensions(z_a),
        "collapse/mean_cosine": mean_cosine(z_a),
        "collapse/largest_norm": largest_norm(z_a),
        "collapse/alignment": alignment(z_a, z_b),
        "collapse/uniformity": uniformity(z_a),
    }


def measured_geometry(z_a: Tensor, z_b: Tensor) -> Measured:
    """The same for the end of a run."""
    protocols = {"collapse/alignment": "embeddings z of two views of each image"}
    default = f"embeddings z of {_ONE_VIEW}"
    values = tracked_geometry(z_a, z_b)
    return {name: (value, len(z_a), protocols.get(name, default)) for name, value in values.items()}


def costly_geometry(embeddings: dict[str, Tensor], groups: dict[str, Tensor]) -> Measured:
    """What is measured at the end only.

    Args:
        embeddings: z_a, z_b (N, D) and h_a (N, H) of two views of each image.
        groups: z (n, q, D) and h (n, q, H) of q views of each image.
    """
    z_a, z_b = embeddings["z_a"], embeddings["z_b"]
    found: Measured = {}
    for side, prefix, words in (("z", "rank", "embeddings z"), ("h", "rank_h", "representations h")):
        group, one = groups[side], embeddings[f"{side}_a"]
        found[f"{prefix}/alpha_req"] = (alpha_req(one), len(one), f"{words} of {_ONE_VIEW}")
        protocol = f"{words} of {group.shape[1]} views of each image, δ = 1e-4"
        found[f"{prefix}/lidar"] = (lidar(group), len(group), protocol)
    if len(z_a) >= 16:
        correlation = canonical_correlations(z_a, z_b).mean().item()
        protocol = "embeddings z, mean over directions fitted on one half of the pairs, correlated on the other"
        found["rank/canonical_correlation"] = (correlation, len(z_a), protocol)
        z = leading(z_a)
        protocol = f"embeddings z of {_ONE_VIEW}, whitened in the {z.shape[1]} leading directions; a Gaussian: "
        gaussian = 3 * z.shape[1] * (z.shape[1] + 2)
        found["shape/mardia_skewness"] = (mardia_skewness(z), len(z), protocol + "0")
        found["shape/koziol_kurtosis"] = (koziol_kurtosis(z), len(z), protocol + f"{gaussian:,}")
    return {name: measured for name, measured in found.items() if math.isfinite(measured[0])}
