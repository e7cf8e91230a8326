"""Where a checkpoint comes from, told by the names in it: which branch is the encoder, which are its heads."""

import re
from dataclasses import dataclass

from torch import Tensor

from ...errors import UserError, refuse_unknown


@dataclass(frozen=True)
class Source:
    """A publisher of checkpoints.

    `prefixes` are those of the encoder's names, the online branch's where there are two; the first that occurs counts.
    `mark` matches a name that its checkpoints hold and those of earlier sources do not. `method` is the row that the
    source implies by itself.
    """

    about: str
    mark: str
    prefixes: tuple[str, ...] = ("",)
    projector: str | None = None
    predictor: str | None = None
    method: str | None = None


# In the order in which they are tried.
SOURCES: dict[str, Source] = {
    # facebookresearch/moco-v3, moco/builder.py and vits.py
    "moco_v3_vit": Source(
        "facebookresearch/moco-v3",
        r"momentum_encoder\.cls_token",
        ("base_encoder.",),
        projector=r"base_encoder\.head\.",
        predictor=r"predictor\.",
        method="moco_v3",
    ),
    "moco_v3": Source(
        "facebookresearch/moco-v3",
        r"momentum_encoder\..*",
        ("base_encoder.",),
        projector=r"base_encoder\.fc\.",
        predictor=r"predictor\.",
        method="moco_v3",
    ),
    # facebookresearch/moco, moco/builder.py: `fc` is an MLP in v2 and one layer in v1
    "moco_v2": Source(
        "facebookresearch/moco",
        r"encoder_q\.fc\.0\.weight",
        ("encoder_q.",),
        projector=r"encoder_q\.fc\.",
        method="moco_v2",
    ),
    "moco_v1": Source(
        "facebookresearch/moco",
        r"encoder_q\.fc\.weight",
        ("encoder_q.",),
        projector=r"encoder_q\.fc\.",
        method="moco_v2",
    ),
    # facebookresearch/simsiam, simsiam/builder.py
    "simsiam": Source(
        "facebookresearch/simsiam",
        r"encoder\.fc\.6\.weight",
        ("encoder.",),
        projector=r"encoder\.fc\.",
        predictor=r"predictor\.",
        method="simsiam",
    ),
    # facebookresearch/barlowtwins, main.py: `bn` standardises embeddings in the loss
    "barlow_twins": Source(
        "facebookresearch/barlowtwins",
        r"bn\.running_mean",
        ("backbone.",),
        projector=r"projector\.",
        method="barlow_twins",
    ),
    # vturrisi/solo-learn, solo/methods/base.py; `encoder` in early versions, see main_linear.py; `head` in dino.py
    "solo_learn": Source(
        "vturrisi/solo-learn",
        r"classifier\.weight",
        ("backbone.", "encoder."),
        projector=r"(projector|head\.mlp)\.",
        predictor=r"predictor\.",
    ),
    # lightly-ai/lightly, lightly/models/modules/heads.py, examples/pytorch/*.py, benchmarks/imagenet/resnet50/*.py
    "lightly": Source(
        "lightly-ai/lightly",
        r"(projection_head\.layers|backbone\.[02])\..*",
        ("backbone.",),
        projector=r"projection_head\.",
        predictor=r"prediction_head\.",
    ),
    # facebookresearch/vicreg, main_vicreg.py
    "vicreg": Source(
        "facebookresearch/vicreg",
        r"projector\.0\.bias",
        ("backbone.",),
        projector=r"projector\.",
        method="vicreg",
    ),
    # pytorch/vision, torchvision/models/resnet.py; huggingface/pytorch-image-models, timm/models/resnet.py
    "torchvision": Source("torchvision or timm", r".*"),
}


def find_source(weights: dict[str, Tensor], name: str | None = None) -> str:
    """The name of the source: `name` if it is one, else the first one whose names these are.

    Raises:
        UserError: for an unknown name.
    """
    if name is not None:
        refuse_unknown("source", [name], SOURCES)
        return name
    return next(
        key
        for key, source in SOURCES.items()
        if any(tensor.startswith(source.prefixes) for tensor in weights)
        and any(re.fullmatch(source.mark, tensor) for tensor in weights)
    )


def split_encoder(weights: dict[str, Tensor], source: str) -> tuple[dict[str, Tensor], list[str]]:
    """The encoder's weights without their prefix, and the names of all others.

    The FAIR repositories also publish the encoder by itself, without a prefix.
    """
    prefixes = (*SOURCES[source].prefixes, "") if SOURCES[source].method else SOURCES[source].prefixes
    prefix = next((prefix for prefix in prefixes if any(name.startswith(prefix) for name in weights)), None)
    if prefix is None:
        expected = " or ".join(f"{prefix}*" for prefix in prefixes)
        raise UserError(f"a checkpoint of {source} has {expected}, and this one has not: --source names another")
    encoder = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    return encoder, sorted(name for name in weights if not name.startswith(prefix))


def head_columns(weights: dict[str, Tensor], source: str) -> dict:
    """The columns of a row that say how large projector and predictor are, as far as the checkpoint holds them."""
    columns = {}
    projector = _layers(weights, SOURCES[source].projector)
    widths = [len(layer) for layer in projector if layer.ndim == 2]
    if widths:
        columns = {"projector_num_layers": len(widths), "projection_size": widths[-1]}
        columns["projector_output_norm"] = projector[-1].ndim == 1
        if len(widths) > 1:
            columns |= {"projector_hidden_size": widths[0], "projector_hidden_norm": projector[1].ndim == 1}
    predictor = _layers(weights, SOURCES[source].predictor)
    return columns | ({"predictor_hidden_size": len(predictor[0])} if predictor else {})


def _layers(weights: dict[str, Tensor], prefix: str | None) -> list[Tensor]:
    """A head's layers in order: matrices of linear layers, running means of batch norms."""
    found = []
    for name, value in weights.items():
        layer = name.endswith("running_mean") or (name.endswith("weight") and value.ndim == 2)
        if prefix and layer and re.match(prefix, name):
            number = re.search(r"(\d+)\.\w+$", name)  # none where the head is one layer
            found.append((int(number[1]) if number else 0, value))
    return [value for _, value in sorted(found, key=lambda layer: layer[0])]
