"""Are the canonical prototypes as good as established methods, at equal epochs and at equal compute?

    python recipes/experiments/canonical_vs_established.py

Accuracy, MI and rank of nine rows on a toy source, and of the rows of recipes/reproduce.py on images, from the
evidence of its matrices below `--reproduced`. Compute is counted: passes of encoders, and floating-point operations of
a training step by torch's counter. How well does each measure that needs no label rank the methods?
"""

import itertools
import math
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

import drawing
import numpy as np
import torch
from harness import SLOW, Done, Job, Replicates, build, main, make_source, over, replicates, spearman, train, twice
from reporting import Claim, Interval, Report, claim, mean_interval, ours, paired, paper, table
from reproduced_images import MARGIN, claims_of, images, on_images
from reproducing.costs import count_step
from reproducing.figures import mi_against_accuracy, style_of

NAME = "canonical_vs_established"
HARD = {"name": "mixture", "dimension": 32, "spread": 2.5, "within": 1.0, "noise": 1.0}  # clusters overlap
SETTINGS = {"source": HARD, "steps": 150, "batch_size": 128, "evaluations": 6, "probes": True}
ROWS: dict[str, dict] = {  # sizes, momenta and a weight that fit the toy; the rest is the row's
    "sdmi": {},
    "sdmi_ema": SLOW,
    "jmi": {},
    "jmi_taylor": {},
    "simclr": {},
    "simsiam": {"predictor_hidden_size": 32},
    "byol": {"predictor_hidden_size": 64} | SLOW,
    "barlow_twins": {"marginal": {"redundancy": 0.2}},
    "vicreg": {},
}
CANONICAL, ESTABLISHED = ("sdmi", "jmi"), ("simclr", "simsiam", "byol", "barlow_twins", "vicreg")
OTHERS = {"sdmi_ema": {"marker": "<"}, "jmi_taylor": {"marker": ">"}}  # rows that have no style of their own
MEASURES = {  # at evaluation i
    "cos-DV": lambda c, i: c["mi/cos_dv"][i],
    "calibrated cos-DV": lambda c, i: c["mi/cos_dv_calibrated"][i],
    "InfoNCE": lambda c, i: c["mi/info_nce"][i],
    "RankMe": lambda c, i: c["rank/rankme"][i],
    "effective rank": lambda c, i: c["rank/effective_rank"][i],
    "alignment (minus)": lambda c, i: -c["collapse/alignment"][i],
    "uniformity (minus)": lambda c, i: -c["collapse/uniformity"][i],
}
CITED = {"RankMe": "2210.02885", "alignment (minus)": "2005.10242", "uniformity (minus)": "2005.10242"}
Measure = Callable[[dict, int], float]


def cost(method: str, columns: dict) -> dict:
    """Floating-point operations of a training step of 128 toy pairs, and the forward passes of an encoder in it."""
    law = make_source(HARD)
    pair = law.draw(128, torch.Generator().manual_seed(0))
    found = count_step(build(method, law.towers, 0, columns), pair.a, pair.b)
    return {"flops": found["flops"], "passes": found["learning_passes"] + found["other_passes"]}


def jobs(seeds: Sequence[int], tiny: bool) -> list[Job]:
    less = {"steps": 6, "batch_size": 32, "evaluations": 2, "held": 64} if tiny else {}
    rows = dict(itertools.islice(ROWS.items(), 4)) if tiny else ROWS
    found = [
        Job(
            NAME, f"{method}-seed{seed}", train, SETTINGS | less | {"method": method, "columns": columns, "seed": seed}
        )
        for (method, columns), seed in itertools.product(rows.items(), twice(seeds))
    ]
    return found + [
        Job(NAME, f"cost {method}", cost, {"method": method, "columns": columns}) for method, columns in rows.items()
    ]


def flops(done: Done) -> dict[str, int]:
    return {
        name.removeprefix("cost "): result["flops"] for name, (_, result) in done.items() if name.startswith("cost ")
    }


