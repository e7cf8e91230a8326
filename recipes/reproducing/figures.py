"""Figures of a matrix: accuracy against compute, MI against accuracy, and which measure ranks the rows.

Backgrounds are transparent, lines and words of a grey that shows on white and on dark pages, colours those of Okabe
and Ito that do, and every row has a marker of its own.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from hf_mi_ssl.evaluation.figures import COLOURS

from .comparison import CANONICAL, ESTABLISHED, TRACKED, budget, by_method, correlations, spent
from .evidence import Evidence

GREY = "#7d8590"
NEUTRAL = {
    "xtick.color": GREY, "ytick.color": GREY, "axes.labelcolor": GREY, "axes.edgecolor": GREY, "text.color": GREY,
    "grid.color": GREY, "grid.alpha": 0.25, "figure.facecolor": "none", "axes.facecolor": "none",
    "savefig.facecolor": "none", "legend.labelcolor": GREY,
}  # fmt: skip
ROW_COLOURS = (*COLOURS[:5], "#D55E00", "#A6761D", "#8F7FD6")  # black would be lost on dark pages
MARKERS = ("o", "s", "^", "v", "D", "P", "X", "*")
LABELS = {
    "mi/cos_dv_calibrated": "MI of z, calibrated cos-DV (nats)",
    "mi_h/cos_dv_calibrated": "MI of h, calibrated cos-DV (nats)",
}


def style_of(method: str) -> dict[str, Any]:
    """The prototypes are large and in the first colours; established methods in colours; the others are grey."""
    named = (*CANONICAL, *ESTABLISHED)
    if method not in named:
        return {"color": GREY, "marker": ".", "linewidth": 0.8, "zorder": 1}
    i = named.index(method)
    return {
        "color": ROW_COLOURS[i],
        "marker": MARKERS[i],
        "linewidth": 2.6 if method in CANONICAL else 1.4,
        "zorder": 3,
    }


def comparison_figure(done: Sequence[Evidence], path: Path) -> None:
    """Four panels of the runs of one data set."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(NEUTRAL):
        figure = Figure(figsize=(12, 9), dpi=100, layout="constrained")
        upper, lower = figure.subfigures(2, 1)
        compute, ranks = upper.subplots(1, 2)
        axes = lower.subplots(1, 2, sharey=True)
        accuracy_against_compute(compute, done)
        rank_correlations(ranks, done)
        for axis, name in zip(axes, LABELS):
            mi_against_accuracy(axis, done, name)
        handles = {}
        for axis in (compute, axes[0]):
            for handle, label in zip(*axis.get_legend_handles_labels()):
                handles.setdefault(label, handle)
        columns = -(-len(handles) // 2)
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, frameon=False)
        figure.savefig(path)


def accuracy_against_compute(axis: Any, done: Sequence[Evidence], key: str = "linear") -> None:
    """The tracked accuracy of each row, the mean of its seeds, against the operations spent."""
    from matplotlib.ticker import LogLocator, NullFormatter

    for method, runs in by_method(run for run in done if spent(run)).items():
        curves = [run.curve(TRACKED[key]) for run in runs]
        length = min(len(steps) for steps, _ in curves)
        if length > 1:  # what was measured before the first step has cost nothing and lies beyond a log scale
            shares = np.array(curves[0][0][1:length]) / runs[0].results["steps"]
            values = 100 * np.mean([values[1:length] for _, values in curves], axis=0)
            axis.plot(shares * spent(runs[0]) / 1e12, values, label=label_of(method), markersize=5, **style_of(method))
    if np.isfinite(least := budget(done)):
        axis.axvline(least / 1e12, color=GREY, linestyle="--", linewidth=1)
        axis.annotate(
            "equal compute", (least / 1e12, 0.02), xycoords=axis.get_xaxis_transform(), rotation=90, fontsize=8,
            xytext=(3, 0), textcoords="offset points", color=GREY,
        )  # fmt: skip
    axis.set(xlabel="operations spent (Tflop, log scale)", ylabel=f"tracked {key} accuracy (%)")
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.grid(True)


def mi_against_accuracy(axis: Any, done: Sequence[Evidence], name: str) -> None:
    """A mark for each run; rows without a colour of their own bear their names."""
    named = {}
    for method, runs in by_method(done).items():
        points = [(run.measured(name).get("value"), run.measured("linear_top1").get("value")) for run in runs]
        points = [(x, 100 * y) for x, y in points if x is not None and y is not None]
        if points:
            style = style_of(method) | {"linestyle": "none"}
            axis.plot(*zip(*points), label=label_of(method), markersize=8 if method in CANONICAL else 6, **style)
            if label_of(method) != method:
                named[method] = tuple(mean(values) for values in zip(*points))
    for i, (method, middle) in enumerate(sorted(named.items(), key=lambda item: item[1][1])):  # below, then above
        side = {"xytext": (-6, 4), "ha": "right"} if i % 2 else {"xytext": (6, -8)}
        axis.annotate(method, middle, textcoords="offset points", fontsize=7, color=GREY, **side)
    axis.set(xlabel=LABELS.get(name, name), ylabel="linear accuracy (%)")
    axis.margins(x=0.15, y=0.1)  # room for the names
    axis.grid(True)


def rank_correlations(axis: Any, done: Sequence[Evidence]) -> None:
    if not (found := correlations(done)):
        axis.set_axis_off()
        return
    for y, (value, low, high) in enumerate(found.values()):
        axis.plot([low, high], [y, y], color=COLOURS[4], linewidth=3, alpha=0.6, solid_capstyle="butt")
        axis.plot(value, y, "o", color=COLOURS[0], markersize=5)
    axis.set_yticks(range(len(found)), list(found), fontsize=8)
    axis.set(ylim=(len(found) - 0.5, -0.5), xlim=(-1.05, 1.05), xlabel="Spearman's ρ with linear accuracy, 95 %")
    axis.axvline(0, color=GREY, linewidth=1)
    axis.grid(axis="x")


def label_of(method: str) -> str:
    """What a legend calls a row: those without a colour of their own share a name."""
    return method if method in (*CANONICAL, *ESTABLISHED) else "other rows"
