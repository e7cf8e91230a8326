"""The tracked MI of whole runs: the evidence that recipes/reproduce.py has left of CIFAR-10."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from harness import rises
from reporting import share_interval, table
from reproducing.evidence import read_all

MATRIX = "cifar10_ten_epochs"
ROWS = ("sdmi", "jmi", "simsiam", "barlow_twins")


def cifar_runs(directory: Path, key: str = "cos_dv") -> dict[str, list[tuple[list[int], list[float]]]]:
    """By row, steps and held-out values of that bound of each seed."""
    runs = [(run.method, run.curve(f"eval/mi/{key}")) for run in read_all(directory / MATRIX)]
    found = {row: [curve for method, curve in runs if method == row and len(curve[0]) > 2] for row in ROWS}
    return {row: curves for row, curves in found.items() if curves}


def cifar(directory: Path, bounds: Mapping[str, str], tolerance: float) -> str:
    """The page's section about them: of each bound the end, and the share of steps that fall by no more."""
    command = f"python recipes/reproduce.py --matrix recipes/matrices/{MATRIX}.yaml"
    found = {name: cifar_runs(directory, key) for name, key in bounds.items()}
    if not any(found.values()):
        return (
            f"## CIFAR-10\n\nNot among these runs. `{command}` makes them (hours on two cores; it resumes), and "
            "their evidence is taken up here."
        )
    rows = [[f"`{row}`", *(_cell(runs.get(row, ()), tolerance) for runs in found.values())] for row in ROWS]
    text = table(["row", *found], rows)
    return (
        f"## CIFAR-10\n\nOf the runs of `{command}`: each bound on held-out views at the end, of each seed, and the "
        f"share of steps between evaluations in which it falls by at most {tolerance} nats.\n\n{text}"
    )


def _cell(curves: Sequence[tuple[list[int], list[float]]], tolerance: float) -> str:
    if not curves:
        return "–"
    hits = [rises("mi", tolerance)({"curves": {"mi": values}}) for _, values in curves]
    share = share_interval([sum(one) for one in hits], [len(one) for one in hits])
    ends = ", ".join(f"{values[-1]:.3f}" for _, values in curves)
    return f"{ends}; {share.value:.2f} ({share.low:.2f} to {share.high:.2f})"
