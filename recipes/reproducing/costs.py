"""What a training step costs: passes of images through encoders, and floating-point operations by torch's counter."""

import json
from collections import Counter
from functools import cache

import torch
from torch import Tensor, nn

from hf_mi_ssl import JMIConfig, JMIForPreTraining, SDMIConfig, SDMIForPreTraining
from hf_mi_ssl.encoders import encoder_config
from hf_mi_ssl.methods import METHODS

CLASSES = {"sdmi": (SDMIConfig, SDMIForPreTraining), "jmi": (JMIConfig, JMIForPreTraining)}


def count_step(model: nn.Module, *views: Tensor | list[Tensor]) -> dict[str, float]:
    """Operations of a training step, forward and backward, and the passes of an image through an encoder in it: those
    that learn, and those without gradient, which cost about a third. Optimisers and targets that follow cost next to
    nothing and are not counted."""
    from torch.utils.flop_counter import FlopCounterMode

    passes: Counter[bool] = Counter()
    images = len(views[0])

    def seen(module: nn.Module, inputs: tuple, keywords: dict, _) -> None:
        passes[torch.is_grad_enabled()] += len(next(iter((*inputs, *keywords.values())))) * share / images

    encoders = [encoder for encoder, _ in model.branches.values()]
    handles = [encoder.register_forward_hook(seen, with_kwargs=True) for encoder in encoders]
    flops = 0.0
    for phase in model.phases:
        share = 1 / model.config.m_step_every if phase == "M" else 1
        with FlopCounterMode(display=False) as counter:
            model(*views, phase=phase).loss.backward()
        flops += share * counter.get_total_flops()
    for handle in handles:
        handle.remove()
    return {"flops": flops, "learning_passes": passes[True], "other_passes": passes[False]}


def cost_of(arguments: dict) -> dict[str, float] | None:
    """`count_step` of a run with these arguments, its operations for one image. None where an encoder was loaded."""
    if arguments.get("init_from"):
        return None
    keys = ("method", "set", "encoder", "image_size", "per_device_train_batch_size", "local_views", "local_view_size")
    return _cost_of(json.dumps([arguments.get(key) for key in keys]))


@cache
def _cost_of(settings: str) -> dict[str, float]:
    from torch._subclasses.fake_tensor import FakeTensorMode

    method, columns, encoder, size, batch, local_views, local_size = json.loads(settings)
    config_class, model_class = CLASSES[METHODS[method].paradigm]
    config = config_class.from_method(method, encoder_config=encoder_config(encoder, size), **(columns or {}))
    # Shapes are enough to count: any size at no cost. Not fake are those of the meta device, which measure an encoder
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = model_class(config).train()
        del model.draws  # a number in its place: terms that draw at random read it
        model.draws = 0
        views = [torch.randn(batch, 3, size, size) for _ in "ab"]
        local = [torch.randn(batch, 3, local_size, local_size) for _ in range(local_views or 0)]
        found = count_step(model, *views, *([local] if local else []))
    return found | {"flops": found["flops"] / batch}
