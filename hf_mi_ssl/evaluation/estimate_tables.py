"""What estimators say, beside each other: tables in markdown and figures, of tasks with a known truth and of models.

A row is an `MIEstimate` as a dictionary, with its `estimator`, its `seconds` of CPU time, and its `task`, `truth` and
`error`, or its `space`; or, in place of the estimate, why it was `refused`.
"""

from os import PathLike
from statistics import mean, median
from typing import Any

from .figures import COLOURS, new_figure

Rows = list[dict[str, Any]]
_COLUMNS = 6  # panels side by side
_LEGEND = "blue: lower bounds, orange: not; dots: estimates, bars: 95 % intervals"


def task_table(rows: Rows) -> str:
    """Task × estimator, `value (signed error)`, in nats; what is no lower bound is marked."""
    cells = {(row["task"], row["estimator"]): row for row in rows}
    measured = {name: [row for row in rows if row["estimator"] == name and "value" in row] for name in _names(rows)}
    marks = {
        name: "" if all(row["kind"] == "lower_bound" for row in found) else " †" for name, found in measured.items()
    }
    lines = [["task", "truth", *(name + marks[name] for name in measured)], ["---", *["---:"] * (len(measured) + 1)]]
    for task in dict.fromkeys(row["task"] for row in rows):
        found = [cells[task, name] for name in measured]
        values = [f"{row['value']:.2f} ({row['error']:+.2f})" if "value" in row else "–" for row in found]
        lines.append([task, f"{found[0]['truth']:.2f}", *values])
    errors = {name: [abs(row["error"]) for row in found] for name, found in measured.items()}
    counts = [f"{mean(found):.2f} (of {len(found)})" if found else "–" for found in errors.values()]
    times = [f"{median(row['seconds'] for row in found):.2f}" if found else "–" for found in measured.values()]
    lines += [["mean absolute error", "", *counts], ["median CPU seconds", "", *times]]
    above = [
        f"{row['estimator']} on {row['task']} ({row['error']:+.2f}, standard error {row['standard_error']:.2f})"
        for row in rows
        if row.get("kind") == "lower_bound" and row["error"] > 3 * row["standard_error"]
    ]
    return (
        f"{markdown_table(lines)}\n\nIn nats. †: not a lower bound. –: refused. "
        f"Lower bounds above the truth by more than three standard errors: {', '.join(above) or 'none'}.\n"
    )


def task_page(template: str, evidence: dict[str, Any], fast: list[str]) -> str:
    """The published page: a Jinja template with tables of the evidence (title, estimates), `fast` estimators apart."""
    import jinja2

    rows = evidence["estimates"]
    groups = [[row for row in rows if (row["estimator"] in fast) == quick] for quick in (True, False)]

    def tightest(task: str) -> dict[str, Any]:
        bounds = [row for row in rows if row["task"] == task and row.get("kind") == "lower_bound"]
        return min(bounds, key=lambda row: abs(row["error"]))

    def mended(task: str) -> dict[str, Any]:
        return next(row for row in rows if (row["task"], row["estimator"]) == (task, "mended_gaussian"))

    facts = {"title": evidence["title"], "fast": task_table(groups[0]), "slow": task_table(groups[1])}
    minutes = sum(row.get("seconds", 0) for row in groups[0]) / 60
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    return environment.from_string(template).render(facts, minutes=minutes, tightest=tightest, mended=mended)


def model_table(rows: Rows) -> str:
    """A line for each space and estimator, with interval, ceiling, n and what there is to say of it."""
    lines = [["space", "estimator", "kind", "nats (95 % interval)", "ceiling", "n", "remarks"], ["---"] * 7]
    for row in rows:
        if "refused" in row:
            facts = ["refused", "–", "–", "–", row["refused"]]
        else:
            value = f"{row['value']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
            ceiling = "none" if row["ceiling"] is None else f"{row['ceiling']:.2f}"
            facts = [row["kind"].replace("_", " "), value, ceiling, f"{row['n']:,}", "; ".join(row["warnings"])]
        lines.append([row["space"], row["estimator"], *facts])
    return markdown_table(lines) + "\n"


