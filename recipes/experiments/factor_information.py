"""I(Z; factor), exactly, where every input is known: registers the measure `factor_information`."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from measures import MEASURES, cos_bounds, embed
from sources import all_inputs
from torch import Tensor

from hf_mi_ssl.evaluation import knn_predict, ridge_probe

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
    """I(Z; content) and I(Z; style) of h and z, exactly; and what invertible maps of z do (H3)."""
    bits = int(held.factors["style"].max()).bit_length()
    inputs, found = all_inputs(bits), {}
    all_views = embed(model, inputs)
    for space in ("h", "z"):
        place = F.normalize(all_views[f"{space}_a"], dim=1)
        found[space] = information(place, inputs.factors, seed)
    own = embed(model, held)
    half = len(held.labels) // 2
    for name, change in invertible(own["z_a"], seed).items():
        a, b = change(own["z_a"]), change(own["z_b"])
        hits = knn_predict(a[:half], held.labels[:half], a[half:], law.classes) == held.labels[half:]
        found[name] = {"knn": hits.double().mean().item(), "cos_dv": cos_bounds(a, b)["cos_dv"]}
        probe = ridge_probe(a[:half], held.labels[:half], a[half:], held.labels[half:], law.classes, 0)
        found[name]["linear"] = probe.accuracy
    return found


def invertible(z: Tensor, seed: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """Maps that leave MI as it is: none, a random linear one of condition 32, and one that bends: in units of the
    spread of z, (u, v) -> (u, v + f(u)) and (u, v) -> (u + g(v), v) with random networks f and g."""
    generator = torch.Generator().manual_seed(seed)
    size = z.shape[1]
    left, right = (torch.linalg.qr(torch.randn(size, size, generator=generator)).Q for _ in range(2))
    linear = left @ torch.diag(torch.logspace(0, 1.5, size)) @ right
    mean, spread, half = z.mean(0), z.std(0).square().mean().sqrt().clamp_min(1e-12), size // 2
    weights = [torch.randn(half, 64, generator=generator) for _ in range(2)]
    back = [torch.randn(64, half, generator=generator) / 4 for _ in range(2)]

    def bent(z: Tensor) -> Tensor:
        u, v = ((z - mean) / spread).split(half, 1)
        v = v + (u @ weights[0]).sin() @ back[0]
        return torch.cat([u + (v @ weights[1]).sin() @ back[1], v], 1)

    return {"before": lambda z: z, "after": lambda z: z @ linear, "bent": bent}


MEASURES |= {"factor_information": factor_information}
