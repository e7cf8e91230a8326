"""Mutual information measured on frozen, held-out pairs of embeddings, with its ceiling and an interval, in nats."""

from . import closed_form, entropy_reconstruction, fixed, gaussian_critic, ksg, mended_gaussian, trained
from .fixed import (
    JSD,
    NWJ,
    SMILE,
    TRACKED,
    TRACKING_TEMPERATURE,
    CalibratedCosDV,
    CosDV,
    DensityRatio,
    InfoNCE,
    RowWiseDV,
    track,
)
from .fixed_critic import cross_fit
from .result import MIEstimate
from .tasks import TASKS, Task

_MODULES = (fixed, closed_form, ksg, entropy_reconstruction, gaussian_critic, mended_gaussian, trained)
ESTIMATORS: dict[str, type] = {name: made for module in _MODULES for name, made in module.ESTIMATORS.items()}

__all__ = [
    "ESTIMATORS",
    "JSD",
    "NWJ",
    "SMILE",
    "TASKS",
    "TRACKED",
    "TRACKING_TEMPERATURE",
    "CalibratedCosDV",
    "CosDV",
    "DensityRatio",
    "InfoNCE",
    "MIEstimate",
    "RowWiseDV",
    "Task",
    "cross_fit",
    "track",
]
