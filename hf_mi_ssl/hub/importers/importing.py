"""From a checkpoint to an encoder with everything that is known of it, and from there to a directory that loads."""

import json
from dataclasses import dataclass
from pathlib import Path

import jinja2
from huggingface_hub import ModelCardData
from torch import Tensor
from transformers import PreTrainedModel

from ...encoders import build_encoder, encoder_config
from ...errors import UserError
from ...files import digest
from ..evidence import read_object, replace_text
from ..export import export_encoder
from ..text import escaped
from .checkpoint import read_checkpoint
from .resnet import CLASSIFIER, fill, resnet_from
from .rows import implied_row
from .sources import SOURCES, find_source, head_columns, split_encoder

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# vturrisi/solo-learn, solo/data/pretrain_dataloader.py
_SOLO_LEARN = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "stl10": ((0.4914, 0.4823, 0.4466), (0.247, 0.243, 0.261)),
}
# facebookresearch/moco-v3, vits.py: by width; twelve heads at either
_MOCO_V3_VITS = {384: "timm/vit_small_patch16_224", 768: "timm/vit_base_patch16_224"}


@dataclass
class Imported:
    """An encoder in eval mode, what images it expects, the row that its source implies, and what was left behind."""

    encoder: PreTrainedModel
    source: str
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    row: dict | None
    left: list[str]


def import_checkpoint(
    path: str | Path,
    *,
    source: str | None = None,
    encoder: str | None = None,
    arguments: str | Path | None = None,
    image_size: int | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Imported:
    """The encoder in a checkpoint of `SOURCES`, its outputs those of the network that it comes from.

    Args:
        path: a file of `torch.save` or safetensors.
        source: who wrote it; default: told from the names in it.
        encoder: `timm/<name>` where it is no plain ResNet, whose sizes are read off the weights.
        arguments: the args.json that solo-learn writes; default: the one beside the checkpoint.
        image_size: side of its images; default: of the arguments, else 32 pixels for a 3×3 stem and 224 otherwise.
        mean: of its images; default: of the arguments' data set, else ImageNet's.
        std: likewise.

    Raises:
        UserError: for what is no checkpoint, of no known source, or does not fit exactly.
    """
    weights = read_checkpoint(path)
    source = find_source(weights, source)
    own, left = split_encoder(weights, source)
    if arguments is not None and (source != "solo_learn" or not Path(arguments).is_file()):
        raise UserError(f"--arguments {arguments}: give the args.json that solo-learn wrote, with a checkpoint of its")
    given = read_object(Path(arguments or Path(path).with_name("args.json"))) if source == "solo_learn" else {}
    for name, values in (("image_size", image_size), ("mean", mean), ("std", std)):
        if values is not None and not (values > 0 if name == "image_size" else len(values) == 3):
            raise UserError(f"--{name} {values}: give {'a size above 0' if name == 'image_size' else 'three values'}")
    side = image_size or _crop_size(given)
    if encoder is None and source == "moco_v3_vit" and "cls_token" in own:
        encoder = _MOCO_V3_VITS.get(own["cls_token"].shape[-1])
    if encoder is None:
        # solo/methods/base.py of solo-learn pads its 3×3 stem by two
        model, classifier = resnet_from(own, stem_padding=2 if source == "solo_learn" else 1)
        side = side or (32 if model.config.model_type == "mi_resnet" else 224)
    else:
        side = side or 224
        model, classifier = _timm(own, encoder, side, {"num_heads": 12} if source == "moco_v3_vit" else {})
    data = given["data"] if isinstance(given.get("data"), dict) else given
    statistics = _SOLO_LEARN.get(str(data.get("dataset")), _IMAGENET)
    return Imported(
        encoder=model,
        source=source,
        image_size=side,
        mean=tuple(mean or statistics[0]),
        std=tuple(std or statistics[1]),
        row=implied_row(source, SOURCES[source].method, head_columns(weights, source), given),
        left=sorted([*left, *classifier]),
    )


def _crop_size(given: dict) -> int | None:
    views = given.get("augmentations")
    size = views[0].get("crop_size") if isinstance(views, list) and views and isinstance(views[0], dict) else None
    return size if isinstance(size, int) and size > 0 else None


def _timm(weights: dict[str, Tensor], name: str, size: int, extra: dict) -> tuple[PreTrainedModel, list[str]]:
    if not name.startswith("timm/"):
        raise UserError(f"--encoder {name}: give timm/<name>; the sizes of a ResNet are read off its weights")
    config = encoder_config(name, size)
    config.model_args = (config.model_args or {}) | extra
    model = build_encoder(config).eval()
    own = model.state_dict()  # some have a norm below `head`
    classifier = [key for key in weights if CLASSIFIER.match(key) and f"timm_model.{key}" not in own]
    fill(model, {f"timm_model.{key}": value for key, value in weights.items() if key not in classifier}, [])
    return model, classifier


def write_imported(imported: Imported, directory: str | Path, checkpoint: str | Path, template: str | Path) -> None:
    """Write the export, `import.json` with where it comes from, `method.json` with the row, if there is one, as a
    `--config` of the pre-training recipes, and the card."""
    directory, checkpoint = Path(directory), Path(checkpoint)
    export_encoder(imported.encoder, directory, image_size=imported.image_size, mean=imported.mean, std=imported.std)
    about = {
        "source": imported.source,
        "publisher": SOURCES[imported.source].about,
        "checkpoint": checkpoint.name,
        "sha256": (sha256 := digest(checkpoint, "sha256")),
        "image_size": imported.image_size,
        "mean": imported.mean,
        "std": imported.std,
        "left_out": imported.left,
    }
    replace_text(directory / "import.json", json.dumps(about, indent=2, ensure_ascii=False) + "\n")
    if imported.row:
        row = imported.row | {"image_size": imported.image_size}
        replace_text(directory / "method.json", json.dumps(row, indent=2, ensure_ascii=False) + "\n")
    text = Path(template).read_text(encoding="utf-8")
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    kind = imported.encoder.config.model_type
    parameters = sum(parameter.numel() for parameter in imported.encoder.parameters())
    data = ModelCardData(library_name="transformers", pipeline_tag="image-feature-extraction", tags=["hf_mi_ssl"])
    card = environment.from_string(text).render(
        card_data=data.to_yaml(),
        publisher=about["publisher"],
        checkpoint=escaped(checkpoint.name),
        digest=sha256,
        kind=kind,
        parameters=f"{parameters:,}",
        image_size=imported.image_size,
        row=imported.row and [(name, escaped(value, limit=200)) for name, value in imported.row["set"].items()],
        method=imported.row and imported.row["method"],
        trust=", trust_remote_code=True" if kind == "mi_resnet" else "",
    )
    replace_text(directory / "README.md", card)
