"""What was tracked: held-out MI of each row with its intervals and ceilings, and all rows beside each other."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_mi_ssl.evaluation.collapse import NOTES
from hf_mi_ssl.evaluation.figures import draw_estimates, legend_of_estimates

from .comparison import CANONICAL, ESTABLISHED, by_method, markdown, spread
from .evidence import Evidence
from .figures import GREY, NEUTRAL, label_of, style_of

ESTIMATES = ("cos_dv", "cos_dv_calibrated", "info_nce", "jsd")
COMPARED = {
    "eval/mi/cos_dv_calibrated": "MI of z, calibrated cos-DV (nats)",
    "eval/mi_h/cos_dv_calibrated": "MI of h, calibrated cos-DV (nats)",
    "eval/knn_top1": "kNN accuracy of h",
    "eval/rank/rankme": "RankMe of z (log scale)",
    "eval/rank/effective_rank": "effective rank of z (log scale)",
    "eval/collapse/std": "√D · std of z/‖z‖ (0: collapsed)",
}
CURVE = "mi/cos_dv_calibrated"


def mi_figure(done: Sequence[Evidence], path: Path) -> bool:
    """Held-out MI of z of the prototypes and the established methods, one seed of each; whether there was any."""
    rows = {method: runs[0] for method, runs in by_method(done).items() if method in (*CANONICAL, *ESTABLISHED)}
    rows = {method: run for method, run in rows.items() if len(run.curve(f"eval/mi/{ESTIMATES[0]}")[0]) > 1}
    if not rows:
        return False
    columns = min(4, len(rows))
    lines = -(-len(rows) // columns)
    figure, axes = _panels(lines, columns, (3.1 * columns + 1.9, 2.7 * lines + 0.3), sharey=True)
    for axis, (method, run) in zip(axes, rows.items()):
        draw_estimates(axis, run.records(), "eval/mi/", ESTIMATES)
        axis.set_title(method, color=GREY)
        axis.set_xlabel("step")
    for axis in axes[::columns]:
        axis.set_ylabel("MI of z (nats)")
    figure.legend(handles=legend_of_estimates(ESTIMATES), loc="outside right upper", frameon=False, labelcolor=GREY)
    _save(figure, path)
    return True


def rows_figure(done: Sequence[Evidence], path: Path) -> None:
    """Each quantity against the epoch, a line for each row, the mean of its seeds."""
    figure, axes = _panels(2, 3, (12.5, 7.2))
    for axis, (key, label) in zip(axes, COMPARED.items()):
        for method, runs in by_method(done).items():
            curves = [curve for run in runs if len((curve := run.curve(key))[0]) > 1]
            if curves:
                length = min(len(steps) for steps, _ in curves)
                epochs = np.array(curves[0][0][:length]) / runs[0].results["steps"] * runs[0].curve("epoch")[1][-1]
                values = np.mean([values[:length] for _, values in curves], axis=0)
                axis.plot(epochs, values, label=label_of(method), markersize=4, **style_of(method))
        axis.set(title=label, xlabel="epoch")
        axis.title.set(color=GREY, fontsize=10)
        if "log" in label:
            axis.set_yscale("log", base=2)
            axis.yaxis.set_major_formatter("{x:g}")
    handles = dict(zip(*axes[0].get_legend_handles_labels()[::-1]))  # by label
    figure.legend(
        handles.values(), handles, loc="outside lower center", ncols=min(9, len(handles)), frameon=False,
        labelcolor=GREY,
    )  # fmt: skip
    _save(figure, path)


def growth_table(done: Sequence[Evidence]) -> str:
    """The verdict on each row's MI of z, and what the alarm said of any of its runs."""
    lines = [["method", "MI of z grew", "net gain, nats", "smallest in standard errors", "monotone share", "alarm"]]
    lines.append(["---"] * len(lines[0]))
    for method, runs in by_method(done).items():
        found = [run.results["growth"][CURVE] for run in runs if CURVE in run.results.get("growth", {})]
        raised = {alarm["kind"]: alarm for run in runs for alarm in run.results.get("alarms", [])}
        said = ", ".join(f"{kind.replace('_', ' ')}{' (a note)' if kind in NOTES else ''}" for kind in sorted(raised))
        reasons = sorted({reason for one in found for reason in one["because"]})
        grew = f"{sum(one['grew'] for one in found)} of {len(found)}" + (f": {'; '.join(reasons)}" if reasons else "")
        errors = [one["gain"] / one["standard_error"] for one in found if one["standard_error"]]
        gain, share = (spread([one[key] for one in found], 2, number=False) for key in ("gain", "monotone_share"))
        lines.append([f"`{method}`", grew, gain, f"{min(errors):.0f}" if errors else "—", share, said or "none"])
    return markdown(lines)


def _panels(rows: int, columns: int, size: tuple[float, float], **shared: bool) -> tuple[Any, Any]:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(NEUTRAL):
        figure = Figure(figsize=size, dpi=100, layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, **shared).ravel()
        for axis in axes:
            axis.grid(True)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    import matplotlib

    with matplotlib.rc_context(NEUTRAL):
        for axis in figure.axes:
            axis.set_axis_on() if axis.has_data() else axis.set_axis_off()
        figure.savefig(path)
