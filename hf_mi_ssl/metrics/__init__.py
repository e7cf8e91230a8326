"""What is measured, as modules of `evaluate`: a directory each, which `evaluate.load` takes by its path."""

from pathlib import Path

from ..errors import refuse_unknown

METRICS = ("knn", "linear_probe", "mi_bounds", "rank")


def load(name: str):
    """The `evaluate` module of that name, its inputs kept in memory. Raises UserError for an unknown name."""
    refuse_unknown("metric", [name], METRICS)
    import evaluate  # takes seconds

    return evaluate.load(str(Path(__file__).parent / name), keep_in_memory=True)
