"""What do the regularisers of JMI do: taken away, or weighed from a tenth to ten times?

    python recipes/experiments/regulariser_weights.py

The exact marginal term of `jmi`, the redundancy of `barlow_twins`, the variance and the covariance of `vicreg`.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence

import drawing
from collapse import DEFINITION, collapsed, fewest, rank_and_kinds
from harness import BARE, TINY, Done, Job, arms_table, last, main, mean, replicated, replicates, train
from reporting import Claim, Interval, Report, extension, literature, ours, paired, paper

NAME = "regulariser_weights"
EARLY = [5, 10, 15, 20, 30, 40, 60, 80, 100, 120, 140, 160]  # collapse comes soon
COMMON = {"source": {"name": "mixture", "dimension": 32}, "steps": 160, "batch_size": 128, "evaluations": EARLY}
TEMPERATURE = 0.5
FACTORS = (0.0, 0.1, 1.0, 10.0)
KINDS = ("jmi exact", "barlow redundancy", "vicreg variance", "vicreg covariance")
VICREG = {"negative_mse": 25.0}, {"variance": 25.0, "covariance": 1.0}
CHANGED = "(changed: primary, since `jmi` alone is less than the paper says)"
WITHOUT_BOTH = "vicreg both ×0"


def arms() -> dict[str, dict]:
    """Row and columns, by regulariser and factor."""

    def arm(method: str, **columns) -> dict:
        return {"method": method, "columns": BARE | columns}

    found = {WITHOUT_BOTH: arm("vicreg", joint=VICREG[0], marginal={})}
    for factor in FACTORS:
        found[f"jmi exact ×{factor:g}"] = arm("jmi", temperature=TEMPERATURE, marginal={"exact": factor})
        found[f"barlow redundancy ×{factor:g}"] = arm("barlow_twins", marginal={"redundancy": 0.2 * factor})
        for term, weight in VICREG[1].items():
            marginal = VICREG[1] | {term: weight * factor}
            found[f"vicreg {term} ×{factor:g}"] = arm("vicreg", joint=VICREG[0], marginal=marginal)
    return found


def jobs(seeds: Sequence[int], tiny: bool) -> list[Job]:
    found = {"jmi exact ×0": arms()["jmi exact ×0"]} if tiny else arms()
    return replicated(NAME, train, found, seeds, **COMMON | (TINY if tiny else {}))


def claims(done: Done) -> list[Claim]:
    def more(first: str, second: str) -> Interval:
        return paired(replicates(done, first, fewest), replicates(done, second, fewest))

    cost = paired(*(replicates(done, arm, last("mi/cos_dv")) for arm in ("jmi exact ×1", "jmi exact ×10")))
    return [
        paper(
            "JMI without its marginal term collapses: share of runs",
            collapsed(done, "jmi exact ×0"),
            above=0.5,
            primary=True,
        ),
        *(
            extension(f"{words} collapses {CHANGED}", collapsed(done, arm), above=0.5, primary=True)
            for words, arm in (
                ("Barlow Twins without its redundancy term", "barlow redundancy ×0"),
                ("VICReg without its covariance term", "vicreg covariance ×0"),
                ("VICReg without both of its terms", WITHOUT_BOTH),
            )
        ),
        literature(
            "VICReg without its variance term collapses",
            collapsed(done, "vicreg variance ×0"),
            above=0.5,
            cited="2105.04906",
        ),
        literature(
            "VICReg without its covariance term has fewer dimensions",
            more("vicreg covariance ×1", "vicreg covariance ×0"),
            cited="2105.04906",
        ),
        literature(
            "Barlow Twins without its redundancy term has fewer dimensions",
            more("barlow redundancy ×1", "barlow redundancy ×0"),
            cited="2103.03230",
        ),
        ours("ten times the marginal term costs `jmi` cos-DV (nats)", cost),
    ]


def report(done: Done, args: Namespace) -> Report:
    return Report(
        NAME,
        "The paper: the regularisers of JMI are surrogates of the marginal term, without which it collapses.",
        f"`jmi`, `barlow_twins` and `vicreg` on mixtures of ten clusters in 32 dimensions, heads without batch norm, "
        f"τ = {TEMPERATURE:g} for `jmi`, {COMMON['steps']} steps of {COMMON['batch_size']} pairs, Adam at 3e-3, "
        "seeds 0 to 4; ×1 of `barlow_twins` is a redundancy of 0.2 (published: 0.0051, of 8,192 dimensions), of the "
        f"others the row's weight. {DEFINITION}",
        claims(done),
        tables(done),
        lambda: draw(done),
    )


def tables(done: Done) -> str:
    def columns(cell) -> dict:
        return {f"×{factor:g}": lambda kind, factor=factor: cell(f"{kind} ×{factor:g}") for factor in FACTORS}

    ranks = arms_table("regulariser", KINDS, columns(lambda arm: rank_and_kinds(done, arm)))
    nats = arms_table("regulariser", KINDS, columns(lambda arm: mean(done, arm, last("mi/cos_dv"))))
    return (
        "## Effective rank\n\nOf 16, how many of the runs collapsed to what, and the median step at which that was "
        f"first seen.\n\n{ranks}\n\n`vicreg` without both of its terms: {rank_and_kinds(done, WITHOUT_BOTH)}.\n\n"
        f"## cos-DV\n\n{nats}"
    )


def draw(done: Done):
    figure, axes = drawing.panels(1, 2, 4.6, 4.0)
    for axis, read, title in zip(
        axes[0], (fewest, last("mi/cos_dv")), ("effective rank of z", "held-out cos-DV (nats)"), strict=True
    ):
        for i, kind in enumerate(KINDS):
            found = [mean(done, f"{kind} ×{factor:g}", read) for factor in FACTORS]
            most = [collapsed(done, f"{kind} ×{factor:g}").value > 0.5 for factor in FACTORS]
            drawing.bars(axis, range(len(FACTORS)), found, i, kind, hollow=most)
        axis.set_xticks(range(len(FACTORS)), [f"{factor:g}" for factor in FACTORS])
        axis.set(title=title, xlabel="times the regulariser's weight")
    drawing.legend(figure, axes)
    figure.suptitle("hollow: most runs collapsed, to few dimensions or, whatever its rank, to a point", fontsize=9)
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
