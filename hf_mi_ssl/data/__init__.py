"""Image corpora: opened through `datasets`, decoded once, and the embedded corpus `shapes`."""

from .bad import BadImages
from .corpora import Corpus, evaluation_split, load_corpus
from .order import held_out
from .parts import Part
from .placement import open_images, storage_size
from .readers import ImageReader, read_all
from .splits import open_train_and_held_out, training_batches
from .store import ImageStore

__all__ = [
    "BadImages",
    "Corpus",
    "ImageReader",
    "ImageStore",
    "Part",
    "evaluation_split",
    "held_out",
    "load_corpus",
    "open_images",
    "open_train_and_held_out",
    "read_all",
    "storage_size",
    "training_batches",
]
