"""Write an encoder so that plain transformers loads it: its own class, a stock image processor, no pickle.

Stock and timm encoders need none of our code. `mi_resnet` brings its two code files along, for those who trust remote
code and have not imported this package.
"""

import contextlib
import copy
import errno
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from transformers import BitImageProcessor, PreTrainedModel

from ..encoders import MIResNetConfig, configuration_mi_resnet, modeling_mi_resnet
from ..files import discard, sync

# Written by hand because `register_for_auto_class` names only the one class that is being saved.
_AUTO_MAP = {
    "AutoConfig": "configuration_mi_resnet.MIResNetConfig",
    "AutoModel": "modeling_mi_resnet.MIResNetModel",
    "AutoModelForImageClassification": "modeling_mi_resnet.MIResNetForImageClassification",
    "AutoBackbone": "modeling_mi_resnet.MIResNetBackbone",
}


def export_encoder(
    encoder: PreTrainedModel,
    directory: str | Path,
    *,
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> None:
    """Write what `AutoModel.from_pretrained(directory)` needs: configuration, safetensors and image processor.

    The processor turns any image into RGB, scales its shorter side to `image_size` (bicubic), crops the centre and
    normalises (x/255 − mean)/std. The encoder is left as it was.
    """
    processor = BitImageProcessor(
        size={"shortest_edge": image_size},
        crop_size={"height": image_size, "width": image_size},
        resample=Image.Resampling.BICUBIC,
        image_mean=list(mean),
        image_std=list(std),
    )
    with _whole_or_none(Path(directory)) as temporary:
        processor.save_pretrained(temporary)
        original = encoder.config
        try:
            encoder.config = _export_config(original, image_size, list(mean), list(std))  # saving writes into it
            encoder.save_pretrained(temporary, state_dict=_export_weights(encoder))
        finally:
            encoder.config = original
        if isinstance(original, MIResNetConfig):
            for module in (configuration_mi_resnet, modeling_mi_resnet):
                shutil.copy(module.__file__, temporary)


def _export_weights(encoder: PreTrainedModel) -> dict[str, Tensor]:
    """The weights by their names; those of timm as timm names them: it loads them, and transformers does too."""
    return {name.removeprefix("timm_model."): tensor for name, tensor in encoder.state_dict().items()}


def _export_config(original, image_size: int, mean: list[float], std: list[float]):
    config = copy.deepcopy(original)
    if isinstance(config, MIResNetConfig):
        config.auto_map = dict(_AUTO_MAP)
    if config.model_type == "timm_wrapper":
        import timm

        # From a local directory, AutoImageProcessor reads only config.json of a timm model; this sends it on to
        # preprocessor_config.json, which it reads first on the Hub.
        config.image_processor_type = BitImageProcessor.__name__
        config.model_args = config.model_args or {}  # timm reads it, and refuses null
        config.pretrained_cfg = (getattr(config, "pretrained_cfg", None) or {}) | {
            "input_size": [3, image_size, image_size],
            "mean": mean,
            "std": std,
            "crop_pct": 1.0,
            "interpolation": "bicubic",
            # What timm.create_model(…, num_classes=10) must not expect among the weights
            "classifier": timm.models.get_pretrained_cfg(config.architecture).classifier,
        }
    return config


def export_pretraining(model: PreTrainedModel, directory: str | Path) -> None:
    """Write the whole model, heads and target included: `AutoModelForPreTraining`, `subfolder="pretraining"`."""
    with _whole_or_none(Path(directory) / "pretraining") as temporary:
        model.save_pretrained(temporary)


@contextlib.contextmanager
def _whole_or_none(directory: Path):
    """A directory to save a model in, whose files then go to `directory`. However the process ends, what loads from
    there is whole, the earlier or the later model, or none is: while files are moved, there is no `config.json`."""
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / ".export"  # inside: on one file system a rename suffices
    discard(temporary)  # of a process that was killed
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.iterdir():
            sync(file)
        (directory / "config.json").unlink(missing_ok=True)
        for file in sorted(temporary.iterdir(), key=lambda file: file.name == "config.json"):
            file.replace(directory / file.name)
    except SafetensorError as error:  # what the system said, a full disk for example, is text in it
        number = re.search(r"os error (\d+)", str(error))
        code = int(number[1]) if number else errno.EIO
        raise OSError(code, f"cannot write the weights: {error}", str(directory)) from error
    finally:
        discard(temporary)
