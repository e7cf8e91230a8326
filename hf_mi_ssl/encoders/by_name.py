"""From a name to an encoder f_θ: configurations of transformers by name, any architecture of timm, weights of the Hub.

An encoder is a `PreTrainedModel` that maps `pixel_values` to a `pooler_output`, the representation h.
"""

import copy
import difflib
import re
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    ConvNextV2Config,
    Dinov2Config,
    PreTrainedConfig,
    PreTrainedModel,
    ResNetConfig,
)

from ..errors import UserError, refuse_unknown, unknown
from .configuration_mi_resnet import MIResNetConfig
from .downloads import locate, refuse_damaged, refuse_endless, refuse_fetching, refuse_fetching_file, refuse_inexact

_RESNET_TINY = {
    "depths": [1, 1, 1, 1],
    "hidden_sizes": [16, 32, 64, 128],
    "embedding_size": 16,
    "layer_type": "basic",
}
_RESNET18 = {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"}
_RESNET50 = {"depths": [3, 4, 6, 3], "hidden_sizes": [256, 512, 1024, 2048], "layer_type": "bottleneck"}  # v1.5


def _dinov2_small(image_size: int) -> PreTrainedConfig:
    if image_size % 14 and image_size % 8:
        raise UserError(f"dinov2_small cuts images into 14-pixel or 8×8 patches; {image_size} divides by neither")
    return Dinov2Config(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        image_size=image_size,
        patch_size=image_size // 8 if image_size % 14 else 14,
        use_mask_token=False,  # a parameter that no step uses stops distributed training
    )


def _convnextv2(depths: list[int], hidden_sizes: list[int]) -> Callable[[int], PreTrainedConfig]:
    def config(image_size: int) -> PreTrainedConfig:
        patch_size = 2 if image_size <= 64 else 4
        return ConvNextV2Config(depths=depths, hidden_sizes=hidden_sizes, image_size=image_size, patch_size=patch_size)

    return config


# Beside these, `timm/<architecture>` names any architecture of timm.
ENCODERS: dict[str, Callable[[int], PreTrainedConfig]] = {
    "resnet_tiny": lambda image_size: ResNetConfig(**_RESNET_TINY),
    "resnet18": lambda image_size: ResNetConfig(**_RESNET18),
    "resnet50": lambda image_size: ResNetConfig(**_RESNET50),
    "mi_resnet18": lambda image_size: MIResNetConfig(**_RESNET18),
    "mi_resnet50": lambda image_size: MIResNetConfig(**_RESNET50),
    "convnextv2_atto": _convnextv2([2, 2, 6, 2], [40, 80, 160, 320]),
    "convnextv2_nano": _convnextv2([2, 2, 8, 2], [80, 160, 320, 640]),
    "convnextv2_tiny": _convnextv2([3, 3, 9, 3], [96, 192, 384, 768]),
    "dinov2_small": _dinov2_small,
}


def encoder_config(name: str, image_size: int) -> PreTrainedConfig:
    """The configuration of that name for images of that size; its encoder starts from random weights.

    Raises:
        UserError: for a name that is neither in `ENCODERS` nor `timm/<architecture>`, or a size it cannot take.
    """
    if name.startswith("timm/"):
        return _timm_config(name.removeprefix("timm/"), image_size)
    refuse_unknown("encoder", [name], [*ENCODERS, "timm/<architecture>"])
    return ENCODERS[name](image_size)


def _timm_config(architecture: str, image_size: int) -> PreTrainedConfig:
    import timm
    from transformers import TimmWrapperConfig  # imports timm, which takes seconds

    _check_architecture(architecture)
    base, _, tag = architecture.partition(".")
    if tag:
        raise UserError(
            f"'timm/{architecture}' names pretrained weights: give it to --init_from, or --encoder 'timm/{base}'"
        )
    fixed_size = timm.models.get_pretrained_cfg(architecture).fixed_input_size
    config = TimmWrapperConfig(
        architecture=architecture,
        num_labels=0,  # no classifier
        model_args={"img_size": image_size} if fixed_size else None,
        # AutoImageProcessor reads this; the export puts the run's own mean and std here.
        pretrained_cfg={
            "input_size": [3, image_size, image_size],
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "crop_pct": 1.0,
            "interpolation": "bicubic",
        },
    )
    try:
        representation_size(config)
    except Exception as error:  # each architecture has its own way of refusing a size
        raise UserError(
            f"timm/{architecture} does not take {image_size}-pixel images: {_first_line(error)}"
        ) from error
    return config


def _check_architecture(architecture: str) -> None:
    """Refuse what is not an architecture of timm: it understands `hf_hub:…` too, which would reach for the network."""
    import timm

    if not isinstance(architecture, str):
        raise UserError(f"a timm architecture is a name, not {str(architecture)[:80]}")
    if not re.fullmatch(r"[\w.]+", architecture) or not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=1)
        raise unknown("timm architecture", architecture, near or ["the names that timm.list_models() gives"])


