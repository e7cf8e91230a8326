"""What a critic that whitens its target sees of it: registers the measure `white`."""

import torch
from collapse import RANK, either
from harness import last
from measures import MEASURES, cos_bounds, embed

from hf_mi_ssl.evaluation.geometry import tracked_geometry
from hf_mi_ssl.mi import CRITICS


@torch.no_grad()
def white(model, law, held, initial, seed) -> dict:
    """Of the prediction and W(t − μ), as the critic compares them: cos-DV; and the effective rank of W(t − μ)."""
    found, critic = embed(model, held), model.config.critic
    p, t = found["p_a"], found.get("t_b", found["z_b"])
    left, right = CRITICS[critic](p, t)
    p, t = (left, right) if critic == "whitened_cosine" else (p, right[:, : t.shape[1]])
    return {"cos_dv": cos_bounds(p, t)["cos_dv"], "rank": tracked_geometry(t, t)["rank/effective_rank"]}


MEASURES |= {"white": white}


def raw_or_seen(result: dict) -> bool:
    """Whether either branch has collapsed, or the target as the critic whitens it."""
    return either(result) or result["white"]["rank"] < RANK


def predicted(result: dict) -> float:
    """cos-DV of the prediction and the target, both as the critic compares them."""
    return result["white"]["cos_dv"] if "white" in result else last("mi_predicted/cos_dv")(result)
