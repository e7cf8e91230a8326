"""Why does more mutual information not mean more accuracy?

    python recipes/experiments/information_without_accuracy.py

A generator of content, shared style and private noise, with exact I(Z; content) and I(Z; style), and four hypotheses:
H1 the bound is at its ceiling; H2 what is added is style; H3 an invertible map changes what a probe reads, not MI; H4
the head loses what the representation has.
"""

import itertools
import sys
from argparse import Namespace
from collections.abc import Sequence

import drawing
from explanations import (
    LINEAR,
    PREDICTORS,
    TOGETHER,
    attained,
    ceiling,
    partial_r2,
    rank_correlations,
    source_of,
    within_laws,
)
from factor_information import RESOLUTION
from harness import (
    TINY,
    Done,
    Job,
    Read,
    Replicates,
    arms_table,
    at,
    last,
    main,
    means,
    over_arms,
    replicated,
    shares,
    train,
    truth_of,
)
from reporting import Claim, Interval, Report, literature, mean_interval, ours, paired, table

NAME = "information_without_accuracy"
INVERTIBLE, HEAD = "1907.13625", "2002.05709"
SURVIVAL, BITS = (0.0, 0.5, 1.0), 3
GRID = [(1.0, 1), *((p, BITS) for p in SURVIVAL)]  # survival and bits of the style
ARMS = {
    "jmi τ .1": {"columns": {"temperature": 0.1}},
    "jmi τ .5": {"columns": {"temperature": 0.5}},
    "sdmi": {"columns": {}},
    "simsiam": {"columns": {"predictor_hidden_size": 64, "projector_hidden_size": 64, "projection_size": 16}},
}
BOUNDS = list(ARMS)[:3]  # the arms that ascend a bound
COMMON = {"steps": 150, "batch_size": 128, "evaluations": 5, "probes": True, "measure": ["factor_information"]}


def name_of(p: float, bits: int, arm: str) -> str:
    return f"style p={p:g} B={bits}, {arm}"


ALL = [name_of(*setting, arm) for setting, arm in itertools.product(GRID, ARMS)]


def jobs(seeds: Sequence[int], tiny: bool) -> list[Job]:
    grid, some = (GRID[::3], list(ARMS)[:1]) if tiny else (GRID, list(ARMS))
    arms = {
        name_of(*setting, arm): ARMS[arm] | {"method": arm.split()[0], "source": source_of(*setting)}
        for setting, arm in itertools.product(grid, some)
    }
    return replicated(NAME, train, arms, seeds, **COMMON | (TINY if tiny else {}))


def styled(done: Done, p: float, read: Read) -> Replicates:
    """Of the arms that ascend a bound, where a style of three bits survives with probability p."""
    return over_arms(done, [name_of(p, BITS, arm) for arm in BOUNDS], read)


def at_ceiling(p: float, bits: int) -> str:
    truth, most = truth_of(source_of(p, bits)), ceiling(p, bits)
    of = f"the {most:.2f} of clusters on a simplex"
    return f"H1, B = {bits}, p = {p:g}, views of {truth:.2f} nats: cos-DV is at its ceiling, {of}: ratio (changed)"


def of_ceiling(done: Done, p: float, bits: int) -> Interval:
    """cos-DV over the most that it could be, of the arms that ascend a bound."""
    found = over_arms(done, [name_of(p, bits, arm) for arm in BOUNDS], PREDICTORS["cos-DV"])
    return mean_interval({seed: value and value / ceiling(p, bits) for seed, value in found.items()})


def claims(done: Done, correlation: dict[str, Replicates]) -> list[Claim]:
    def change(read: Read) -> Interval:
        return paired(styled(done, 1.0, read), styled(done, 0.0, read))

    def differ(first: Read, second: Read) -> Interval:
        return paired(over_arms(done, ALL, first), over_arms(done, ALL, second))

    def mapped(name: str, change: str = "after") -> Interval:
        return differ(*(at("factor_information", when, name) for when in ("before", change)))

    return [
        ours(
            "a surviving style raises cos-DV (nats, p = 1 less p = 0, three bits)",
            change(PREDICTORS["cos-DV"]),
            primary=True,
        ),
        ours("H2: what is added is style: I(z; style)", change(PREDICTORS["I(z; style)"]), primary=True),
        ours(
            "H2: and accuracy does not rise: fall of linear accuracy of z",
            -change(LINEAR["z"]),
            above=-0.01,
            primary=True,
        ),
        *(ours(at_ceiling(p, bits), of_ceiling(done, p, bits), above=0.9) for p, bits in GRID if attained(p, bits)),
        literature(
            "H3: a linear invertible map, which leaves MI as it is, lowers kNN accuracy",
            mapped("knn"),
            cited=INVERTIBLE,
        ),
        ours("H3: and cos-DV (nats)", mapped("cos_dv")),
        ours(
            "H3: what it changes, a linear probe undoes: fall of linear accuracy (added)",
            mapped("linear"),
            within=0.02,
        ),
        literature(
            "H3: a map that bends lowers linear accuracy too (added)", mapped("linear", "bent"), cited=INVERTIBLE
        ),
        literature(
            "H4: h holds more of the content than z: I(h; content) − I(z; content) (nats; changed: both centred)",
            differ(at("factor_information", "h", "content"), PREDICTORS["I(z; content)"]),
            cited=HEAD,
        ),
        literature("H4: linear accuracy of h less that of z", differ(LINEAR["h"], LINEAR["z"]), cited=HEAD),
        ours(
            "I(z; content) ranks runs by accuracy better than cos-DV does: difference of Spearman's correlations",
            paired(correlation["I(z; content)"], correlation["cos-DV"]),
        ),
        ours(
            "effective rank ranks runs by accuracy better than cos-DV does: difference",
            paired(correlation["log effective rank"], correlation["cos-DV"]),
        ),
        ours(
            "of methods that see the same views, cos-DV does rank accuracy of z: Spearman's correlation, mean over "
            "the four laws of views (added, when all had been looked at)",
            mean_interval(within_laws(done, PREDICTORS["cos-DV"]), -1, 1),
            above=0.5,
        ),
        ours(
            "of methods that see the same views, cos-DV ranks accuracy of h too (added)",
            mean_interval(within_laws(done, PREDICTORS["cos-DV"], "h"), -1, 1),
            above=0.5,
        ),
    ]


