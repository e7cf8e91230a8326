"""A classifier that starts from an encoder: transformers' own class, the encoder's weights, a new head."""

import copy
from collections.abc import Sequence

from torch import nn
from transformers import AutoModelForImageClassification, PreTrainedModel

from ..errors import UserError
from .by_name import HEAD


def build_classifier(
    encoder: PreTrainedModel, label_names: Sequence[str], freeze_encoder: bool = False
) -> PreTrainedModel:
    """The image classifier of transformers for that encoder, whose head starts from random weights even where the
    encoder was loaded from a classifier. `encoder` is left as it was.

    A frozen encoder does not learn, and stays in eval mode: no dropout, and batch norms keep their statistics.

    Raises:
        UserError: for an encoder that transformers has no image classifier for.
    """
    config = copy.deepcopy(encoder.config)
    config.id2label = dict(enumerate(label_names))
    config.label2id = {name: i for i, name in enumerate(label_names)}
    if hasattr(config, "label_names"):  # that of timm wins over id2label
        config.label_names = list(label_names)
    try:
        classifier = AutoModelForImageClassification.from_config(config)
    except ValueError as error:
        raise UserError(f"transformers has no image classifier for encoders of type {config.model_type!r}") from error
    base = classifier.base_model  # of a timm model it holds the head, too
    missing = base.load_state_dict(encoder.base_model.state_dict(), strict=False).missing_keys
    if any(not HEAD.match(key) for key in missing):
        raise UserError(
            f"{type(classifier).__name__} needs weights that the encoder lacks ({len(missing)}, such as {missing[0]})"
        )
    if freeze_encoder:
        for name, parameter in base.named_parameters():
            parameter.requires_grad_(name in missing)
        base.register_forward_pre_hook(_stay_in_eval_mode)
    return classifier


def _stay_in_eval_mode(module: nn.Module, _) -> None:
    module.eval()  # whatever a training loop said before
