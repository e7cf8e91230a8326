"""The figures of a run, drawn from the records of metrics.jsonl. matplotlib is imported only when one is drawn.

Each function draws what the records hold and skips what they lack; when nothing is left it writes no file and returns
False. `title` names method and data set. Alarms are vertical lines at their step, grey where nothing is wrong.
"""

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import Any

from .collapse import NOTES

Records = Iterable[Mapping[str, Any]]
# Okabe and Ito's colours, which colour-blind people tell apart; red is the alarm's
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#000000")
_CARD = {"facecolor": "#fafaf7", "edgecolor": "#b8b8b2", "linewidth": 1.5}
_ALARM, _NOTE = "#D55E00", "#777777"
_LINE = {"marker": "o", "markersize": 4, "linewidth": 1.4}
_HOLLOW = {"marker": "o", "markersize": 6, "markerfacecolor": "white", "linestyle": "none"}
_QUALITY = {
    "top-1 accuracy (%)": {"kNN": "knn_top1", "linear probe": "linear_top1"},
    "rank of z\n(log scale)": {"RankMe": "rank/rankme", "effective rank": "rank/effective_rank"},
    "spread of z/‖z‖": {
        "√D · std\n(1 isotropic,\n0 collapsed)": "collapse/std",
        "mean cosine\n(0 isotropic,\n1 collapsed)": "collapse/mean_cosine",
    },
    "views of z/‖z‖\n(lower is better)": {
        "alignment\n(of positives)": "collapse/alignment",
        "uniformity\n(of all)": "collapse/uniformity",
    },
}
_STYLES = ("-", "-", (0, (3, 3)), "-.")


def training_figure(records: Records, path: str | PathLike, title: str = "") -> bool:
    """The objective and each of its weighted joint and marginal terms against the training step."""
    records = list(records)
    names = sorted({key for record in records for key in record if key.startswith(("joint/", "marginal/"))})
    curves = {name: _series(records, name) for name in ["value", *names]}
    panels = [
        ("objective\nL = ΣJ − ΣM", {"value": curves.pop("value")}),
        ("joint terms J\n(weighted)", {name: c for name, c in curves.items() if name.startswith("joint/")}),
        ("marginal terms M\n(weighted)", {name: c for name, c in curves.items() if name.startswith("marginal/")}),
    ]
    return _stacked(records, panels, path, f"{title}\nterms in nats where the objective is a bound")


_SPACES = {"embeddings z": "eval/mi/", "representations h": "eval/mi_h/", "z, online and target": "eval/mi_target/"}


def mi_figure(records: Records, path: str | PathLike, title: str = "") -> bool:
    """Held-out MI against the step: of z, of h, and of z with the target's; 95 % bands, ceilings dashed, in nats.

    Dots are hollow where an estimate is saturated.
    """
    records = list(records)
    panels = {}
    for space, prefix in _SPACES.items():
        keys = {key for record in records for key in record if key.startswith(prefix)}
        curves = {key.removeprefix(prefix): key for key in sorted(keys) if key.count("/") == prefix.count("/")}
        curves = {name: key for name, key in curves.items() if _series(records, key)[0]}
        if curves:
            panels[space] = curves
    if not panels:
        return False

    names = sorted({name for curves in panels.values() for name in curves})
    figure = new_figure(width=4.2 * len(panels) + 2.2, height=4.2)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, space in zip(axes, panels):
        draw_estimates(axis, records, _SPACES[space], names)
        axis.set(title=space, xlabel="step")
        axis.grid(alpha=0.3)
        _mark_alarms(axis, records)
    axes[0].set_ylabel("mutual information, lower bound (nats)")
    figure.legend(handles=legend_of_estimates(names), loc="outside right upper", frameon=False)
    figure.suptitle(title)
    figure.savefig(path)
    return True


def draw_estimates(axis: Any, records: Records, prefix: str, names: Sequence[str]) -> None:
    """The curves of these estimators in one space, each in the colour of its place among the names."""
    records = list(records)
    for i, name in enumerate(names):
        key, colour = prefix + name, COLOURS[i % len(COLOURS)]
        style = _STYLES[i % len(_STYLES)]  # curves may coincide: each colour has to show
        axis.plot(*_series(records, key), color=colour, linestyle=style, **_LINE)  # one record alone: dot and bar
        saturated = [record for record in records if record.get(f"{key}/saturated")]
        axis.plot(*_series(saturated, key), color=colour, **_HOLLOW)
        (steps, low), (_, high) = _series(records, f"{key}/low"), _series(records, f"{key}/high")
        if len(low) == len(high):
            axis.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
            axis.vlines(steps, low, high, color=colour, alpha=0.4, linewidth=1)
        # ceilings often coincide at log n: staggered dashes let every colour show
        dashes = (4 * i, (4, 4 * max(1, len(names) - 1)))
        for ceiling in _series(records, f"{key}/ceiling")[1][-1:]:
            axis.axhline(ceiling, color=colour, linewidth=1.4, linestyle=dashes)


