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
    """How far h and z are from Gaussian, at the start and at the end, and the error of order 2 there, at 4 λ_max."""
    found = {}
    for when, views in (("start", initial), ("end", embed(model, held))):
        for space in ("h", "z"):
            a, b = views[f"{space}_a"], views[f"{space}_b"]
            x = leading(a, 8)
            d = x.shape[1]
            kurtosis = koziol_kurtosis(x) / (3 * d * (d + 2))
            numbers = {"skewness": mardia_skewness(x), "kurtosis": kurtosis, "dimension": d}
            try:
                numbers |= of_row(surrogate_rows(a, b, "whitened", [4.0])[0])
            except UserError as error:  # collapsed
                numbers["refused"] = str(error)
            found[f"{space} {when}"] = numbers
    return found


MEASURES |= {"gaussianity": gaussianity}
