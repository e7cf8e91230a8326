"""What does a law that is not Gaussian do to the surrogates of the marginal term?

    python recipes/experiments/non_gaussian_laws.py

The covariance is fixed and the law varies; and h and z of trained models, at the start and at the end. Each error of a
surrogate is split in four, and a rule says from the embeddings alone whether the second order is valid.
"""

import itertools
import math
import sys
from argparse import Namespace
from collections.abc import Sequence
from functools import partial

import drawing
from harness import (
    TINY,
    Cell,
    Done,
    Job,
    Read,
    arms_table,
    at,
    main,
    mean,
    over_arms,
    replicated,
    replicates,
    share,
    train,
)
from laws import INFINITE_TO, LAWS, SKEWED
from reporting import Claim, Report, mean_interval, ours, paired
from surrogate_errors import DIMENSION, ORDERS, PAIRS, TAUS, law_errors

NAME = "non_gaussian_laws"
TRAINED = ("jmi", "sdmi", "barlow_twins")
COMMON = {"steps": 150, "batch_size": 128, "evaluations": 5, "source": {"name": "mixture", "dimension": 32}}
SYMMETRIC = ("gaussian", "laplace")  # uniform and student were left out
PARTS = {
    "non-Gaussianity": "non_gaussianity",
    "truncation": "truncation",
    "Isserlis": "isserlis",
    "wrong measure": "wrong_measure",
}
PLACES = [f"{space} {when}" for space in "hz" for when in ("start", "end")]


def jobs(seeds: Sequence[int], tiny: bool) -> list[Job]:
    laws = {f"law {law}": {"law": law, "pairs": 192 if tiny else PAIRS} for law in (LAWS[:2] if tiny else LAWS)}
    rows = {
        f"embeddings {method}": {
            "method": method,
            "columns": {"marginal": {"redundancy": 0.2}} if method == "barlow_twins" else {},
            "measure": ["gaussianity"],
        }
        for method in (TRAINED[:1] if tiny else TRAINED)
    }
    trained = replicated(NAME, train, rows, seeds, **COMMON | (TINY if tiny else {}))
    return replicated(NAME, law_errors, laws, seeds) + trained


def error(order: str, tau: float) -> Read:
    return lambda result: abs(result[f"{tau:g}"]["errors"][order][0])


def cells(result: dict) -> list[dict]:
    """All errors that were measured in a run, with what the rule says of them."""
    if "gaussianity" in result:
        return [cell for cell in result["gaussianity"].values() if "rule" in cell]
    return [result[f"{tau:g}"] for tau in TAUS]


def claims(done: Done) -> list[Claim]:
    def over_laws(laws: Sequence[str], read: Read):
        return over_arms(done, [f"law {law}" for law in laws], read)

    def slope(result: dict, start: float = 3.0, end: float = 6.0) -> float:
        low, high = (error("second_order", tau)(result) for tau in (start, end))
        return math.log(high / low) / math.log(end / start)

    def skewness(when: str):
        return replicates(done, "embeddings jmi", at("gaussianity", f"z {when}", "skewness"))

    every = [*(f"law {law}" for law in LAWS), *(f"embeddings {method}" for method in TRAINED)]
    valid = dict.fromkeys(every, lambda result: [cell["good"] for cell in cells(result) if cell["rule"]])
    right = dict.fromkeys(every, lambda result: [cell["rule"] == cell["good"] for cell in cells(result)])
    gain = over_laws(SKEWED, lambda r: error("second_order", 6)(r) - error("third_order", 6)(r))
    return [
        ours(
            f"laws with skewness ({', '.join(SKEWED)}): slope of log error of order 2 on log τ from 3 to 6, plus 3",
            mean_interval(over_laws(SKEWED, slope)) + 3,
            within=0.5,
            primary=True,
        ),
        ours(
            f"symmetric laws ({', '.join(SYMMETRIC)}): that slope plus 4",
            mean_interval(over_laws(SYMMETRIC, slope)) + 4,
            within=0.5,
            primary=True,
        ),
        ours(
            "the first from 6 to 12, nearer to the limit that is claimed (added)",
            mean_interval(over_laws(SKEWED, partial(slope, start=6.0, end=12.0))) + 3,
            within=0.5,
        ),
        ours(
            "the second from 6 to 12 (added)",
            mean_interval(over_laws(SYMMETRIC, partial(slope, start=6.0, end=12.0))) + 4,
            within=0.5,
        ),
        ours("order 3 is closer than order 2 for skewed laws (nats at τ = 6)", mean_interval(gain)),
        ours(
            "the validity rule: of what it calls valid, order 2 is within a tenth",
            share(done, valid),
            above=0.9,
            primary=True,
        ),
        ours("the rule judges right, of all cells", share(done, right), above=0.8),
        ours(
            "trained embeddings z of `jmi` are further from Gaussian than at the start: rise of skewness",
            paired(skewness("end"), skewness("start")),
        ),
    ]


