"""What runs say together: rows at equal epochs and at equal compute, and which measure without labels ranks them."""

from collections.abc import Iterable, Sequence
from statistics import mean, stdev

import numpy as np

from .evidence import Evidence

CANONICAL = ("sdmi", "jmi")
ESTABLISHED = ("simsiam", "byol", "moco_v2", "simclr", "barlow_twins", "vicreg")
TRACKED = {"linear": "eval/linear_top1", "kNN": "eval/knn_top1"}
LABEL_FREE = ("mi/", "mi_h/", "rank/", "rank_h/", "collapse/", "shape/")  # of evaluations, by their names
NEEDS_LABELS = ("collapse/nc1",)
DRAWS = 1000  # of the bootstrap


def spread(values: Sequence[float], digits: int = 1, number: bool = True) -> str:
    """The mean; of several, with their standard deviation and their number."""
    if not values:
        return "—"
    text = f"{mean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {stdev(values):.{digits}f}" + (f" (n = {len(values)})" if number else "")
    return text


def by_method(done: Iterable[Evidence]) -> dict[str, list[Evidence]]:
    """The seeds of each row: the canonical prototypes, the established methods, then the others."""
    groups: dict[str, list[Evidence]] = {}
    for run in done:
        groups.setdefault(run.method, []).append(run)
    order = {name: i for i, name in enumerate((*CANONICAL, *ESTABLISHED))}
    return dict(sorted(groups.items(), key=lambda item: order.get(item[0], len(order))))


def spent(run: Evidence) -> float | None:
    """Operations of the whole run."""
    return run.cost and run.cost["flops"] * run.results["images_seen"]


def budget(done: Iterable[Evidence]) -> float:
    """What the cheapest run spends in all: all others can pay that too. Infinite where nothing was counted."""
    return min((total for run in done if (total := spent(run))), default=float("inf"))


def at_compute(run: Evidence, key: str, operations: float) -> float | None:
    """A tracked value when a run has spent so many operations, on the line between the evaluations around."""
    steps, values = run.curve(key)
    if not (total := spent(run)) or len(steps) < 2 or operations > 1.001 * total:
        return None
    return float(np.interp(operations / total * run.results["steps"], steps, values))


def cost_table(done: Sequence[Evidence]) -> str:
    """Each row's compute, and its tracked accuracies at the end and where it has spent the budget."""
    least = budget(done)
    header = [
        "method",
        "seeds",
        "passes that learn + others",
        "Mflop an image",
        "Tflop in all",
        "epochs that the budget pays",
    ]
    header += [f"{name}, %, at equal {equal}" for name in TRACKED for equal in ("epochs", "compute")]
    lines = [header, ["---"] * len(header)]
    for method, runs in by_method(run for run in done if run.cost).items():
        cost, total = runs[0].cost, spent(runs[0])
        epochs = runs[0].curve("epoch")[1]
        cells = [f"`{method}`", len(runs), f"{cost['learning_passes']:g} + {cost['other_passes']:g}"]
        cells += [f"{cost['flops'] / 1e6:.1f}", f"{total / 1e12:.1f}"]
        cells.append(f"{least / total * epochs[-1]:.1f} of {epochs[-1]:g}" if epochs else "—")
        for key in TRACKED.values():
            for operations in (None, least):
                values = (at_compute(run, key, spent(run) if operations is None else operations) for run in runs)
                cells.append(spread([100 * value for value in values if value is not None], number=False))
        lines.append(cells)
    return markdown(lines)


def label_free(done: Sequence[Evidence]) -> list[str]:
    """Names of what was measured of all runs without their labels."""
    names = (
        {
            row["name"]
            for row in run.results["evaluations"]
            if (row["encoder"], row["branch"]) == ("trained", "online") and row["name"].startswith(LABEL_FREE)
        }
        for run in done
    )
    everywhere = set.intersection(*names) if done else set()
    return sorted(everywhere - set(NEEDS_LABELS))


def correlations(done: Sequence[Evidence], accuracy: str = "linear_top1") -> dict[str, tuple[float, float, float]]:
    """Spearman's rank correlation of each label-free measure with accuracy over rows, each the mean of its seeds, and
    the ends of its 95 % interval, by a bootstrap that draws rows and seeds within them; the highest first. Fewer than
    four rows, and measures that are the same for all, have none."""
    import pandas

    done = sorted((run for run in done if run.measured(accuracy)), key=lambda run: (run.method, run.seed))  # it draws
    names = label_free(done)
    groups = [
        np.array([[run.measured(name)["value"] for name in (*names, accuracy)] for run in runs], dtype=float)
        for runs in by_method(done).values()
    ]
    if len(groups) < 4:
        return {}
    varies = [np.ptp([group[:, i].mean() for group in groups]) > 0 for i in range(len(names))]
    names = [name for name, one in zip(names, varies) if one]
    groups = [group[:, [*varies, True]] for group in groups]
    generator = np.random.default_rng(0)

    def ranked(rows: Iterable[np.ndarray]) -> np.ndarray:
        found = pandas.DataFrame(np.array(list(rows))).corr("spearman").to_numpy()
        return found[-1, :-1]

    value = ranked(group.mean(0) for group in groups)
    drawn = [
        ranked(
            groups[i][generator.integers(len(groups[i]), size=len(groups[i]))].mean(0)
            for i in generator.integers(len(groups), size=len(groups))
        )
        for _ in range(DRAWS)
    ]
    found = {}
    for i, name in sorted(enumerate(names), key=lambda item: -value[item[0]]):
        low, high = np.nanpercentile([one[i] for one in drawn], [2.5, 97.5])
        found[name] = (float(value[i]), float(low), float(high))
    return found


def by_chance(done: Sequence[Evidence], name: str, accuracy: str = "linear_top1") -> float:
    """How often a random order of the rows has a rank correlation as far from 0: exact of seven rows or fewer."""
    from scipy.stats import permutation_test, rankdata

    groups = by_method(run for run in done if run.measured(accuracy)).values()
    x, y = (
        rankdata([mean(run.measured(key)["value"] for run in runs) for runs in groups]) for key in (name, accuracy)
    )
    return permutation_test((x,), lambda x, axis: (x * y).sum(axis), permutation_type="pairings", rng=0).pvalue


def correlation_table(done: Sequence[Evidence]) -> str:
    found, rows = correlations(done), len(by_method(done))
    lines = [["measure", "Spearman's ρ with linear accuracy", "95 % interval", "p by permutation", "rows"]]
    lines.append(["---"] * len(lines[0]))
    for name, (value, low, high) in found.items():
        lines.append([f"`{name}`", f"{value:.2f}", f"{low:.2f} to {high:.2f}", f"{by_chance(done, name):.2g}", rows])
    return markdown(lines) if found else "Fewer than four rows: nothing to rank."


def markdown(lines: Iterable[Sequence]) -> str:
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
