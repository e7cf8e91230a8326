"""What leaves the run: the encoder in native format and its model card. The only folder that writes to the Hub."""

from .card import render_card
from .export import export_encoder, export_pretraining

__all__ = ["export_encoder", "export_pretraining", "render_card"]