def _refuse_hostile(config: PreTrainedConfig) -> None:
    """Refuse a configuration, of anybody, that would ask the Hub for weights or code, or take for ever to build."""
    if config.model_type == "timm_wrapper":
        _check_architecture(config.architecture)
    refuse_fetching(config)
    refuse_endless(config)


def build_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """An encoder of that configuration with the initial weights that its own library gives it.

    Initialises nothing on the meta device, where models are built before their weights are loaded.

    Raises:
        UserError: for a configuration that names what would have to be fetched, or that is beyond all size.
    """
    _refuse_hostile(config)
    encoder = AutoModel.from_config(config)
    if config.model_type == "timm_wrapper" and encoder.device.type != "meta":
        # transformers has just drawn every convolution anew with a standard deviation of 0.02 and set the gains
        # that timm starts at zero to one.
        import timm

        fresh = timm.create_model(config.architecture, num_classes=0, **(config.model_args or {}))
        encoder.timm_model.load_state_dict(fresh.state_dict())
    return encoder


# Classifiers are all that a checkpoint may hold beyond the encoder.
HEAD = re.compile(r"(timm_model\.)?(classifier|cls_classifier|distillation_classifier|head|head_dist|fc)\b")


def load_encoder(name_or_path: str | Path) -> PreTrainedModel:
    """The encoder of a local directory or, where there is none, a Hub repository, float32, in eval mode; code in it is
    never run.

    Raises:
        UserError: for what cannot be loaded, gives no `pooler_output`, or whose weights are not exactly the
            encoder's: missing ones would be random, unexpected ones (classifiers apart) belong to something else.
    """
    name, source = str(name_or_path), locate(name_or_path)
    try:
        refuse_fetching_file(source)
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        _refuse_hostile(config)
        encoder, report = AutoModel.from_pretrained(
            source,
            config=config,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except UserError:
        raise
    except Exception as error:  # files, network, unknown architectures, shapes: transformers raises every kind
        refuse_damaged(source)
        where = "" if Path(source).is_dir() else " (no such directory here, so it was looked up on the Hub)"
        raise UserError(f"cannot load an encoder from {name!r}{where}: {_first_line(error)}") from error
    refuse_damaged(source)
    report["unexpected_keys"] = [key for key in report["unexpected_keys"] if not HEAD.match(key)]
    refuse_inexact(name, encoder, report)
    try:
        representation_size(encoder)
    except Exception as error:
        raise UserError(f"{name!r} is not an image encoder with a pooler_output: {_first_line(error)}") from error
    return encoder


def representation_size(config_or_encoder: PreTrainedConfig | PreTrainedModel) -> int:
    """The width of h = `pooler_output.flatten(1)`, from a forward without arithmetic on the meta device.

    Touches neither the given encoder nor the random number generator.

    Raises:
        UserError: for a model that gives no `pooler_output`, or none for images of its own size.
    """
    config = copy.deepcopy(getattr(config_or_encoder, "config", config_or_encoder))
    _refuse_hostile(config)
    size = _input_size(config)
    with torch.device("meta"), torch.no_grad():
        encoder = AutoModel.from_config(config).eval()
        try:
            pooled = getattr(encoder(pixel_values=torch.zeros(1, *size)), "pooler_output", None)
        except (RuntimeError, ValueError) as error:
            name = type(encoder).__name__
            raise UserError(f"{name} does not take images of {size[-1]} pixels: {_first_line(error)}") from error
    if pooled is None:
        raise UserError(f"{type(encoder).__name__} gives no pooler_output: there is nothing to probe")
    return pooled.flatten(1).shape[1]


def _input_size(config: PreTrainedConfig) -> tuple[int, ...]:
    if config.model_type == "timm_wrapper" and hasattr(config, "pretrained_cfg"):
        return tuple(config.pretrained_cfg["input_size"])
    size = getattr(config, "image_size", 224)  # networks without the field take any size
    height, width = (size, size) if isinstance(size, int) else size
    return getattr(config, "num_channels", 3), height, width


def _first_line(error: Exception) -> str:
    """The first line of its text, and the next after a colon: transformers' errors run over paragraphs. Where the
    connection broke, it is that of the HTTP client."""
    cause = error
    while cause and (not type(cause).__module__.startswith("httpx") or hasattr(cause, "response")):
        cause = cause.__cause__ or cause.__context__
    first = re.split(r"(?<!:)\n+", str(cause or error).strip(), maxsplit=1)[0]
    return first[:200] or type(error).__name__
