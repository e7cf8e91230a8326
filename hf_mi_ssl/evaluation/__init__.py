"""How good frozen representations are: kNN and linear accuracy, spectrum and collapse, and the figures of a run."""

from .collapse import Alarm
from .figures import mi_figure, quality_figure, training_figure
from .frozen import input_of, represent, represent_splits
from .growth import growth_verdicts, paired_errors
from .held_out import Evaluation
from .knn import knn_predict, knn_protocol
from .linear_probe import accuracy_interval, linear_probe, ridge_probe, selection_split
from .maps import draw_maps
from .spectrum import (
    alignment,
    alpha_req,
    canonical_correlations,
    dead_dimensions,
    effective_rank,
    embedding_std,
    koziol_kurtosis,
    largest_norm,
    lidar,
    mardia_skewness,
    mean_cosine,
    nc1,
    participation_ratio,
    rankme,
    uniformity,
)
from .summary import draw_figures, summary_table

__all__ = [
    "Alarm",
    "Evaluation",
    "accuracy_interval",
    "alignment",
    "alpha_req",
    "canonical_correlations",
    "dead_dimensions",
    "draw_figures",
    "draw_maps",
    "effective_rank",
    "embedding_std",
    "growth_verdicts",
    "input_of",
    "knn_predict",
    "knn_protocol",
    "koziol_kurtosis",
    "largest_norm",
    "lidar",
    "linear_probe",
    "mardia_skewness",
    "mean_cosine",
    "mi_figure",
    "nc1",
    "paired_errors",
    "participation_ratio",
    "quality_figure",
    "rankme",
    "represent",
    "represent_splits",
    "ridge_probe",
    "selection_split",
    "summary_table",
    "training_figure",
    "uniformity",
]