def report(done: Done, args: Namespace) -> Report:
    return Report(
        NAME,
        "The paper derives its surrogates for embeddings that are jointly Gaussian, and leaves open what those do "
        "that are not. (Not fixed before the runs: which claims are primary was said when the numbers were known.)",
        f"six laws, white, D = {DIMENSION}, {PAIRS} pairs, and embeddings of models trained for {COMMON['steps']} "
        f"steps of {COMMON['batch_size']} pairs, Adam at 3e-3, seeds 0 to 4.",
        claims(done),
        f"{law_table(done)}\n\n{embedding_table(done)}",
        lambda: draw(done),
    )


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
        f"`{method}`, {place.replace(' ', ' at the ')}": (f"embeddings {method}", place)
        for method, place in itertools.product(TRAINED, PLACES)
    }

    def column(*keys: str | int, per_second: bool = False) -> Cell:
        def read(of_place: dict) -> float:
            return at(*keys)(of_place) / (of_place["second"] if per_second else 1)

        return lambda row: mean(done, rows[row][0], lambda result: read(result["gaussianity"][rows[row][1]]))

    columns = {
        "Mardia's skewness": column("skewness"),
        "Koziol's kurtosis (Gaussian: 1)": column("kurtosis"),
        "(M − M₂) / M₂'s variance term": column("errors", "second_order", 0, per_second=True),
    }
    columns |= {name: column("parts", key, per_second=True) for name, key in PARTS.items()}
    return (
        "## Embeddings of trained models\n\nIn their leading 8 directions (skewness, kurtosis) or whitened (errors, "
        "at τ = 4 λ_max, as shares of the variance term of order 2).\n\n"
        f"{arms_table('embeddings', list(rows), columns)}"
    )


def draw(done: Done):
    figure, axes = drawing.panels(1, 2, 4.4, 3.8)
    left, right = axes[0]
    for i, law in enumerate(LAWS):
        found = [mean(done, f"law {law}", error("second_order", tau)).value for tau in TAUS]
        line = drawing.MARKERS[i] + drawing.STYLES[i % 4]
        left.plot(TAUS, found, line, color=drawing.COLOURS[i], label=law)
    left.set(xscale="log", yscale="log", title="|M − M₂| (nats)", xlabel="τ / λ_max(Σ)")
    left.minorticks_off()
    left.set_xticks(TAUS, [f"{tau:g}" for tau in TAUS])
    for i, method in enumerate(TRAINED):
        found = {
            place.replace(" ", " at the "): mean(done, f"embeddings {method}", at("gaussianity", place, "skewness"))
            for place in PLACES
        }
        drawing.points(right, found, i, method, 0.2 * (i - 1))
    right.set(title="Mardia's skewness of\ntrained embeddings", xlabel="Gaussian: 0")
    drawing.legend(figure, axes)
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