def at_compute(done: Done, method: str, curves: dict, key: str) -> float:
    """A curve where a run has spent what the cheapest row spends in all its steps, on the line between evaluations."""
    costs, steps = flops(done), curves["step"]
    return float(np.interp(min(costs.values()) / costs[method] * steps[-1], steps, curves[key]))


def accuracy(done: Done, method: str, key: str = "linear_h", equal: str = "epochs") -> Replicates:
    def read(result: dict) -> float | None:
        curves = result["curves"]
        if "diverged" in result:
            return None
        return curves[key][-1] if equal == "epochs" else at_compute(done, method, curves, key)

    return replicates(done, method, read)


def correlations(points: dict[int, list[tuple[dict, int, float]]], measure: Measure) -> Replicates:
    """Spearman's correlation of a measure and accuracy over what a seed has: (curves, evaluation, accuracy) each."""
    return {
        seed: spearman([measure(curves, i) for curves, i, _ in some], [value for _, _, value in some])
        for seed, some in points.items()
    }


def ends(done: Done, key: str) -> dict[int, list[tuple[dict, int, float]]]:
    points: dict[int, list] = {}
    for name, (arguments, result) in done.items():
        if not name.startswith("cost") and "end" in result:
            points.setdefault(arguments["seed"], []).append((result["curves"], -1, result["end"][key]))
    return points


def report(done: Done, args: Namespace) -> Report:
    methods = [method for method in ROWS if f"cost {method}" in done]
    rivals = [method for method in ESTABLISHED if method in methods]

    claims = []
    for equal, row in itertools.product(("epochs", "compute"), CANONICAL):
        found = paired(accuracy(done, row, equal=equal), over([accuracy(done, m, equal=equal) for m in rivals]))
        claims.append(
            Claim(
                f"`{row}` is as good as the mean of {', '.join(ESTABLISHED)} at equal {equal}: linear accuracy of h, "
                "less theirs",
                "paper" if equal == "epochs" else "extension",
                found,
                -MARGIN,
                primary=equal == "epochs",
            )
        )
    reached = {method: mean_interval(accuracy(done, method)).value for method in rivals}
    best = max((method for method in rivals if not math.isnan(reached[method])), key=reached.get, default=None)
    for row in CANONICAL if best else ():
        text = (
            f"`{row}` is as good as the best of them, `{best}`, at equal epochs (added, when all had been looked at: "
            "a mean hides the best)"
        )
        found = paired(accuracy(done, row), accuracy(done, best))
        claims.append(Claim(text, "extension", found, -MARGIN, primary=True))
    ratio = flops(done).get("sdmi", math.nan) / flops(done).get("jmi", math.nan)
    costs_more = "a step of `sdmi` costs more than one of `jmi`: ratio of operations, counted, less 1"
    more = paired(*(replicates(done, row, lambda r: r["curves"]["mi/cos_dv"][-1]) for row in CANONICAL))
    claims.append(ours(costs_more, Interval(ratio, ratio, ratio, 1) + -1))
    claims.append(paper("`sdmi` has more cos-DV than `jmi` (nats)", more))
    claims += [one for place, runs in images(args.reproduced).items() for one in claims_of(*place, runs)]
    for name, measure in MEASURES.items():
        found = mean_interval(correlations(ends(done, "linear_h"), measure), -1, 1)
        text = f"{name} ranks the methods by linear accuracy of h: Spearman's correlation"
        claims.append(claim("literature" if name in CITED else "ours", text, found, cited=CITED.get(name, "")))
    return Report(
        NAME,
        "The paper finds its prototypes competitive with established methods, and the most mutual information "
        "without the most accuracy. Here nine rows see the same pairs, and their compute is counted.",
        "ten overlapping clusters in 32 dimensions, rows as they are but for sizes of heads, momenta of targets "
        "and the redundancy of `barlow_twins`, 0.2 in place of 0.0051, for 16 dimensions, not 8,192; "
        f"{SETTINGS['steps']} steps of {SETTINGS['batch_size']} pairs, Adam at 3e-3 for all, seeds 0 to 9 "
        "(changed: five could not tell); "
        f"as good as: at most {MARGIN:g} below. At equal compute each row is read where it has spent what the "
        "cheapest spends in all its steps, on the line between the evaluations around (changed: the evaluation before "
        "was read first).",
        claims,
        "\n\n".join([toy_table(done, methods), on_images(args.reproduced)]),
        lambda: draw(done, methods, args.reproduced),
    )


