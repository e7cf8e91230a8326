"""What a run achieved, for a person: the table that a recipe prints last, and its figures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .figures import Records, mi_figure, quality_figure, training_figure

FIGURES = {"training.png": training_figure, "mi.png": mi_figure, "quality.png": quality_figure}


def draw_figures(records: Records, directory: Path, title: str) -> list[Path]:
    """Draw every figure that the records of `metrics.jsonl` have something for; returns the files written."""
    directory.mkdir(parents=True, exist_ok=True)
    return [directory / name for name, draw in FIGURES.items() if draw(records, directory / name, title)]


def summary_table(results: Mapping[str, Any]) -> str:
    """The evaluations of `results.json` as a short table: pixels, random, trained; then MI in nats."""
    found = {(row["encoder"], row["branch"], row["name"]): row for row in results["evaluations"]}
    lines = [""]
    accuracies = [key for key in found if key[2] in ("knn_top1", "linear_top1")]
    if accuracies:
        row = found[accuracies[0]]
        lines += [f"top-1 accuracy on {row['n']:,} images of {row['split']} (95 % interval)", ""]
        lines.append(f"{'encoder':<18}{'kNN':<24}linear probe")
        for encoder, branch in dict.fromkeys((encoder, branch) for encoder, branch, _ in accuracies):
            name = f"{encoder}, target" if branch == "target" else encoder
            cells = [_percent(found.get((encoder, branch, metric))) for metric in ("knn_top1", "linear_top1")]
            lines.append(f"{name:<18}{cells[0]:<24}{cells[1]:<24}".rstrip())
        lines.append("")
    estimates = [key for key in found if key[0] == "trained" and "ceiling" in found[key]]
    if estimates:
        lines += ["mutual information of two views, lower bounds in nats (95 % interval)", ""]
        lines.append(f"{'':<40}{'random':<26}{'trained':<26}ceiling")
    for encoder, branch, name in estimates:
        cells = [_nats(found.get((kind, branch, name))) for kind in ("random", encoder)]
        row = found[encoder, branch, name]
        near = " (saturated)" if row.get("saturated") else ""
        lines.append(f"{_label(name):<40}{cells[0]:<26}{cells[1]:<26}{row['ceiling']:.2f}{near}")
    lines += [""] if estimates else []
    for name, label in (
        ("rank/effective_rank", "effective rank of z"),
        ("rank/rankme", "RankMe of z"),
        ("collapse/std", "std of z (1: isotropic, 0: collapsed)"),
    ):
        values = [found.get((kind, "online", name)) for kind in ("random", "trained")]
        if all(values):
            lines.append(f"{label:<38}random {values[0]['value']:<9.3g}trained {values[1]['value']:.3g}")
    return "\n".join(lines)


def _label(name: str) -> str:
    space, estimator = name.split("/", 1)
    where = {"mi": "embeddings z", "mi_h": "representations h", "mi_target": "z, online and target"}[space]
    return f"{where}: {estimator}"


def _percent(row: Mapping[str, Any] | None) -> str:
    return "" if row is None else f"{100 * row['value']:.1f} % ({100 * row['low']:.1f} to {100 * row['high']:.1f})"


def _nats(row: Mapping[str, Any] | None) -> str:
    return "" if row is None else f"{row['value']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
