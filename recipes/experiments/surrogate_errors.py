"""Errors of surrogates of the marginal term: of samples of a law and, as the measure `gaussianity`, of embeddings."""

import torch
from laws import draw_law
from measures import MEASURES, embed, rounded

from hf_mi_ssl.errors import UserError
from hf_mi_ssl.evaluation import koziol_kurtosis, mardia_skewness
from hf_mi_ssl.evaluation.spectrum import leading
from hf_mi_ssl.evaluation.surrogates import LARGEST_SHARE, LARGEST_SPREAD, surrogate_rows

TAUS = (1.5, 3.0, 6.0, 12.0)
DIMENSION, PAIRS = 5, 768
ORDERS = ("second_order", "third_order", "gaussian")
IN_LAMBDA = (4.0, 8.0, 16.0)  # temperatures of embeddings, in λ_max(Σ); the first is the validity rule's own boundary
LAYERS = ("hidden", "h", "z")


def law_errors(law: str, seed: int, pairs: int = PAIRS) -> dict:
    """Surrogates of the marginal term of a law, white, both views equal, over temperatures; λ_max(Σ) = 1."""
    x = draw_law(law, pairs, DIMENSION, torch.Generator().manual_seed(seed))
    found = {f"{row.temperature:g}": of_row(row) for row in surrogate_rows(x, x, "whitened", TAUS)}
    return rounded(
        found | {"skewness": mardia_skewness(x), "kurtosis": koziol_kurtosis(x) / (3 * DIMENSION * (DIMENSION + 2))}
    )


def of_row(row) -> dict:
    """What is kept of a row: the exact term, errors and their standard errors, the four parts, verdicts on order 2."""
    second = row.values["second_order"].value - row.values["first_order"].value
    error = row.errors["second_order"].value
    return {
        "exact": row.exact.value,
        "second": second,
        "errors": {name: [e.value, e.standard_error] for name, e in row.errors.items() if name in ORDERS},
        "parts": {name: part.value for name, part in row.parts.items()},
        "rule": bool(row.spread < LARGEST_SPREAD and abs(row.skewness) <= LARGEST_SHARE),
        "good": bool(abs(error) <= LARGEST_SHARE * second),
    }


def gaussianity(model, law, held, initial, seed) -> dict:
    """How far the encoder's first layer, h and z are from Gaussian, and the errors of order 2 there."""
    views = embed(model, held)
    first = model.encoder.towers[str(held.a[0].numel())][:2]
    with torch.no_grad():
        views |= {"hidden_a": first(held.a), "hidden_b": first(held.b)}
    found = {}
    for layer in LAYERS:
        a, b = views[f"{layer}_a"], views[f"{layer}_b"]
        x = leading(a, 8)
        d = x.shape[1]
        numbers = {"skewness": mardia_skewness(x), "kurtosis": koziol_kurtosis(x) / (3 * d * (d + 2)), "dimension": d}
        try:
            rows = surrogate_rows(a, b, "whitened", IN_LAMBDA)
            numbers |= {f"{row.temperature:g}": of_row(row) for row in rows}
        except UserError as error:  # collapsed
            numbers["refused"] = str(error)
        found[layer] = numbers
    return found


MEASURES |= {"gaussianity": gaussianity}