def legend_of_estimates(names: Sequence[str]) -> list[Any]:
    """The legend's handles for what `draw_estimates` draws."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=COLOURS[i % len(COLOURS)], linestyle=_STYLES[i % len(_STYLES)], label=name, **_LINE)
        for i, name in enumerate(names)
    ]
    handles.append(Line2D([], [], color="grey", label="above 90 % of its ceiling", **_HOLLOW))
    handles.append(Line2D([], [], color="grey", linestyle="--", label="ceiling"))
    return [*handles, Line2D([], [], color="grey", linewidth=7, alpha=0.3, label="95 % interval")]


def quality_figure(records: Records, path: str | PathLike, title: str = "") -> bool:
    """Accuracies, ranks, and how embeddings spread on the sphere, against the step."""
    records = list(records)
    panels = [
        (label, {name: _series(records, f"eval/{key}", 100 if "%" in label else 1) for name, key in curves.items()})
        for label, curves in _QUALITY.items()
    ]
    return _stacked(records, panels, path, title, from_zero=True)


def _series(records: list[Mapping[str, Any]], key: str, scale: float = 1.0) -> tuple[list[float], list[float]]:
    """Steps and values of the records that have the key; lines of JSON may hold null where there was no number."""
    seen = [(record["step"], scale * record[key]) for record in records if record.get(key) is not None]
    return [step for step, _ in seen], [value for _, value in seen]


def _mark_alarms(axis: Any, records: list[Mapping[str, Any]], named: bool = True) -> None:
    """A vertical line at the step of each alarm, with the names of what was raised there."""
    raised = [(record["step"], record["alarm"]) for record in records if record.get("alarm")]
    for i, (step, alarm) in enumerate(raised):
        colour = _NOTE if set(alarm) <= set(NOTES) else _ALARM
        axis.axvline(step, color=colour, linewidth=1.2, linestyle=":")
        y, side = ((0.98, "top"), (0.02, "bottom"))[i % 2]  # neighbours apart
        if named:
            text = ", ".join(alarm).replace("_", " ")
            at = {"xycoords": axis.get_xaxis_transform(), "xytext": (-3, 0), "textcoords": "offset points"}
            box = {"facecolor": "white", "alpha": 0.85, "linewidth": 0, "pad": 0.5}
            axis.annotate(text, (step, y), **at, color=colour, fontsize=8, rotation=90, ha="right", va=side, bbox=box)


def _stacked(
    records: list[Mapping[str, Any]], panels: list[tuple[str, dict]], path: str | PathLike, title: str, from_zero=False
) -> bool:
    """One panel above the other for each (label, {name: (steps, values)}) that has something to show."""
    panels = [(label, {name: c for name, c in curves.items() if c[0]}) for label, curves in panels]
    panels = [(label, curves) for label, curves in panels if curves]
    if not panels:
        return False
    figure = new_figure(width=8.0, height=0.8 + 2.1 * len(panels))
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (label, curves) in zip(axes, panels):
        axis.set_prop_cycle(color=COLOURS)
        for name, (steps, values) in curves.items():
            axis.plot(steps, values, label=name, **(_LINE if len(steps) <= 60 else {"linewidth": 1.2}))
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
        if "log scale" in label:
            axis.set_yscale("log", base=2)
            axis.yaxis.set_major_formatter("{x:g}")
            axis.set_ylim(bottom=1)
        elif from_zero:
            seen = [value for _, values in curves.values() for value in values]
            axis.set_ylim(min(0, 1.1 * min(seen)), 1.1 * max(0, *seen) or 1)
        _mark_alarms(axis, records, named=axis is axes[0])
    axes[-1].set_xlabel("step")
    figure.suptitle(title.strip())
    figure.savefig(path)
    return True


def new_figure(width: float, height: float) -> Any:
    """An empty figure of so many inches: a card of its own, on which words and colours show on dark pages too."""
    from matplotlib.figure import Figure  # not pyplot: no display, no global state

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained", **_CARD)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    return figure
