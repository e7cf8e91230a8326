"""Encoders: names for configurations of transformers and timm, and `mi_resnet` for small images.

Importing this registers `mi_resnet` with the Auto classes, so that its weights load without `trust_remote_code`.
"""

from transformers import AutoBackbone, AutoConfig, AutoModel, AutoModelForImageClassification

from .by_name import ENCODERS, build_encoder, encoder_config, load_encoder, representation_size
from .classifier import build_classifier
from .configuration_mi_resnet import MIResNetConfig
from .downloads import refuse_damaged, refuse_inexact
from .modeling_mi_resnet import MIResNetBackbone, MIResNetForImageClassification, MIResNetModel

AutoConfig.register(MIResNetConfig.model_type, MIResNetConfig, exist_ok=True)
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
    "encoder_config",
    "load_encoder",
    "refuse_damaged",
    "refuse_inexact",
    "representation_size",
]
