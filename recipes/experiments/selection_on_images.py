"""Choosing checkpoints and optimisers without labels on CIFAR-10: the evidence that recipes/reproduce.py has left."""

from functools import partial
from pathlib import Path
from statistics import mean

from canonical_vs_established import MEASURES
from choosing import BOTH, STEP, Points, Values, blind, correlation, ranked, regret
from reporting import Claim, literature, mean_interval, ours, paired, table
from reproducing.evidence import Evidence, read_all

RUNS, CHOICE = "cifar10_ten_epochs", "cifar10_ten_epochs_choice"
KEY = "linear_top1"
CHOSEN, SPECTRUM = "calibrated cos-DV", "RankMe"


def points_of(run: Evidence) -> list[tuple[dict, int, float]]:
    """Of each evaluation but the start: the curves, its place, and linear accuracy of h on what is tracked."""
    curves = {name.removeprefix("eval/"): values for name, values in run.evaluated.items()}
    return [(curves, i, value) for i, value in enumerate(curves.get(KEY, ())) if i and value is not None]


def checkpoints(directory: Path) -> Points:
    """By row and seed, the checkpoints of a whole run."""
    found = {(run.method, run.seed): points_of(run) for run in read_all(directory / RUNS)}
    return {key: points for key, points in found.items() if len(points) > 2}


def optimisers(directory: Path) -> Points:
    """By row, the ends of short runs with each of the optimisers that one was chosen from."""
    found: Points = {}
    for run in read_all(directory / CHOICE):
        found.setdefault((run.method, run.seed), []).extend(points_of(run)[-1:])
    return {key: points for key, points in found.items() if len(points) > 2}


def by_row(values: Values) -> Values:
    """The mean over the seeds of a row: rows are what is replicated."""
    found: dict[str, list[float]] = {}
    for (row, _), value in values.items():
        if value is not None:
            found.setdefault(row, []).append(value)
    return {row: mean(some) for row, some in found.items()}


def claims_on_images(directory: Path, least: float) -> list[Claim]:
    found = []
    pools = {
        "the checkpoints of a run": checkpoints(directory),
        "three optimisers of a row, after one epoch": optimisers(directory),
    }
    for what, points in pools.items():
        if not points:
            continue
        text = f"CIFAR-10, {{}} ranks {what}: Spearman's correlation, mean over rows (added)"
        mine, spectrum = (correlation(by_row(ranked(points, name))) for name in (CHOSEN, SPECTRUM))
        found.append(ours(text.format(CHOSEN), mine, above=least))
        found.append(literature(text.format(SPECTRUM), spectrum, above=least, cited="2210.02885"))
        text = f"CIFAR-10, choosing among {what} by {{}} loses less accuracy than choosing by chance (added)"
        for name, source in ((CHOSEN, ours), (SPECTRUM, partial(literature, cited="2210.02885"))):
            saved = paired(by_row(blind(points)), by_row(regret(points, name)))
            found.append(source(text.format(name), saved))
    if points := checkpoints(directory):
        better = paired(by_row(ranked(points, CHOSEN)), by_row(ranked(points, STEP)))
        text = f"CIFAR-10, {CHOSEN} ranks checkpoints better than the number of their steps does: difference (added)"
        found.append(ours(text, better))
    return found


def correlations_of(points: Points) -> dict[str, Values]:
    """Of each measure, by row."""
    return {name: by_row(ranked(points, name)) for name in [*MEASURES, BOTH]} if points else {}


def on_images(directory: Path) -> str:
    pools = {"checkpoints": checkpoints(directory), "optimisers": optimisers(directory)}
    if not any(pools.values()):
        return (
            "## On CIFAR-10\n\nNot among these runs. `python recipes/reproduce.py --matrix "
            f"recipes/matrices/{RUNS}.yaml` makes them (hours on two cores; it resumes), and their evidence is taken "
            "up here."
        )
    header, rows = ["measure"], []
    for what, points in pools.items():
        count = len({row for row, _ in points})
        header += [f"{what} ({count} rows): correlation", "accuracy lost"]
    for name in [*MEASURES, BOTH, STEP]:
        cells: list = []
        for what, points in pools.items():
            if what != "checkpoints" and name == STEP:
                cells += ["–", "–"]
            else:
                lost = mean_interval(by_row(regret(points, name)), 0)
                cells += [correlation(by_row(ranked(points, name))), lost]
        rows.append([name, *cells])
    chance = [cell for points in pools.values() for cell in ("0", mean_interval(by_row(blind(points)), 0))]
    return (
        f"## On CIFAR-10\n\nLinear accuracy of h on the images that runs track, of the runs of `{RUNS}` and, of "
        f"three optimisers after one epoch, of `{CHOICE}` ([all of them](../{CHOICE}.md)); intervals over rows. "
        "Three of a kind are few: a correlation of three has but four values.\n\n"
        f"{table(header, [*rows, ['by chance', *chance]])}"
    )
