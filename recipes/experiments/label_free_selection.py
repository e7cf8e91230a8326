"""Can checkpoints and hyper-parameters be chosen without labels, by MI, by the spectrum, or by both?

    python recipes/experiments/label_free_selection.py

Three pools: hyper-parameters of one row, methods (the runs of canonical_vs_established.py), and methods on laws of
views that differ in style (those of information_without_accuracy.py). In each: rank correlation with linear
accuracy of h, and what choosing by the measure costs; and the same over the checkpoints of each run of the first two.
And both on
CIFAR-10, of the evidence of recipes/reproduce.py.
"""

import itertools
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial

import canonical_vs_established as canonical
import drawing
import information_without_accuracy
import numpy as np
from canonical_vs_established import MEASURES
from choosing import BOTH, STEP, Points, Values, blind, correlation, ranked, regret
from harness import Done, Job, Replicates, main, replicated, train, twice
from reporting import Interval, Report, literature, mean_interval, ours, paired, table
from selection_on_images import by_row, claims_on_images, correlations_of, on_images, optimisers
from selection_on_images import checkpoints as checkpoints_of_images

NAME = "label_free_selection"
TEMPERATURES, RATES = (0.1, 0.5), (3e-4, 3e-3, 3e-2)
KEY = "linear_h"
LEAST = 0.5  # the rank correlation from which a measure is called of use
RUN = "checkpoints of a run"
POOLS = ("hyper-parameters", "methods", "laws of style")


def jobs(seeds: Sequence[int], tiny: bool) -> list[Job]:
    less = {"steps": 6, "batch_size": 32, "evaluations": 2, "held": 64} if tiny else {}
    arms = {
        f"jmi τ={temperature:g} lr={rate:g}": {"columns": {"temperature": temperature}, "learning_rate": rate}
        for temperature, rate in itertools.product(TEMPERATURES, RATES)
    }
    found = replicated(NAME, train, arms, twice(seeds), **canonical.SETTINGS | {"method": "jmi"} | less)
    others = [*canonical.jobs(seeds, tiny), *information_without_accuracy.jobs(seeds, tiny)]
    return found + [job for job in others if job.arguments.get("probes")]


def pool_of(name: str) -> str:
    return POOLS[0] if "lr=" in name else POOLS[2] if name.startswith("style") else POOLS[1]


def pools(done: Done) -> dict[str, Points]:
    """The ends of all runs, by pool."""
    found: dict[str, Points] = {pool: {} for pool in POOLS}
    for name, (arguments, result) in sorted(done.items()):
        if "end" in result and None not in (result["end"][KEY], result["curves"]["mi/cos_dv"][-1]):
            found[pool_of(name)].setdefault(arguments["seed"], []).append((result["curves"], -1, result["end"][KEY]))
    return found


def checkpoints(done: Done, of: Callable[[Points], Replicates]) -> Replicates:
    """What is read of the checkpoints of a run, the start left out; the mean over the runs of a seed, of the
    first two pools."""
    per_seed: dict[int, list[float]] = {}
    for name, (arguments, result) in done.items():
        if "end" in result and KEY in result["curves"] and pool_of(name) != POOLS[2]:
            curves = result["curves"]
            value = of({0: [(curves, i, curves[KEY][i]) for i in range(1, len(curves["step"]))]})[0]
            if value is not None:
                per_seed.setdefault(arguments["seed"], []).append(value)
    return {seed: float(np.mean(values)) for seed, values in per_seed.items()}


