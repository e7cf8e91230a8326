"""`ToyEncoder`: the only part of a model here that is not the package's, whose encoders take images alone."""

from collections.abc import Callable

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling


@strict
class ToyConfig(PreTrainedConfig):
    """An encoder of views that are no RGB images.

    Args:
        towers (`list`): [kind, size] of each modality: `vector` (size numbers), `tokens` (size words of a vocabulary
            of 64) or `waveform` (size samples). A view goes to the tower of its size: sizes differ.
        hidden_size (`int`, *optional*, defaults to 64): of the representation h, and of hidden layers.
    """

    model_type = "toy_encoder"

    towers: list | None = None
    hidden_size: int = 64
    num_channels: int = 1

    @property
    def image_size(self) -> tuple[int, int]:
        """What the package asks an encoder for, to learn the size of h."""
        return 1, (self.towers or [["vector", 2]])[0][1]


class ToyEncoder(PreTrainedModel):
    """view (n, size) -> `pooler_output` (n, hidden_size), of the tower whose size the view has."""

    config: ToyConfig
    main_input_name = "pixel_values"

    def __init__(self, config: ToyConfig):
        super().__init__(config)
        self.towers = nn.ModuleDict(
            {str(size): _TOWERS[kind](size, config.hidden_size) for kind, size in config.towers}
        )
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """As torch does it, at construction."""

    def forward(self, pixel_values: Tensor, **kwargs) -> BaseModelOutputWithPooling:
        view = pixel_values.flatten(1)
        return BaseModelOutputWithPooling(pooler_output=self.towers[str(view.shape[1])](view))


AutoConfig.register(ToyConfig.model_type, ToyConfig, exist_ok=True)
AutoModel.register(ToyConfig, ToyEncoder, exist_ok=True)


class _Words(nn.Module):
    """Words and pairs of neighbours, averaged over the sequence."""

    def __init__(self, hidden: int):
        super().__init__()
        self.embedding = nn.Embedding(64, 32)
        self.neighbours = nn.Linear(64, hidden)

    def forward(self, view: Tensor) -> Tensor:
        words = self.embedding(view.long())
        return self.neighbours(torch.cat([words[:, 1:], words[:, :-1]], 2)).relu().mean(1)


def _vector(size: int, hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())


def _tokens(size: int, hidden: int) -> nn.Module:
    return nn.Sequential(_Words(hidden), nn.Linear(hidden, hidden), nn.ReLU())


def _waveform(size: int, hidden: int) -> nn.Module:
    filters = nn.Conv1d(1, 48, 32, stride=8)
    pooled = [nn.Unflatten(1, (1, size)), filters, nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten()]
    return nn.Sequential(*pooled, nn.Linear(48, hidden), nn.ReLU())


_TOWERS: dict[str, Callable[[int, int], nn.Module]] = {"vector": _vector, "tokens": _tokens, "waveform": _waveform}
