"""What is saved, embedded: two views of held-out images through any run or encoder."""

from dataclasses import replace
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import AutoConfig, AutoModelForPreTraining, PreTrainedModel

from ..counter import permutation
from ..data import Part, open_train_and_held_out
from ..encoders import load_encoder, refuse_damaged, refuse_fetching, refuse_fetching_file, refuse_inexact
from ..errors import UserError, first_line
from ..modeling_base import MISSLForPreTraining
from ..views import RandomViews, ViewRecipe, view_recipes
from .frozen import input_of

_BATCH = 256  # images embedded at once
_NO_EPOCH = -1  # the views of an evaluation are drawn for an epoch that training never reaches


def load_saved(name: str) -> PreTrainedModel:
    """The whole model of a saved run, a directory or Hub id; of another encoder, itself.

    Raises:
        UserError: for what cannot be loaded, or whose weights are not exactly the model's.
    """
    encoder = load_encoder(name)  # refuses damaged files of pretraining/ as well, once they are here
    for place in ({"subfolder": "pretraining"}, {}):
        local = Path(name).is_dir()
        if local and not Path(name, *place.values(), "config.json").exists():
            continue
        config = None
        try:
            refuse_fetching_file(name, **place)
            config = AutoConfig.from_pretrained(name, trust_remote_code=False, **place)
            if config.model_type not in ("sdmi", "jmi"):
                continue
            refuse_fetching(config)
            whole, report = AutoModelForPreTraining.from_pretrained(
                name, config=config, trust_remote_code=False, use_safetensors=True, output_loading_info=True, **place
            )
        except Exception as error:  # files, columns, shapes: transformers raises every kind
            if isinstance(error, OSError) and config is None and not local:  # the Hub holds none
                continue
            cause = error.__cause__ if isinstance(error, StrictDataclassError) else None
            reason = " ".join(str(cause or error).split())[:200]
            raise UserError(f"cannot load the whole model of {name!r}: {reason}") from error
        refuse_damaged(name)
        refuse_inexact(name, whole, report)
        return whole
    return encoder


def views_of(name: str, views: str, image_size: int) -> tuple[ViewRecipe, ViewRecipe]:
    """The two recipes of that name, normalised as the encoder's image processor says."""
    said = input_of(name)
    said.pop("size", None)
    return tuple(replace(recipe, **said) for recipe in view_recipes(views, image_size))


def embed_held_out(
    name: str, data: dict, views: str, image_size: int, n: int, seed: int
) -> tuple[PreTrainedModel, dict[str, Tensor], str]:
    """The model, `embed` of at most n held-out images of `data` (as `open_train_and_held_out` takes it, with the seed
    that held them out), their split. `seed` draws images and views.

    Images are in an order of their own: in sorted data sets neighbours are of one class, and parts must be alike.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, recipes = load_saved(name), views_of(name, views, image_size)
    held = open_train_and_held_out(**data, device=device)[1].sample(n, seed)
    held = replace(held, indices=held.indices[permutation(len(held), "held-out pairs", seed)])
    return model, embed(model, held, RandomViews(recipes, seed), device), held.split


@torch.no_grad()
def embed(model: PreTrainedModel, held: Part, views: RandomViews, device: torch.device) -> dict[str, Tensor]:
    """Of two views: h_a, h_b (N, H), and z_a, z_b, t_b, p_a (N, D) as far as there are projector, target with
    parameters of its own, and predictor; on the CPU."""
    model.eval().to(device)
    branches = model.branches if isinstance(model, MISSLForPreTraining) else {"online": (model, None)}
    predictor = getattr(model, "predictor", None)
    batches = []
    for indices, images in held.images.batches(held.indices.split(_BATCH)):
        found = {}
        for side, view in zip("ab", views(images, _NO_EPOCH, indices)):
            for key, (encoder, projector) in branches.items():
                try:
                    h = encoder(view).pooler_output.flatten(1)
                except (RuntimeError, ValueError) as error:
                    size, reason = view.shape[-1], first_line(error)
                    raise UserError(f"no images of {size} pixels: {reason}; see --image_size") from error
                found |= {f"h_{side}": h} if key == "online" else {}
                if projector is not None:
                    found[f"{'z' if key == 'online' else 't'}_{side}"] = projector(h)
        if predictor is not None:
            found["p_a"] = predictor(found["z_a"])
        batches.append({key: value.float().cpu() for key, value in found.items()})
    return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}
