"""Mutual information measured on frozen, held-out pairs of embeddings, with its ceiling and an interval, in nats."""

from . import closed_form, entropy_reconstruction, ksg
from .fixed import (
    JSD,
    TRACKED,
    TRACKING_TEMPERATURE,
    CalibratedCosDV,
    CosDV,
    InfoNCE,
    cross_fit,
    track,
)
from .result import MIEstimate
from .tasks import TASKS, Task

ESTIMATORS: dict[str, type] = TRACKED | closed_form.ESTIMATORS | ksg.ESTIMATORS | entropy_reconstruction.ESTIMATORS

__all__ = [
    "ESTIMATORS",
    "JSD",
    "TASKS",
    "TRACKED",
    "TRACKING_TEMPERATURE",
    "CalibratedCosDV",
    "CosDV",
    "InfoNCE",
    "MIEstimate",
    "Task",
    "cross_fit",
    "track",
]
