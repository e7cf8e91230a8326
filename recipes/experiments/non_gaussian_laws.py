"""What does a law that is not Gaussian do to the surrogates of the marginal term?

    python recipes/experiments/non_gaussian_laws.py

The covariance is fixed and the law varies; and the first layer, h and z of models along their training. Each error of
a surrogate is split in four, and a rule says from the embeddings alone whether the second order is valid.
"""

import itertools
import math
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence

import drawing
from harness import (
    TINY,
    Done,
    Job,
    Read,
    at,
    main,
    mean,
    over_arms,
    replicated,
    replicates,
    share,
    train,
    twice,
)
from law_tables import PARTS, TRAINED, WHEN, embedding_table, law_table
from laws import INFINITE_TO, LAWS, SKEWED
from reporting import Claim, Interval, Report, mean_interval, ours, paired
from surrogate_errors import DIMENSION, IN_LAMBDA, LAYERS, PAIRS, TAUS, law_errors

from hf_mi_ssl.evaluation.surrogates import LARGEST_SHARE, LARGEST_SPREAD

NAME = "non_gaussian_laws"
COMMON = {"steps": 150, "batch_size": 128, "evaluations": 5, "source": {"name": "mixture", "dimension": 32}}
FINITE = [law for law in LAWS if INFINITE_TO.get(law, 0) < 3]  # whose own M exists where slopes are read


def jobs(seeds: Sequence[int], tiny: bool) -> list[Job]:
    laws = {f"law {law}": {"law": law, "pairs": 192 if tiny else PAIRS} for law in (LAWS[:2] if tiny else LAWS)}
    rows = {
        f"embeddings {method}": {
            "method": method,
            "columns": {"marginal": {"redundancy": 0.2}} if method == "barlow_twins" else {},
            "along": ["gaussianity"],
        }
        for method in (TRAINED[:1] if tiny else TRAINED)
    }
    trained = replicated(NAME, train, rows, twice(seeds), **COMMON | (TINY if tiny else {}))
    return replicated(NAME, law_errors, laws, twice(seeds)) + trained


def error(order: str, tau: float) -> Read:
    return lambda result: abs(result[f"{tau:g}"]["errors"][order][0])


def of_law(result: dict) -> list[dict]:
    """The errors that were measured of a law, with what the rule says of them."""
    return [result[f"{tau:g}"] for tau in TAUS]


def of_embeddings(method: str) -> Callable[[dict], list[dict]]:
    """The same of every layer and evaluation, at temperatures where the rule may say yes; what all methods start with
    is counted once."""

    def read(result: dict) -> list[dict]:
        measured, found = result["gaussianity"], []
        for i, layer in itertools.product(range(len(measured)), LAYERS):
            if i or layer == "z" or method == TRAINED[0]:
                cells = measured[i][layer]
                found += [cells[key] for key in (f"{times:g}" for times in IN_LAMBDA[1:]) if key in cells]
        return found

    return read


def valid(read: Callable[[dict], list[dict]]) -> Read:
    return lambda result: [cell["good"] for cell in read(result) if cell["rule"]]


def right(read: Callable[[dict], list[dict]]) -> Read:
    return lambda result: [cell["rule"] == cell["good"] for cell in read(result)]


def claims(done: Done) -> list[Claim]:
    def exponent(law: str, start: float, end: float) -> Interval:
        def read(result: dict) -> float:
            low, high = (error("second_order", tau)(result) for tau in (start, end))
            return math.log(high / low) / math.log(end / start)

        return mean(done, f"law {law}", read)

    def claim(law: str, start: float, end: float, note: str, primary: bool = False) -> Claim:
        order = 3 if law in SKEWED else 4
        whose = law if law in FINITE else f"{law}, whose own M is infinite, so that it is the sample's"
        if law in FINITE and INFINITE_TO.get(law, 0) > 2:
            whose = f"{law}, whose own M is infinite up to τ = {INFINITE_TO[law]:.1f}"
        power = {3: "τ⁻³", 4: "τ⁻⁴"}[order]
        text = f"{whose}: the size of M − M₂ falls as {power} from τ = {start:g} to {end:g}: exponent, plus {order}"
        return ours(f"{text} ({note})", exponent(law, start, end) + order, within=0.5, primary=primary)

    def skewness(when: str):
        return replicates(done, "embeddings jmi", at("gaussianity", WHEN[when], "z", "skewness"))

    laws = {f"law {law}": of_law for law in LAWS}
    embeddings = {f"embeddings {method}": of_embeddings(method) for method in TRAINED}
    gain = over_arms(
        done,
        [f"law {law}" for law in SKEWED],
        lambda result: error("second_order", 6)(result) - error("third_order", 6)(result),
    )
    times = " and ".join(f"{times:g}" for times in IN_LAMBDA[1:])
    return [
        *(claim(law, 3, 6, "changed: means of laws that disagree were read", primary=law in FINITE) for law in LAWS),
        *(claim(law, 6, 12, "nearer to the limit that is claimed; added") for law in FINITE),
        ours("order 3 is closer than order 2 for skewed laws (nats at τ = 6)", mean_interval(gain)),
        ours(
            "the validity rule, of laws: what it calls valid is good (changed: embeddings at 4 λ_max were read with "
            "them)",
            share(done, {arm: valid(read) for arm, read in laws.items()}),
            above=0.9,
            primary=True,
        ),
        ours(
            "the validity rule, of laws, judges right",
            share(done, {arm: right(read) for arm, read in laws.items()}),
            above=0.8,
        ),
        ours(
            f"the rule, of embeddings of every layer and evaluation, τ of {times} λ_max: what it calls valid is good "
            "(added)",
            share(done, {arm: valid(read) for arm, read in embeddings.items()}),
            above=0.9,
        ),
        ours(
            "the rule, of embeddings, judges right (added)",
            share(done, {arm: right(read) for arm, read in embeddings.items()}),
            above=0.8,
        ),
        ours(
            "trained embeddings z of `jmi` are further from Gaussian than at the start: rise of skewness",
            paired(skewness("end"), skewness("start")),
        ),
    ]