def report(done: Done, args: Namespace) -> Report:
    found, names = pools(done), [*MEASURES, BOTH]
    of = {(pool, name): ranked(points, name) for pool, points in found.items() for name in names}
    hyper, _, style = ({name: of[pool, name] for name in names} for pool in POOLS)
    mi, spectrum = hyper["calibrated cos-DV"], hyper["effective rank"]
    text = "{} ranks hyper-parameters: Spearman's correlation"
    use = {"above": LEAST}
    along = {name: checkpoints(done, partial(ranked, measure=name)) for name in [*names, STEP]}
    lost = {name: checkpoints(done, partial(regret, measure=name)) for name in along}
    of |= {(RUN, name): along[name] for name in names}
    choices = {pool: ({name: regret(points, name) for name in names}, blind(points)) for pool, points in found.items()}
    choices[RUN] = {name: lost[name] for name in names}, checkpoints(done, blind)
    for title, points in (
        (f"CIFAR-10, {RUN}", checkpoints_of_images(args.reproduced)),
        ("CIFAR-10, optimisers", optimisers(args.reproduced)),
    ):
        of |= {(title, name): values for name, values in correlations_of(points).items()}
        if points:
            choices[title] = {name: by_row(regret(points, name)) for name in names}, by_row(blind(points))
    claims = [
        ours(text.format("calibrated cos-DV"), correlation(mi), **use, primary=True),
        literature(text.format("RankMe"), correlation(hyper["RankMe"]), **use, primary=True, cited="2210.02885"),
        ours(text.format(f"{BOTH} (the mean of their ranks)"), correlation(hyper[BOTH]), **use, primary=True),
        literature(
            "alignment ranks hyper-parameters: Spearman's correlation (added, when all had been looked at)",
            correlation(hyper["alignment (minus)"]),
            **use,
            cited="2005.10242",
        ),
        ours(
            "MI ranks hyper-parameters better than the spectrum does: calibrated cos-DV less effective rank",
            paired(mi, spectrum),
        ),
        ours(
            "the combination ranks hyper-parameters no worse than the better of its parts (margin 0.05)",
            paired(hyper[BOTH], _better(mi, spectrum)),
            above=-0.05,
        ),
        ours(
            f"among {POOLS[2]} MI ranks worse than among hyper-parameters (of other data)",
            paired(mi, style["calibrated cos-DV"]),
        ),
        ours(
            "calibrated cos-DV ranks the checkpoints of a run",
            correlation(along["calibrated cos-DV"]),
            **use,
        ),
        literature("RankMe ranks the checkpoints of a run", correlation(along["RankMe"]), **use, cited="2210.02885"),
        ours(
            "calibrated cos-DV ranks the checkpoints of a run better than their number does: difference (added)",
            paired(along["calibrated cos-DV"], along[STEP]),
        ),
        ours(
            "choosing a checkpoint by calibrated cos-DV loses less accuracy than taking the last, which needs no "
            "measure: difference (added)",
            paired(lost[STEP], lost["calibrated cos-DV"]),
        ),
        ours(
            "choosing hyper-parameters by calibrated cos-DV loses less accuracy than choosing by chance",
            paired(blind(found[POOLS[0]]), regret(found[POOLS[0]], "calibrated cos-DV")),
        ),
    ]
    return Report(
        NAME,
        "Whoever has no labels has to choose a checkpoint and hyper-parameters by what can be measured without them. "
        "MI is one candidate, the spectrum (RankMe, arXiv 2210.02885) another.",
        f"linear accuracy of h decides; `jmi` at {len(TEMPERATURES)} temperatures × {len(RATES)} learning rates on "
        "overlapping clusters, with 16 dimensions of z; and the runs of two other experiments, in one of which the "
        f"laws of views differ too; a measure is of use from a rank correlation of {LEAST:g}. Seeds 0 to 9 (changed: "
        "five could not tell), of the laws of style 0 to 4.",
        claims + claims_on_images(args.reproduced, LEAST),
        "\n\n".join(
            [
                pool_table(found, of, names),
                checkpoint_table(along, lost, mean_interval(checkpoints(done, blind), 0)),
                on_images(args.reproduced),
                failures(of, choices),
            ]
        ),
        lambda: draw(of),
    )


def _better(first: Replicates, second: Replicates) -> Replicates:
    both = {seed: (first[seed], second[seed]) for seed in set(first) & set(second)}
    return {seed: None if None in values else max(values) for seed, values in both.items()}


def pool_table(found: dict[str, Points], of: dict, names: Sequence[str]) -> str:
    rows = []
    for name in names:
        cells = []
        for pool, points in found.items():
            cells += [correlation(of[pool, name]), mean_interval(regret(points, name), 0)]
        rows.append([name, *cells])
    rows.append(
        [
            "by chance",
            *itertools.chain(*(("0", mean_interval(blind(points), 0)) for points in found.values())),
        ]
    )
    header = [
        "measure",
        *itertools.chain(
            *((f"{pool} ({_count(points)}): correlation", "accuracy lost") for pool, points in found.items())
        ),
    ]
    return "## The ends of runs\n\n" + table(header, rows)


def _count(points: Points) -> int:
    return max((len(some) for some in points.values()), default=0)


def checkpoint_table(along: dict[str, Replicates], lost: dict[str, Replicates], chance: Interval) -> str:
    rows = [[name, correlation(along[name]), mean_interval(lost[name], 0)] for name in along]
    header = ["measure", "Spearman's correlation, mean over runs", "accuracy lost, mean over runs"]
    return "## The checkpoints of a run\n\nOf the runs of the first two pools, the start left out.\n\n" + table(
        header, [*rows, ["by chance", "0", chance]]
    )


def failures(of: dict, choices: dict[str, tuple[dict[str, Values], Values]]) -> str:
    """Where a measure points the wrong way, or nowhere, or chooses worse than chance."""
    lines = []
    for (pool, name), values in of.items():
        one = correlation(values)
        if one.n < 2:
            continue
        if one.high < 0:
            lines.append(f"- {name} among {pool}: it points the wrong way, {one}")
        elif one.low < 0 < one.high:
            lines.append(f"- {name} among {pool}: cannot be told from chance, {one}")
    for pool, (lost, chance) in choices.items():
        for name, values in lost.items():
            worse = paired(values, chance)
            if worse.n > 1 and worse.low > 0:
                lines.append(
                    f"- {name} among {pool}: what it chooses loses more accuracy than chance does, by {worse}"
                )
    return "## Where it fails\n\n" + ("\n".join(lines) or "Nowhere among these runs.")


def draw(of: dict[tuple[str, str], Values]):
    titles = list(dict.fromkeys(pool for pool, _ in of))
    figure, axes = drawing.panels(1, len(titles), 3.2, 4.0)
    for i, (axis, title) in enumerate(zip(axes[0], titles, strict=True)):
        drawing.points(axis, {name: correlation(values) for (pool, name), values in of.items() if pool == title})
        axis.set(title=f"{title}\nrank correlation with accuracy", xlim=(-1.05, 1.05))
        axis.axvline(0, color="grey", linewidth=1)
        if i:
            axis.set_yticklabels([])
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
