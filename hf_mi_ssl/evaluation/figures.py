"""The figures of a run, drawn from the records of metrics.jsonl. matplotlib is imported only when one is drawn.

Each function draws what the records hold and skips what they lack; when nothing is left it writes no file and returns
False. `title` names method and data set.
"""

from collections.abc import Iterable, Mapping
from os import PathLike
from typing import Any

Records = Iterable[Mapping[str, Any]]
_LINE = {"marker": "o", "markersize": 3, "linewidth": 1.4}
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
    return _stacked(panels, path, f"{title}\nterms in nats where the objective is a bound")


def mi_figure(records: Records, path: str | PathLike, title: str = "") -> bool:
    """Held-out MI against the step: of embeddings z and of representations h, 95 % bands, ceilings dashed, in nats."""
    records = list(records)
    panels = {}
    for space, prefix in (("embeddings z", "eval/mi/"), ("representations h", "eval/mi_h/")):
        keys = {key for record in records for key in record if key.startswith(prefix)}
        curves = {key.removeprefix(prefix): key for key in sorted(keys) if key.count("/") == prefix.count("/")}
        curves = {name: key for name, key in curves.items() if _series(records, key)[0]}
        if curves:
            panels[space] = curves
    if not panels:
        return False

    from matplotlib.lines import Line2D

    names = sorted({name for curves in panels.values() for name in curves})
    figure = _figure(width=4.2 * len(panels) + 2.2, height=4.2)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (space, curves) in zip(axes, panels.items()):
        for name, key in curves.items():
            colour = f"C{names.index(name)}"
            style = _STYLES[names.index(name) % len(_STYLES)]  # curves may coincide: each colour has to show
            axis.plot(*_series(records, key), color=colour, linestyle=style, **_LINE)  # one record alone: dot and bar
            (steps, low), (_, high) = _series(records, f"{key}/low"), _series(records, f"{key}/high")
            if len(low) == len(high):
                axis.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
                axis.vlines(steps, low, high, color=colour, alpha=0.4, linewidth=1)
            # ceilings often coincide at log n: staggered dashes let every colour show
            dashes = (4 * names.index(name), (4, 4 * max(1, len(names) - 1)))
            for ceiling in _series(records, f"{key}/ceiling")[1][-1:]:
                axis.axhline(ceiling, color=colour, linewidth=1.4, linestyle=dashes)
        axis.set(title=space, xlabel="step")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("mutual information, lower bound (nats)")
    handles = [
        Line2D([], [], color=f"C{i}", linestyle=_STYLES[i % len(_STYLES)], label=name, **_LINE)
        for i, name in enumerate(names)
    ]
    handles.append(Line2D([], [], color="grey", linestyle="--", label="ceiling"))
    handles.append(Line2D([], [], color="grey", linewidth=7, alpha=0.3, label="95 % interval"))
    figure.legend(handles=handles, loc="outside right upper", frameon=False)
    figure.suptitle(title)
    figure.savefig(path)
    return True


def quality_figure(records: Records, path: str | PathLike, title: str = "") -> bool:
    """kNN and linear accuracy, RankMe and the collapse diagnostic against the step."""
    records = list(records)
    panels = [
        (
            "top-1 accuracy (%)",
            {
                name: _series(records, key, scale=100)
                for name, key in (("kNN", "eval/knn_top1"), ("linear probe", "eval/linear_top1"))
            },
        ),
        ("RankMe\n(dimensions)", {"rankme": _series(records, "eval/rank/rankme")}),
        ("√D · std of z/‖z‖\n(1 isotropic, 0 collapsed)", {"std": _series(records, "eval/collapse/std")}),
    ]
    return _stacked(panels, path, title, from_zero=True)


def _series(records: list[Mapping[str, Any]], key: str, scale: float = 1.0) -> tuple[list[float], list[float]]:
    """Steps and values of the records that have the key; lines of JSON may hold null where there was no number."""
    seen = [(record["step"], scale * record[key]) for record in records if record.get(key) is not None]
    return [step for step, _ in seen], [value for _, value in seen]


def _stacked(panels: list[tuple[str, dict]], path: str | PathLike, title: str, from_zero: bool = False) -> bool:
    """One panel above the other for each (label, {name: (steps, values)}) that has something to show."""
    panels = [(label, {name: c for name, c in curves.items() if c[0]}) for label, curves in panels]
    panels = [(label, curves) for label, curves in panels if curves]
    if not panels:
        return False
    figure = _figure(width=8.0, height=0.8 + 2.1 * len(panels))
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (label, curves) in zip(axes, panels):
        for name, (steps, values) in curves.items():
            axis.plot(steps, values, label=name, **(_LINE if len(steps) <= 60 else {"linewidth": 1.2}))
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
        if from_zero:
            axis.set_ylim(0, 1.1 * max(max(values) for _, values in curves.values()) or 1)
    axes[-1].set_xlabel("step")
    figure.suptitle(title.strip())
    figure.savefig(path)
    return True


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure  # not pyplot: no display, no global state

    return Figure(figsize=(width, height), dpi=120, layout="constrained")
