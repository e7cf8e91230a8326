"""The tables of non_gaussian_laws.py: the errors of surrogates, their four parts, and what the validity rule says."""

import itertools

from harness import Cell, Done, arms_table, at, mean, replicates
from laws import INFINITE_TO, LAWS
from reporting import Interval
from surrogate_errors import IN_LAMBDA, LAYERS, ORDERS, TAUS

TRAINED = ("jmi", "sdmi", "barlow_twins")
PARTS = {
    "non-Gaussianity": "non_gaussianity",
    "truncation": "truncation",
    "Isserlis": "isserlis",
    "wrong measure": "wrong_measure",
}
WHEN = {"start": 0, "end": -1}
# Of a layer at the start and at the end: the encoder starts as the same one in every method
PLACES = [
    (method, layer, when)
    for method, layer, when in itertools.product(TRAINED, LAYERS, WHEN)
    if (method, when) == (TRAINED[0], "start") or (layer, when) not in itertools.product(LAYERS[:2], ["start"])
]


def law_table(done: Done) -> str:
    rows = {
        f"{law}, τ = {tau:g}{' (∞)' * (tau <= INFINITE_TO.get(law, 0))}": (f"law {law}", f"{tau:g}")
        for law, tau in itertools.product(LAWS, TAUS)
    }

    def column(*keys: str | int) -> Cell:
        return lambda row: mean(done, rows[row][0], at(rows[row][1], *keys))

    def count(row: str) -> str:
        found = replicates(done, rows[row][0], at(rows[row][1])).values()
        return f"{sum(one['rule'] for one in found)} / {sum(one['good'] for one in found)}"

    columns = {"exact M": column("exact")}
    columns |= {
        f"M − {name}": column("errors", order, 0) for name, order in zip(("M₂", "M₃", "M_G"), ORDERS, strict=True)
    }
    columns |= {name: column("parts", key) for name, key in PARTS.items()} | {"valid by the rule / good": count}
    return (
        "## Laws of one covariance\n\nM is that of the sample. At (∞) the law itself has none: E_Q e^{xᵀy/τ} is "
        "infinite, for Laplace and Student at any τ, and what is read there belongs to the sample and its size.\n\n"
        f"{arms_table('law', list(rows), columns)}"
    )


def embedding_table(done: Done) -> str:
    rows = {
        f"{f'`{method}`' if when == 'end' or layer == 'z' else 'all'}, {layer} at the {when}": (method, layer, when)
        for method, layer, when in PLACES
    }

    def column(*keys: str | int, per_second: str = "") -> Cell:
        def read(of_place: dict) -> float:
            return at(*keys)(of_place) / (of_place[per_second]["second"] if per_second else 1)

        def cell(row: str) -> Interval:
            method, layer, when = rows[row]
            return mean(done, f"embeddings {method}", lambda r: read(r["gaussianity"][WHEN[when]][layer]))

        return cell

    columns = {"Mardia's skewness": column("skewness"), "Koziol's kurtosis (Gaussian: 1)": column("kurtosis")}
    for key in (f"{times:g}" for times in IN_LAMBDA):
        columns[f"M − M₂ at {key} λ_max"] = column(key, "errors", "second_order", 0, per_second=key)
    columns |= {name: column("4", "parts", key, per_second="4") for name, key in PARTS.items()}
    return (
        "## Embeddings of trained models\n\nOf the encoder's first layer, of h and of z: in their leading 8 "
        "directions (skewness, kurtosis) or whitened (errors, and at 4 λ_max their four parts, as shares of the "
        f"variance term of order 2).\n\n{arms_table('embeddings', list(rows), columns)}"
    )
