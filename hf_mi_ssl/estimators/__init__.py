"""Mutual information measured on frozen, held-out pairs of embeddings, with its ceiling and an interval, in nats."""

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

__all__ = [
    "JSD",
    "TRACKED",
    "TRACKING_TEMPERATURE",
    "CalibratedCosDV",
    "CosDV",
    "InfoNCE",
    "MIEstimate",
    "cross_fit",
    "track",
]