def report(done: Done, args: Namespace) -> Report:
    correlation = rank_correlations(done)
    return Report(
        NAME,
        "The paper finds the highest mutual information without the highest accuracy, and leaves open why. Here p "
        "says how much style the augmentation leaves: that can explain more MI with less accuracy "
        "between augmentations; methods that see the same views are read apart.",
        "content (8 values), style of B bits that survives with probability p, private nuisance, all discrete: 16 "
        "settings, 8 to 64 symbols for 16 dimensions; style and nuisance are written 1.5 times as large as content, "
        "as colour is in images, which favours H2; Z, on the sphere and centred, is read with noise "
        f"σ = {RESOLUTION} of its spread, so that its information is finite, by its density. {COMMON['steps']} "
        f"steps of {COMMON['batch_size']} pairs, Adam at 3e-3, seeds 0 to 4. H1 was first read of all at once, "
        "with the ceiling of a uniform sphere, which no discrete views reach; Z first without centring.",
        claims(done, correlation),
        f"{style_table(done)}\n\n{explained(done, correlation)}",
        lambda: draw(done, correlation),
    )


def style_table(done: Done) -> str:
    rows = {
        f"B = {bits}, p = {p:g} ({truth_of(source_of(p, bits)):.2f} nats), `{arm}`": name_of(p, bits, arm)
        for (p, bits), arm in itertools.product(GRID, ARMS)
    }
    reads = {name: PREDICTORS[name] for name in ("cos-DV", "I(z; content)", "I(z; style)")}
    reads |= {f"I(h; {factor})": at("factor_information", "h", factor) for factor in ("content", "style")}
    columns = means(done, reads | {"rank of z": last("rank/effective_rank")})
    columns |= shares(done, {f"linear of {space}": LINEAR[space] for space in "zh"})
    return (
        "## Content, shared style, noise\n\nThe content has log 8 = 2.08 nats, the style B log 2.\n\n"
        f"{arms_table('setting (MI of the views)', rows, columns)}"
    )


def explained(done: Done, correlation: dict[str, Replicates]) -> str:
    ratios = "; ".join(f"B = {bits}, p = {p:g}: {of_ceiling(done, p, bits)} of it" for p, bits in GRID)
    shares_of, of_h = [partial_r2(done, some) for some in TOGETHER.values()], rank_correlations(done, "h")
    rows = [
        [
            name,
            *(mean_interval(found[name], -1, 1) for found in (correlation, of_h)),
            *(found.get(name, "–") for found in shares_of),
        ]
        for name in PREDICTORS
    ]
    return (
        "## What goes with accuracy\n\nOver 16 runs a seed, four laws of views × four methods: Spearman's "
        "correlation, seed by seed, and partial R² of linear accuracy of z, among four predictors, and among what H1 "
        "to H4 call decisive. Two of them say little: h holds nearly all of the content in most settings, so that "
        "what the head loses is nearly minus I(z; content), and that is information on the label itself. The "
        f"ceilings are bounds that nothing need reach but where 8 or 16 clusters fit: {ratios}.\n\n"
        + table(["predictor", "with accuracy of z", "with accuracy of h", *TOGETHER], rows)
    )


def draw(done: Done, correlation: dict[str, Replicates]):
    figure, axes = drawing.panels(1, 2, 4.4, 3.8)
    left, right = axes[0]
    reads = {name: PREDICTORS[name] for name in ("I(z; content)", "I(z; style)", "cos-DV")}
    for i, (name, read) in enumerate((reads | {"linear accuracy of z (share)": LINEAR["z"]}).items()):
        drawing.bars(left, SURVIVAL, [mean_interval(styled(done, p, read)) for p in SURVIVAL], i, name)
    left.set(title="style of three bits:\nnats, and accuracy", xlabel="probability p that style survives")
    drawing.points(right, {name: mean_interval(found, -1, 1) for name, found in correlation.items()})
    right.set(title="rank correlation\nwith linear accuracy of z", xlim=(-1.05, 1.05))
    drawing.legend(figure, [left])
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
