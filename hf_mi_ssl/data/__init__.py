"""Image corpora: opened through `datasets`, decoded once, and the embedded corpus `shapes`."""

from .corpora import Corpus, load_corpus
from .splits import Part, held_out, open_train_and_held_out, training_batches
from .store import ImageReader, ImageStore, open_images, storage_size

__all__ = [
    "Corpus",
    "ImageReader",
    "ImageStore",
    "Part",
    "held_out",
    "load_corpus",
    "open_images",
    "open_train_and_held_out",
    "storage_size",
    "training_batches",
]
