"""How good frozen representations are: kNN and linear accuracy, spectrum and collapse, and the figures of a run."""

from .figures import mi_figure, quality_figure, training_figure
from .held_out import Evaluation
from .knn import KNN_PROTOCOL, knn_predict
from .linear_probe import LinearProbeResult, accuracy_interval, linear_probe
from .spectrum import effective_rank, embedding_std, rankme
from .summary import draw_figures, summary_table

__all__ = [
    "KNN_PROTOCOL",
    "Evaluation",
    "LinearProbeResult",
    "accuracy_interval",
    "draw_figures",
    "effective_rank",
    "embedding_std",
    "knn_predict",
    "linear_probe",
    "mi_figure",
    "quality_figure",
    "rankme",
    "summary_table",
    "training_figure",
]
