"""Encoders that others have trained, from their checkpoints into our export, with the row they were trained with."""

from .importing import Imported, import_checkpoint, write_imported
from .sources import SOURCES

__all__ = ["SOURCES", "Imported", "import_checkpoint", "write_imported"]
