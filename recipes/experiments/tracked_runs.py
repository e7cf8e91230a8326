"""The tracked MI of whole runs: what recipes/reproduce.py has trained on CIFAR-10."""

from collections.abc import Mapping
from pathlib import Path

from reading import rises
from reporting import share_interval, table

from hf_mi_ssl.training import read_records


def cifar_runs(directory: Path | None) -> Mapping[str, list[dict]]:
    """The evaluations of each run below a directory of recipes/reproduce.py."""
    found = {}
    for path in sorted(directory.rglob("metrics.jsonl")) if directory else ():
        records = [record for record in read_records(path) if "eval/mi/cos_dv" in record]
        if len(records) > 2:
            found[path.parent.name] = records
    return found


def cifar(directory: Path | None, tolerance: float) -> str:
    """The page's section about them: the share of steps in which held-out cos-DV falls by no more."""
    command = "python recipes/reproduce.py --matrix recipes/reproduce/cifar10_tracking_cpu.yaml"
    runs = cifar_runs(directory)
    if not runs:
        return (
            f"## CIFAR-10\n\nNot among these runs. `{command}` makes them (an hour on two cores; it resumes), and "
            "`--reproduced runs/reproduce/cifar10_tracking_cpu` adds them here."
        )
    rows = []
    for name, records in runs.items():
        values = [record["eval/mi/cos_dv"] for record in records]
        hits = rises("cos_dv", tolerance)({"curves": {"cos_dv": values}})
        found = share_interval([sum(hits)], [len(hits)])
        rows.append([f"`{name}`", f"{values[-1]:.3f}", f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"])
    text = table(["run", "cos-DV at the end", f"share, fall ≤ {tolerance}"], rows)
    return f"## CIFAR-10\n\nOf the runs of `{command}`.\n\n{text}"
