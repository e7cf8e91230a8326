"""Figures in the style of the package: Okabe and Ito's colours, 95 % bands over seeds, legends beside the axes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from reading import Done, Read, replicates
from reporting import Interval

from hf_mi_ssl.evaluation.figures import COLOURS as OF_RUNS
from hf_mi_ssl.evaluation.figures import new_figure

COLOURS = (*OF_RUNS, "#D55E00", "#8C8C8C")  # eight arms, eight colours

STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
BAND = 5  # replicates from which on an interval is narrow enough to be looked at
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def panels(rows: int, columns: int, width: float, height: float, **more: Any) -> tuple[Any, Any]:
    """A figure and its axes, (rows, columns), with room for a legend on the right."""
    figure = new_figure(width * columns + 1.8, height * rows + 0.6)
    axes = figure.subplots(rows, columns, squeeze=False, **more)
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    return figure, axes


def curve(axis: Any, steps: Sequence[float], replicates: Sequence[Sequence], i: int, label: str) -> None:
    """The mean over replicates and its 95 % band, or each of fewer than five; in colour and style number i."""
    from scipy.stats import t

    values = np.array([[np.nan if v is None else v for v in one] for one in replicates if len(one) == len(steps)])
    if not len(values):
        return
    mean, colour = np.nanmean(values, 0), COLOURS[i % len(COLOURS)]
    axis.plot(
        steps, mean, color=colour, linestyle=STYLES[(i + i // len(COLOURS)) % len(STYLES)], linewidth=1.5, label=label
    )
    if 1 < len(values) < BAND:
        axis.plot(steps, values.T, color=colour, linewidth=0.7, alpha=0.5)
    elif len(values) > 1:
        half = t.ppf(0.975, len(values) - 1) * np.nanstd(values, 0, ddof=1) / len(values) ** 0.5
        axis.fill_between(steps, mean - half, mean + half, color=colour, alpha=0.18, linewidth=0)


def runs(
    axis: Any, done: Done, arm: str, read: Read, i: int, label: str, of: str = "curves", share: bool = False
) -> None:
    """What is read of the curves of an arm's runs, as `curve` draws it, against the step or the share of a run."""
    found = [result[of] for result in replicates(done, arm, dict).values() if of in result]
    if found:
        steps = [step / (found[0]["step"][-1] if share else 1) for step in found[0]["step"]]
        curve(axis, steps, [read(curves) for curves in found], i, label)


def bars(
    axis: Any, x: Sequence[float], found: Sequence[Interval], i: int, label: str, hollow: Sequence[bool] = ()
) -> None:
    """Intervals at x, joined, in colour and marker number i; some of the markers hollow."""
    errors = [[max(0.0, one.value - one.low) for one in found], [max(0.0, one.high - one.value) for one in found]]
    axis.errorbar(
        x,
        [one.value for one in found],
        errors if np.isfinite(errors).all() else None,
        fmt=MARKERS[i % len(MARKERS)],
        linestyle="-",
        color=COLOURS[i % len(COLOURS)],
        capsize=3,
        label=label,
    )
    marked = [(at, one.value) for at, one, empty in zip(x, found, hollow) if empty]
    for place in marked:
        style = {"marker": MARKERS[i % len(MARKERS)], "color": COLOURS[i % len(COLOURS)]}
        axis.plot(*place, markerfacecolor="white", zorder=3, **style)


def points(axis: Any, found: Mapping[str, Interval], i: int = 0, label: str = "", shift: float = 0.0) -> None:
    """Intervals as horizontal bars, one line for each name, top down."""
    colour = COLOURS[i % len(COLOURS)]
    for y, interval in enumerate(found.values()):
        if np.isfinite(interval.low) and np.isfinite(interval.high):
            axis.plot([interval.low, interval.high], [y + shift] * 2, color=colour, linewidth=2, alpha=0.5)
        axis.plot(interval.value, y + shift, MARKERS[i % len(MARKERS)], color=colour, markersize=5, label=label)
        label = ""
    axis.set_yticks(range(len(found)), list(found), fontsize=8)
    axis.set_ylim(len(found) - 0.5, -0.5)


def own_legend(axis: Any) -> None:
    """A legend of one panel, beside it."""
    axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)


def legend(figure: Any, axes: Any) -> None:
    """One legend for all panels, beside them."""
    handles: dict[str, Any] = {}
    for axis in np.ravel(axes):
        for handle, label in zip(*axis.get_legend_handles_labels()):
            handles.setdefault(label, handle)
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside right center", frameon=False, fontsize=8)
