"""What leaves the run: the encoder in native format and its model card. The only folder that writes to the Hub."""

from .card import render_card, update_card, write_card
from .evidence import add_evidence, write_evidence
from .export import export_encoder, export_pretraining
from .licence import dataset_license
from .push import Publisher, check_hub, publish, push

__all__ = [
    "Publisher",
    "add_evidence",
    "check_hub",
    "dataset_license",
    "export_encoder",
    "export_pretraining",
    "publish",
    "push",
    "render_card",
    "update_card",
    "write_card",
    "write_evidence",
]