def report(done: Done, args: Namespace) -> Report:
    return Report(
        NAME,
        "The paper derives its surrogates for embeddings that are jointly Gaussian, and leaves open what those do "
        "that are not.",
        f"six laws, white, D = {DIMENSION}, {PAIRS} pairs, and embeddings of models trained for {COMMON['steps']} "
        f"steps of {COMMON['batch_size']} pairs, Adam at 3e-3, `barlow_twins` with a redundancy of 0.2, seeds 0 to 9 "
        "(changed: five could not tell). The "
        "rule: order 2 is valid where λ_max(Σ)/τ is below "
        f"{LARGEST_SPREAD:g} and |κ₃/6τ³| at most {LARGEST_SHARE:g} of κ₂/2τ²; good is where |M − M₂| is at most that "
        "share of κ₂/2τ². Of the tails of Laplace's and Student's laws M is infinite at every τ, of the rectified one "
        "up to τ = 2.9. Which claims are primary was said when the numbers were known.",
        claims(done),
        f"{law_table(done)}\n\n{embedding_table(done)}",
        lambda: draw(done),
    )


def draw(done: Done):
    figure, axes = drawing.panels(2, len(LAYERS), 4.2, 3.6)
    (left, split, along), others = axes
    for i, law in enumerate(LAWS):
        drawing.bars(left, TAUS, [geometric(done, law, tau) for tau in TAUS], i, law)
    left.set(xscale="log", yscale="log", title="|M − M₂| (nats, geometric mean)", xlabel="τ / λ_max(Σ)")
    left.minorticks_off()
    left.set_xticks(TAUS, [f"{tau:g}" for tau in TAUS])
    for i, (name, key) in enumerate(PARTS.items()):
        parts = {law: mean(done, f"law {law}", at("3", "parts", key)) for law in LAWS}
        drawing.points(split, parts, i, name, 0.16 * (i - 1.5))
    split.set_xscale("symlog", linthresh=0.1)
    split.set(title="four parts of errors at τ = 3 (nats)")
    for axis in (left, split):
        drawing.own_legend(axis)
    reads = {(axis, layer): at("skewness") for axis, layer in zip(others, LAYERS, strict=True)}
    for (axis, layer), read in (reads | {(along, "z"): part_of_second}).items():
        for i, method in enumerate(TRAINED):
            runs = [r for r in replicates(done, f"embeddings {method}", dict).values() if "gaussianity" in r]
            curves = [[read(one[layer]) for one in run["gaussianity"]] for run in runs]
            if runs:
                drawing.curve(axis, runs[0]["curves"]["step"], curves, i, method)
        axis.set(
            title=f"Mardia's skewness of {'the first layer' if layer == 'hidden' else layer}\n(Gaussian: 0)",
            xlabel="step",
        )
    along.set(title=f"M − M₂ of z at {IN_LAMBDA[-1]:g} λ_max,\nas a share of κ₂/2τ²", xlabel="step")
    drawing.own_legend(others[-1])
    return figure


def part_of_second(measured: dict) -> float | None:
    """The error of order 2 beside its variance term, at the highest temperature; None where z had collapsed."""
    cell = measured.get(f"{IN_LAMBDA[-1]:g}")
    return cell and cell["errors"]["second_order"][0] / cell["second"]


def geometric(done: Done, law: str, tau: float) -> Interval:
    """The error of order 2 on a log axis: of its logarithm the mean and the interval."""
    found = mean(done, f"law {law}", lambda result: math.log(error("second_order", tau)(result)))
    return Interval(*(math.exp(min(end, 700)) for end in (found.value, found.low, found.high)), found.n)


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
