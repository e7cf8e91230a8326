"""The tracked MI of whole runs: the evidence that recipes/reproduce.py has left of CIFAR-10."""

from pathlib import Path

from harness import rises
from reporting import share_interval, table
from reproducing.evidence import read_all

MATRIX = "cifar10_ten_epochs"
ROWS = ("sdmi", "jmi", "simsiam", "barlow_twins")


def cifar_runs(directory: Path) -> dict[str, list[tuple[list[int], list[float]]]]:
    """By row, steps and held-out cos-DV of each seed."""
    runs = [run for run in read_all(directory / MATRIX) if len(run.curve("eval/mi/cos_dv")[0]) > 2]
    found = {row: [run.curve("eval/mi/cos_dv") for run in runs if run.method == row] for row in ROWS}
    return {row: curves for row, curves in found.items() if curves}


def cifar(directory: Path, tolerance: float) -> str:
    """The page's section about them: the share of steps in which held-out cos-DV falls by no more."""
    command = f"python recipes/reproduce.py --matrix recipes/matrices/{MATRIX}.yaml"
    runs = cifar_runs(directory)
    if not runs:
        return (
            f"## CIFAR-10\n\nNot among these runs. `{command}` makes them (hours on two cores; it resumes), and "
            "their evidence is taken up here."
        )
    rows = []
    for row, curves in runs.items():
        hits = [rises("cos_dv", tolerance)({"curves": {"cos_dv": values}}) for _, values in curves]
        found = share_interval([sum(one) for one in hits], [len(one) for one in hits])
        ends = ", ".join(f"{values[-1]:.3f}" for _, values in curves)
        rows.append([f"`{row}`", ends, f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"])
    text = table(["row", "cos-DV at the end, each seed", f"share, fall ≤ {tolerance}"], rows)
    return f"## CIFAR-10\n\nOf the runs of `{command}`.\n\n{text}"
