"""Residual networks under torchvision's names as those of transformers, and as `mi_resnet` where the stem is 3×3.

Widths and depths are read off the weights. Strides leave no trace in them: those of v1.5 are taken, in the 3×3
convolution of a bottleneck, as in torchvision (pytorch/vision, torchvision/models/resnet.py), timm and every source.
"""

import re

from torch import Tensor
from transformers import PreTrainedModel, ResNetConfig

from ...encoders import MIResNetConfig, build_encoder
from ...errors import UserError

# A network as the sequence of its children: torchvision's, with ReLU and max-pool at 2 and 3 (lightly-ai/lightly,
# examples/pytorch/simsiam.py), and lightly's own (lightly/models/resnet.py).
_CHILDREN = {"4": ["conv1", "bn1", "", "", *(f"layer{i}" for i in range(1, 9))],
             "2": ["conv1", "bn1", *(f"layer{i}" for i in range(1, 9))]}  # fmt: skip
CLASSIFIER = re.compile(r"(fc|linear|classifier|head|head_dist)\b")


def resnet_from(weights: dict[str, Tensor], stem_padding: int = 1) -> tuple[PreTrainedModel, list[str]]:
    """The encoder with these weights, in eval mode, and the names of weights that have no place in it: classifiers.

    Raises:
        UserError: for a network that is not this one: weights that are missing, too many, or of other shapes.
    """
    weights = _named(weights)
    config = _config(weights, stem_padding)
    encoder = build_encoder(config).eval()
    ours = {_rename(name): _unsplit(name, value, weights) for name, value in weights.items()}
    left = [name for name in weights if _rename(name) is None]
    ours.pop(None, None)
    fill(encoder, ours, [name for name in left if not CLASSIFIER.match(name)])
    return encoder, [name for name in left if CLASSIFIER.match(name)]


def fill(encoder: PreTrainedModel, weights: dict[str, Tensor], more: list[str]) -> None:
    """Load exactly these weights. `more` are those that it has no place for.

    Raises:
        UserError: if they are not exactly the encoder's.
    """
    own = encoder.state_dict()
    for name in [name for name in own if name.endswith("num_batches_tracked")]:  # older than the counter
        weights.setdefault(name, own[name])
    faults = {
        "lacks": sorted(set(own) - set(weights)),
        "also has": sorted({*more, *(set(weights) - set(own))}),
        "has other shapes of": [
            f"{name} {tuple(weights[name].shape)} in place of {tuple(own[name].shape)}"
            for name in sorted(set(own) & set(weights))
            if own[name].shape != weights[name].shape
        ],
        "has infinite or undefined values in": [name for name, value in weights.items() if not value.isfinite().all()],
    }
    found = [
        f"{fault} {', '.join(names[:3])}{' …' if len(names) > 3 else ''}" for fault, names in faults.items() if names
    ]
    if found:
        raise UserError(
            f"this is not a {type(encoder).__name__}: the checkpoint {'; '.join(found)}. Another architecture of timm "
            f"is imported with --encoder timm/<name>"
        )
    encoder.load_state_dict(weights)


def _named(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Children by number under their names."""
    if "0.weight" not in weights:
        return weights
    children = _CHILDREN["2" if any(name.startswith("2.0.") for name in weights) else "4"]
    named = {}
    for name, value in weights.items():
        number, _, rest = name.partition(".")
        known = number.isdigit() and int(number) < len(children) and children[int(number)]
        named[f"{known}.{rest}" if known else name] = value
    return named


def _config(weights: dict[str, Tensor], stem_padding: int) -> ResNetConfig:
    blocks = [re.match(r"layer(\d+)\.(\d+)\.conv(\d)\.weight$", name) for name in weights]
    places = [tuple(map(int, block.groups())) for block in blocks if block]
    stem = weights.get("conv1.weight")
    if stem is None or stem.ndim != 4 or not places:
        some = ", ".join(sorted(weights)[:3])
        raise UserError(
            f"no residual network has such names ({some}, …): give --encoder timm/<name>, or the --source of the file"
        )
    last = max(conv for *_, conv in places)
    stages = range(1, max(stage for stage, *_ in places) + 1)
    try:
        columns = {
            "num_channels": stem.shape[1],
            "embedding_size": stem.shape[0],
            "depths": [max(block for stage, block, _ in places if stage == s) + 1 for s in stages],
            "hidden_sizes": [len(weights[f"layer{s}.0.conv{last}.weight"]) for s in stages],
            "layer_type": "bottleneck" if last == 3 else "basic",
        }
    except (KeyError, ValueError) as error:
        raise UserError("no residual network is like this: a stage of it has no blocks, or no first one") from error
    if stem.shape[-1] == 3:
        return MIResNetConfig(**columns, stem_padding=stem_padding)
    return ResNetConfig(**columns)


def _rename(name: str) -> str | None:
    """torchvision's name -> transformers' name; None for what an encoder does not have."""
    kind = {"conv": "convolution", "bn": "normalization", "0": "convolution", "1": "normalization"}
    if found := re.fullmatch(r"(conv|bn)1\.(\w+)", name):
        return f"embedder.embedder.{kind[found[1]]}.{found[2]}"
    if found := re.fullmatch(r"layer(\d+)\.(\d+)\.(conv|bn)(\d)\.(\w+)", name):
        stage, block, what, number, rest = found.groups()
        return f"encoder.stages.{int(stage) - 1}.layers.{block}.layer.{int(number) - 1}.{kind[what]}.{rest}"
    if found := re.fullmatch(r"layer(\d+)\.(\d+)\.(?:downsample|shortcut)\.([01])\.(\w+)", name):
        stage, block, number, rest = found.groups()
        return f"encoder.stages.{int(stage) - 1}.layers.{block}.shortcut.{kind[number]}.{rest}"
    return None


def _unsplit(name: str, value: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """Running statistics of one batch norm from those that lightly keeps for each part of the batch
    (lightly/models/batchnorm.py, which averages them as well)."""
    weight = weights.get(re.sub(r"running_(mean|var)$", "weight", name))
    if "running_" in name and weight is not None and len(value) > len(weight) and len(value) % len(weight) == 0:
        return value.view(-1, len(weight)).mean(0)
    return value
