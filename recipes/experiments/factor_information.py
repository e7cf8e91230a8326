"""I(Z; factor), exactly, where every input is known: registers the measure `factor_information`."""

import math

import torch
import torch.nn.functional as F
from measures import MEASURES, cos_bounds, embed
from sources import all_inputs
from torch import Tensor

from hf_mi_ssl.evaluation import knn_predict

RESOLUTION = 0.1  # σ of the noise that Z is read with: of a deterministic Z every I(Z; ·) would be trivial


def information(z: Tensor, factors: dict[str, Tensor], seed: int) -> dict[str, float]:
    """I(z + σε; factor) in nats, of z (N, D) of all N equally likely inputs: mixtures of known Gaussians.

    z is centred and scaled to a total variance of 1: a mean that all inputs share, as ReLUs leave one, would only make
    the noise larger. Exact but for the mean over ε, of 4 draws for each input.
    """
    z = z.double() - z.double().mean(0)
    z = z / z.square().sum(1).mean().sqrt().clamp_min(1e-12)
    noise = torch.randn(4, *z.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    log_density = -torch.cdist((z + RESOLUTION * noise).flatten(0, 1), z).square() / (2 * RESOLUTION**2)  # (4N, N)
    whole, found = log_density.logsumexp(1) - math.log(len(z)), {}
    for name, factor in factors.items():
        log_given = torch.stack([log_density[:, factor == k].logsumexp(1) for k in factor.unique()], 1)
        count = len(z) / log_given.shape[1]
        own = log_given.gather(1, factor.repeat(4)[:, None])[:, 0] - math.log(count)
        found[name] = (own - whole).mean().item()
    return found


def factor_information(model, law, held, initial, seed) -> dict:
    """I(Z; content) and I(Z; style) of h and z, exactly; and what a random invertible map of z does (H3)."""
    bits = int(held.factors["style"].max()).bit_length()
    inputs, found = all_inputs(bits), {}
    all_views = embed(model, inputs)
    for space in ("h", "z"):
        place = F.normalize(all_views[f"{space}_a"], dim=1)
        found[space] = information(place, inputs.factors, seed)
    own = embed(model, held)
    generator = torch.Generator().manual_seed(seed)
    size = own["z_a"].shape[1]
    left, right = (torch.linalg.qr(torch.randn(size, size, generator=generator)).Q for _ in range(2))
    change = left @ torch.diag(torch.logspace(0, 1.5, size)) @ right  # condition 32
    half = len(held.labels) // 2
    for name, (a, b) in {
        "before": (own["z_a"], own["z_b"]),
        "after": (own["z_a"] @ change, own["z_b"] @ change),
    }.items():
        hits = knn_predict(a[:half], held.labels[:half], a[half:], law.classes) == held.labels[half:]
        found[name] = {"knn": hits.double().mean().item(), "cos_dv": cos_bounds(a, b)["cos_dv"]}
    return found


MEASURES |= {"factor_information": factor_information}
