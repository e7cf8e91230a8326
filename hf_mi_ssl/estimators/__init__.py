"""Mutual information measured on frozen, held-out pairs of embeddings, with its ceiling and an interval, in nats."""

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

__all__ = [
    "JSD",
    "NWJ",
    "SMILE",
    "TRACKED",
    "TRACKING_TEMPERATURE",
    "CalibratedCosDV",
    "CosDV",
    "DensityRatio",
    "InfoNCE",
    "MIEstimate",
    "RowWiseDV",
    "cross_fit",
    "track",
]
