"""The tracked MI of whole runs: the evidence that recipes/reproduce.py has left of CIFAR-10."""

from pathlib import Path

from harness import rises
from reporting import share_interval, table
from reproducing.evidence import read_all

MATRIX = "cifar10_tracking_cpu"


def cifar_runs(directory: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and cos-DV of each run of the matrix."""
    found = {run.name.split("/")[-1]: run.curve("eval/mi/cos_dv") for run in read_all(directory / MATRIX)}
    return {name: curve for name, curve in found.items() if len(curve[0]) > 2}


def cifar(directory: Path, tolerance: float) -> str:
    """The page's section about them: the share of steps in which held-out cos-DV falls by no more."""
    command = f"python recipes/reproduce.py --matrix recipes/reproduce/{MATRIX}.yaml"
    runs = cifar_runs(directory)
    if not runs:
        return (
            f"## CIFAR-10\n\nNot among these runs. `{command}` makes them (an hour on two cores; it resumes), and "
            "their evidence is taken up here."
        )
    rows = []
    for name, (_, values) in runs.items():
        hits = rises("cos_dv", tolerance)({"curves": {"cos_dv": values}})
        found = share_interval([sum(hits)], [len(hits)])
        rows.append([f"`{name}`", f"{values[-1]:.3f}", f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"])
    text = table(["run", "cos-DV at the end", f"share, fall ≤ {tolerance}"], rows)
    return f"## CIFAR-10\n\nOf the runs of `{command}`.\n\n{text}"
