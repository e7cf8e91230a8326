"""What is measured of a model: MI of its branches, geometry, accuracies, and by name what one experiment asks for."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from views import Source, Views

from hf_mi_ssl.errors import UserError
from hf_mi_ssl.estimators import ESTIMATORS, TRACKING_TEMPERATURE, track
from hf_mi_ssl.estimators.fixed import ESTIMATORS as FIXED
from hf_mi_ssl.estimators.fixed_critic import cross_fit_all
from hf_mi_ssl.evaluation import knn_predict, ridge_probe
from hf_mi_ssl.evaluation.geometry import tracked_geometry
from hf_mi_ssl.mi import CRITICS, bounds
from hf_mi_ssl.mi.critics import score_matrix

DATA = 7919  # separates the seeds of data from those of weights


class Curves:
    """Numbers by name, and the steps at which they were measured."""

    def __init__(self):
        self.values: dict[str, list[float]] = {"step": []}
        self.raised: dict[str, int] = {}

    def add(self, step: int, numbers: dict[str, float]) -> None:
        self.values["step"].append(step)
        for name, number in numbers.items():
            self.values.setdefault(name, []).append(number)

    def kept(self) -> dict[str, list[float]]:
        """Without the ends of intervals, which only the alarm asks for."""
        ends = ("/low", "/high", "/ceiling")
        return {name: numbers for name, numbers in self.values.items() if not name.endswith(ends)}

    def record(self, step: int) -> dict[str, float]:
        """The last numbers as a line of `metrics.jsonl`."""
        return {"step": step} | {f"eval/{name}": numbers[-1] for name, numbers in self.values.items()}


@torch.no_grad()
def embed(model: nn.Module, views: Views) -> dict[str, Tensor]:
    """h and z of both views; where there are, t of the target's own branch and the prediction p."""
    model.eval()
    found = {}
    own = model.branches.get("target")
    sides = {"a": views.a, "b": views.b}
    for side, view in sides.items():
        two = own and _sizes(model.encoder) and str(view[0].numel()) not in _sizes(model.encoder)
        encoder, projector = own if two else model.branches["online"]  # f does not take what g takes
        found[f"h_{side}"] = encoder(view).pooler_output.flatten(1)
        found[f"z_{side}"] = projector(found[f"h_{side}"])
    if own:
        encoder, projector = own
        found["t_b"] = projector(encoder(views.b).pooler_output.flatten(1))
    if getattr(model, "predictor", None) is not None:
        found["p_a"] = model.predictor(found["z_a"])
    model.train()
    return found


def _sizes(encoder: nn.Module) -> list[str]:
    return list(getattr(encoder, "towers", {}))


def follow(model: nn.Module, held: Views, labelled: Views, law: Source, probes: bool) -> dict[str, float]:
    """What is followed in training, on the same held-out pairs: MI of (f_θ, f_θ) and of (f_θ, g_ξ), and geometry."""
    found = embed(model, held)
    numbers = {}
    for name, estimate in track(found["z_a"], found["z_b"], "held-out").items():
        numbers |= {f"mi/{name}": estimate.value, f"mi/{name}/ceiling": estimate.ceiling}
        numbers |= {f"mi/{name}/low": estimate.low, f"mi/{name}/high": estimate.high}
    for name, a in (("mi_target/cos_dv", "z_a"), ("mi_predicted/cos_dv", "p_a")):
        if a in found and "t_b" in found:
            numbers[name] = cos_bounds(found[a], found["t_b"])["cos_dv"]
    numbers |= tracked_geometry(found["z_a"], found["z_b"])
    if "t_b" in found:
        numbers["rank/effective_rank_target"] = tracked_geometry(found["t_b"], found["t_b"])["rank/effective_rank"]
    if probes:
        numbers |= accuracies(model, held, labelled, law)
    return numbers


def cos_bounds(a: Tensor, b: Tensor) -> dict[str, float]:
    """cos-DV and InfoNCE at the tracking temperature, of all pairs at once."""
    scores = score_matrix(CRITICS["cosine"], a, b) / TRACKING_TEMPERATURE
    return {"cos_dv": bounds.dv(scores).item(), "info_nce": bounds.info_nce(scores).item()}


def cheap(model: nn.Module, held: Views) -> dict[str, float]:
    """Those of (z_a, z_b); of (z_a, t_b) where the target has a branch, and (p_a, t_b) where there is a predictor."""
    found = embed(model, held)
    numbers = cos_bounds(found["z_a"], found["z_b"])
    for of, a in (("target", "z_a"), ("predicted", "p_a")):
        if a in found and "t_b" in found:
            numbers |= {f"{name}_{of}": value for name, value in cos_bounds(found[a], found["t_b"]).items()}
    return numbers


def accuracies(model: nn.Module, held: Views, labelled: Views, law: Source) -> dict[str, float]:
    """Linear (ridge) accuracy and kNN of h and of z, on held-out views."""
    train, test = embed(model, labelled), embed(model, held)
    numbers = {}
    for space in ("h", "z"):
        a, b = train[f"{space}_a"], test[f"{space}_a"]
        try:
            numbers[f"linear_{space}"] = ridge_probe(a, labelled.labels, b, held.labels, law.classes, 0).accuracy
            hits = knn_predict(a, labelled.labels, b, law.classes) == held.labels
            numbers[f"knn_{space}"] = hits.double().mean().item()
        except UserError:  # embeddings that are not finite
            numbers |= {f"linear_{space}": math.nan, f"knn_{space}": math.nan}
    return numbers


def every_estimator(model: nn.Module, law: Source, held: Views, initial: dict, seed: int) -> dict:
    """Every fixed-critic and closed-form estimate of (z_a, z_b), of pairs that nothing was followed on."""
    fresh = embed(model, law.held_out(2 * len(held.a), torch.Generator().manual_seed(seed + 2 * DATA)))
    a, b = fresh["z_a"], fresh["z_b"]
    found = cross_fit_all({name: make() for name, make in FIXED.items()}, a, b)
    for name in ("gaussian", "gaussian_copula"):
        try:
            found[name] = ESTIMATORS[name]().estimate(a, b)
        except UserError:
            continue
    return {name: [one.value, one.low, one.high, one.ceiling] for name, one in found.items()}


def separation(model: nn.Module, law: Source, held: Views, initial: dict, seed: int) -> dict:
    """Silhouette, and Fisher ratio tr Σ_between / tr Σ_within, of the label in x, in z at the start, and in z."""
    from sklearn.metrics import calinski_harabasz_score, silhouette_score

    found, y = {}, held.labels.numpy()
    places = {"x": held.a.flatten(1), "start": initial["z_a"], "z": embed(model, held)["z_a"]}
    for name, place in places.items():
        place = place.double().numpy()
        fisher = calinski_harabasz_score(place, y) * (law.classes - 1) / (len(y) - law.classes)
        found[name] = {"silhouette": float(silhouette_score(place, y)), "fisher": float(fisher)}
    return found


MEASURES: dict[str, Callable[..., Any]] = {"estimators": every_estimator, "separation": separation}


def rounded(value: Any, digits: int = 5) -> Any:
    """Numbers to so many digits, and None for those that JSON does not know."""
    if isinstance(value, dict):
        return {key: rounded(one, digits) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(one, digits) for one in value]
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    return value
