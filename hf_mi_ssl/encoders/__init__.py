"""Encoders: names for configurations of transformers and timm, and `mi_resnet` for small images.

Importing this registers `mi_resnet` with the Auto classes, so that its weights load without `trust_remote_code`; the
package makes AutoConfig import it.
"""

from transformers import AutoBackbone, AutoModel, AutoModelForImageClassification

from .by_name import ENCODERS, build_encoder, encoder_config, load_encoder, representation_size
from .checkpointing import checkpoint_activations
from .classifier import build_classifier
from .configuration_mi_resnet import MIResNetConfig
from .downloads import locate, refuse_damaged, refuse_fetching, refuse_fetching_file, refuse_inexact
from .modeling_mi_resnet import MIResNetBackbone, MIResNetForImageClassification, MIResNetModel

AutoModel.register(MIResNetConfig, MIResNetModel, exist_ok=True)
AutoModelForImageClassification.register(MIResNetConfig, MIResNetForImageClassification, exist_ok=True)
AutoBackbone.register(MIResNetConfig, MIResNetBackbone, exist_ok=True)

__all__ = [
    "ENCODERS",
    "MIResNetBackbone",
    "MIResNetConfig",
    "MIResNetForImageClassification",
    "MIResNetModel",
    "build_classifier",
    "build_encoder",
    "checkpoint_activations",
    "encoder_config",
    "load_encoder",
    "locate",
    "refuse_damaged",
    "refuse_fetching",
    "refuse_fetching_file",
    "refuse_inexact",
    "representation_size",
]