def task_figure(rows: Rows, path: str | PathLike, title: str = "") -> None:
    """Estimate against truth: a panel for each estimator, in it a line from truth to estimate for each task."""
    panels = {name: [row for row in rows if row["estimator"] == name and "value" in row] for name in _names(rows)}
    panels = {name: found for name, found in panels.items() if found}
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    columns = min(_COLUMNS, max(1, len(panels)))
    lines = max(1, -(-len(panels) // columns))
    figure = new_figure(width=2.6 * columns + 1.6, height=(0.7 + 0.17 * len(tasks)) * lines + 0.9)
    axes = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    least = min([0.0, *(row["value"] for found in panels.values() for row in found)])
    most = 1.2 * max(1.0, *(row["truth"] for found in panels.values() for row in found))
    for axis, (name, found) in zip(axes.flat, panels.items()):
        colour = _colour(found[0])
        for row in found:
            y = tasks.index(row["task"])
            axis.plot([row["truth"], row["value"]], [y, y], color=colour, linewidth=1.2, alpha=0.5)
            axis.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=3, alpha=0.4)
            axis.plot(row["truth"], y, "|", color="black", markersize=8, markeredgewidth=1.6)
            axis.plot(row["value"], y, "o", color=colour, markersize=4)
            if row["value"] > most:  # one that is far off would press all others together
                axis.text(most, y, f"{row['value']:.0f} →", ha="right", va="bottom", fontsize=8, color=colour)
        error = mean(abs(row["error"]) for row in found)
        axis.set_title(f"{name}\nmean |error| {error:.2f}, {len(found)} of {len(tasks)} tasks", fontsize=9)
        axis.set_yticks(range(len(tasks)), tasks, fontsize=8)
        axis.grid(alpha=0.3)
    axes[0, 0].invert_yaxis()
    axes[0, 0].set_xlim(least - 0.05 * most, most)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis in axes.flat[max(0, len(panels) - columns) : len(panels)]:  # the lowest of each column
        axis.tick_params(labelbottom=True)
        axis.set_xlabel("nats")
    figure.suptitle(f"{title}\n{_LEGEND}; black ticks: truth", fontsize=10)
    figure.savefig(path)


def model_figure(rows: Rows, path: str | PathLike, title: str = "") -> None:
    """Estimates with 95 % intervals and ceilings, a panel for each space."""
    names = [name for name in _names(rows) if any("value" in row for row in rows if row["estimator"] == name)]
    spaces = list(dict.fromkeys(row["space"] for row in rows))
    figure = new_figure(width=4.0 * len(spaces) + 2.0, height=1.6 + 0.34 * len(names))
    axes = figure.subplots(1, len(spaces), sharex=True, sharey=True, squeeze=False)[0]
    for axis, space in zip(axes, spaces):
        for row in rows:
            if row["space"] == space and "value" in row:
                y, colour = names.index(row["estimator"]), _colour(row)
                axis.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=2)
                axis.plot(row["value"], y, "o", color=colour, markersize=5)
                if row["ceiling"] is not None:
                    axis.plot(row["ceiling"], y, "|", color="grey", markersize=11, markeredgewidth=2)
        axis.set(title=space, xlabel="nats", yticks=range(len(names)), yticklabels=names)
        axis.grid(alpha=0.3)
    axes[0].invert_yaxis()
    figure.suptitle(f"{title}\n{_LEGEND}; grey ticks: ceilings", fontsize=10)
    figure.savefig(path)


def _colour(row: dict[str, Any]) -> str:
    return COLOURS[0 if row["kind"] == "lower_bound" else 1]


def _names(rows: Rows) -> list[str]:
    return list(dict.fromkeys(row["estimator"] for row in rows))


def markdown_table(lines: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join(f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths))} |" for line in lines)
