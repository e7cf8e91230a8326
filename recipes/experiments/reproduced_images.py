"""Prototypes beside established methods on images: the evidence that recipes/reproduce.py has left."""

import itertools
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from reporting import Claim, Interval, claim, paired
from reproducing import comparison
from reproducing.evidence import Evidence, read_all

MARGIN = 0.03  # of accuracy: as good as
MATRICES = ("cifar10_ten_epochs", "small_images")


@cache
def images(directory: Path) -> dict[tuple[str, str], list[Evidence]]:
    """What recipes/reproduce.py left, by matrix and data set; nothing is trained here."""
    found: dict[tuple[str, str], list[Evidence]] = {}
    for name in MATRICES:
        for run in read_all(directory / name):
            found.setdefault((name, run.dataset), []).append(run)
    return found


def claims_of(matrix: str, dataset: str, runs: Sequence[Evidence]) -> list[Claim]:
    """Linear accuracy at equal epochs (of all held-out images), and at equal compute (tracked), against the mean of
    the established methods, seed by seed."""
    claims, least = [], comparison.budget(runs)
    where = f"on {dataset} (`{matrix}`)"
    images = {"epochs": "all held-out images", "compute": "those tracked"}
    readings = {
        "epochs": lambda run: run.measured("linear_top1").get("value"),
        "compute": lambda run: comparison.at_compute(run, comparison.TRACKED["linear"], least),
    }
    rows = comparison.by_method(runs)
    rivals = [method for method in comparison.ESTABLISHED if method in rows]
    for (equal, read), row in itertools.product(readings.items(), comparison.CANONICAL):
        mine, *theirs = ({run.seed: read(run) for run in rows.get(method, ())} for method in (row, *rivals))
        seeds = set(mine).intersection(*theirs) if theirs else set()
        means = {
            seed: float(np.mean([one[seed] for one in theirs]))
            for seed in seeds
            if None not in (one[seed] for one in theirs)
        }
        text = (
            f"{where}, `{row}` is as good as the mean of {', '.join(rivals)} at equal {equal}: linear accuracy of h, "
            f"of {images[equal]}, less theirs"
        )
        claims.append(Claim(text, "paper" if equal == "epochs" else "extension", paired(mine, means), -MARGIN))
    return claims + _added(where, rows, rivals, runs)


def _added(
    where: str, rows: dict[str, list[Evidence]], rivals: Sequence[str], runs: Sequence[Evidence]
) -> list[Claim]:
    """Claims that were written when the first runs had been looked at: against the best rival, and of MI."""

    def of(row: str, name: str) -> dict[int, float | None]:
        return {run.seed: run.measured(name).get("value") for run in rows.get(row, ())}

    claims, added = [], "(added, when the first runs had been looked at)"
    shared = set.intersection(*({*of(row, "linear_top1")} for row in rivals)) if rivals else set()
    reached = {row: [of(row, "linear_top1")[seed] for seed in shared] for row in rivals}
    full = [row for row in rivals if shared and None not in reached[row]]
    best = max(full, key=lambda row: sum(reached[row]), default=None)
    for row in comparison.CANONICAL if best else ():
        text = f"{where}, `{row}` is as good as the best of them, `{best}`, at equal epochs {added}"
        found = paired(of(row, "linear_top1"), of(best, "linear_top1"))
        claims.append(Claim(text, "extension", found, -MARGIN))
    more = paired(*(of(row, "mi/cos_dv") for row in comparison.CANONICAL))
    claims.append(Claim(f"{where}, `sdmi` has more cos-DV than `jmi` (nats) {added}", "paper", more, 0))
    ranked = comparison.correlations(runs)
    for name in ("mi/cos_dv_calibrated", "rank/rankme"):
        if name in ranked:
            text = f"{where}, `{name}` ranks the rows by linear accuracy: Spearman's correlation, bootstrapped {added}"
            found = Interval(*ranked[name], len(rows))
            claims.append(
                claim("ours", text, found)
                if name.startswith("mi")
                else claim("literature", text, found, cited="2210.02885")
            )
    for row in comparison.CANONICAL:
        pixels = {run.seed: run.measured("knn_top1", "pixels").get("value") for run in rows.get(row, ())}
        text = f"{where}, `{row}` is better than no encoder at all: kNN of h, less kNN of pixels {added}"
        claims.append(claim("extension", text, paired(of(row, "knn_top1"), pixels)))
    return claims


def untrained(runs: Sequence[Evidence]) -> str:
    """What the same protocols say of pixels and of encoders at random."""
    names = {
        "kNN of pixels": ("knn_top1", "pixels"),
        "kNN of encoders at random": ("knn_top1", "random"),
        "a linear probe of them": ("linear_top1", "random"),
    }
    found = {}
    for words, key in names.items():
        by_seed: dict[int, list[float]] = {}
        for run in runs:
            if (value := run.measured(*key).get("value")) is not None:
                by_seed.setdefault(run.seed, []).append(value)
        found[words] = {round(float(np.mean(one)), 6) for one in by_seed.values()}
    said = [
        f"{words} {comparison.spread([100 * value for value in sorted(values)])} %" for words, values in found.items()
    ]
    return f"Without any training, of all held-out images: {', '.join(said)}."


def on_images(directory: Path) -> str:
    found = images(directory)
    if not found:
        return (
            "## On images\n\nNot among these runs. `python recipes/reproduce.py --matrix "
            "recipes/matrices/cifar10_ten_epochs.yaml` makes them (it resumes), and their evidence is taken up here."
        )
    parts = []
    for (matrix, dataset), runs in found.items():
        parts += [
            f"## On images: {dataset}",
            comparison.cost_table(runs),
            "Accuracies of this table are tracked ones, of a part of the images, with ± a standard deviation over "
            "seeds; claims at equal epochs, the figure and what pixels have are of all held-out images. At equal "
            "compute a row is read where it has spent what the cheapest of the table spends in all, on the line "
            "between the tracked evaluations around: before the end of its schedule, when its rate is still high, "
            "which leans towards the cheaper rows. Eight rows have the best of three optimisers, the others one that "
            f"nobody chose. [The page of the matrix](../{matrix}.md) has MI, ranks and intervals.",
            untrained(runs),
            comparison.correlation_table(runs),
        ]
    return "\n\n".join(parts)