def toy_table(done: Done, methods: Sequence[str]) -> str:
    rows = []
    for method in methods:
        spent = done[f"cost {method}"][1]
        found = [
            accuracy(done, method),
            accuracy(done, method, "knn_h"),
            accuracy(done, method, equal="compute"),
            accuracy(done, method, "linear_z"),
        ]
        found += [
            replicates(done, method, lambda r, k=k: r["curves"][k][-1])
            for k in ("mi/cos_dv", "rank/effective_rank", "rank/rankme")
        ]
        rows.append(
            [
                f"`{method}`",
                f"{spent['passes']:g}",
                f"{spent['flops'] / 1e6:.1f}",
                *(mean_interval(list(one.values())) for one in found),
            ]
        )
    header = [
        "row",
        "encoder passes a step",
        "Mflop a step",
        "linear of h",
        "kNN of h",
        "linear of h, equal compute",
        "linear of z",
        "cos-DV",
        "rank of z",
        "RankMe of z",
    ]
    text = "## On the toy source\n\n" + table(header, rows) + "\n\n" + rivals_table(done, methods)
    start = replicates(done, methods[0], lambda result: result["curves"]["linear_h"][0]) if methods else {}
    return text + f"\n\nEncoders at the start, before any step: linear accuracy of h {mean_interval(start)}."


def rivals_table(done: Done, methods: Sequence[str]) -> str:
    """Each rival by itself: a mean of strong and weak ones hides both."""
    rows = [
        [f"`{rival}`", *(paired(accuracy(done, row), accuracy(done, rival)) for row in CANONICAL if row in methods)]
        for rival in ESTABLISHED
        if rival in methods
    ]
    header = ["less that of", *(f"linear accuracy of h, `{row}`" for row in CANONICAL if row in methods)]
    return f"At the rate of all, which nobody tuned for any:\n\n{table(header, rows)}"


def draw(done: Done, methods: Sequence[str], directory: Path):
    panels = images(directory)
    figure, axes = drawing.panels(1, 3 + len(panels), 4.2, 4.0)
    first, second, third = axes[0][:3]
    for i, equal in enumerate(("epochs", "compute")):
        found = {method: mean_interval(accuracy(done, method, equal=equal), 0, 1) for method in methods}
        drawing.points(first, found, 5 + 2 * i, f"equal {equal}", 0.16 * (2 * i - 1))  # no row's colours
    first.set(title="linear accuracy of h", xlabel="share right")
    first.set_ylim(len(methods) + 0.4, -0.5)
    first.legend(fontsize=7, loc="lower center", ncols=2)
    for method in methods:
        x = [v for v in replicates(done, method, lambda r: r["curves"]["mi/cos_dv"][-1]).values() if v is not None]
        y = [v for v in accuracy(done, method).values() if v is not None]
        if len(x) == len(y):
            style = style_of(method) | OTHERS.get(method, {}) | {"linestyle": "none"}
            second.plot(x, y, label=method, alpha=0.8, markersize=8 if method in CANONICAL else 6, **style)
    second.set(title="a dot a seed", xlabel="cos-DV of z (nats)", ylabel="linear accuracy of h")
    found = {name: mean_interval(correlations(ends(done, "linear_h"), m), -1, 1) for name, m in MEASURES.items()}
    drawing.points(third, found)
    third.set(title="rank correlation with accuracy", xlim=(-1.05, 1.05))
    for axis, ((matrix, dataset), runs) in zip(axes[0][3:], panels.items()):
        mi_against_accuracy(axis, runs, "mi/cos_dv_calibrated")
        axis.set(title=f"{dataset}, {matrix}")
    drawing.legend(figure, axes[0][1:])
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
