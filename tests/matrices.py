"""Matrices of runs, and runs that stand in for those of the recipes."""

import itertools
import json
from pathlib import Path

import yaml
from reproducing.matrix import declared_runs, read_matrix

RECIPES = Path(__file__).resolve().parent.parent / "recipes"


SMALL = {"name": "small", "methods": ["jmi", "simsiam", "sdmi"], "first": ["sdmi"], "datasets": {"shapes": {}}}


def matrix_file(tmp_path, **more) -> Path:
    path = tmp_path / "matrix.yaml"
    path.write_text(yaml.safe_dump(SMALL | more))
    return path


def runs_of(tmp_path, **more):
    return declared_runs(read_matrix(matrix_file(tmp_path, **more)), tmp_path / "runs")


def evaluation(name, value, encoder="trained", half=None, **more) -> dict:
    ends = {"low": None, "high": None} if half is None else {"low": value - half, "high": value + half}
    row = {"name": name, "value": value, "encoder": encoder, "branch": "online", "n": 1000, "split": "test"}
    return row | ends | {"protocol": f"{name} as ever"} | more


def results_of(knn: float, **more) -> dict:
    """Made-up results."""
    return {
        "steps": 2, "images_seen": 128, "hardware": {"device": "Abacus", "threads": 1}, "versions": {"torch": "9.9"},
        "timing": {"train_seconds": 90.0, "images_per_second": 123.4},
        "evaluations": [
            evaluation("knn_top1", 0.99, half=0.01, branch="target"),
            evaluation("knn_top1", 0.25, "pixels", 0.05),
            evaluation("knn_top1", 0.3, "random", 0.05),
            evaluation("knn_top1", knn, half=0.05),
            evaluation("linear_top1", 0.61, half=0.01),
            evaluation("mi/cos_dv", 0.1, "random", 0.01, ceiling=6.5),
            evaluation("mi/cos_dv", 1.5, half=0.25, ceiling=6.5),
            evaluation("rank/effective_rank", 7.25),
            evaluation("rank/rankme", 9.0),
        ],
    } | more  # fmt: skip


def write_run(run, knn: float, value: float, **more) -> None:
    run.directory.mkdir(parents=True)
    (run.directory / "training_args.json").write_text(json.dumps(run.args.to_dict()))
    (run.directory / "results.json").write_text(json.dumps(results_of(knn, **more)))
    records = [{"step": 1, "value": -1.0}, {"step": 2, "value": value}, {"step": 2, "eval/mi/cos_dv": 9}]
    (run.directory / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def table_of(page: str) -> list[str]:
    """The lines of the first table."""
    lines = itertools.dropwhile(lambda line: not line.startswith("|"), page.splitlines())
    return [*itertools.takewhile(lambda line: line.startswith("|"), lines)][2:]
