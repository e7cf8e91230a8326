"""The heads: projector h -> z, predictor z -> p, and prototypes z -> scores."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN


class Projector(nn.Sequential):
    """representation h (n, input_size) -> embedding z (n, output_size), an MLP.

    Hidden layers are linear, batch norm if `hidden_norm`, activation. With `output_norm` the last linear layer is
    followed by a batch norm without scale and shift (SimSiam, arXiv 2011.10566 §4.4).
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        num_layers: int,
        output_norm: bool,
        hidden_norm: bool = True,
        activation: str = "relu",
    ):
        layers: list[nn.Module] = []
        for _ in range(num_layers - 1):
            layers.append(nn.Linear(input_size, hidden_size, bias=not hidden_norm))
            layers += [nn.BatchNorm1d(hidden_size)] if hidden_norm else []
            layers.append(ACT2FN[activation])
            input_size = hidden_size
        layers.append(nn.Linear(input_size, output_size, bias=not output_norm))
        if output_norm:
            layers.append(nn.BatchNorm1d(output_size, affine=False))
        super().__init__(*layers)


class Predictor(nn.Sequential):
    """embedding z (n, size) -> prediction p (n, size): linear, batch norm, ReLU, linear (arXiv 2006.07733 §3.3).

    Stands in for the marginal term: regressing a white target on it ascends the second-order bound with the learned
    critic T(a, b) = predictor(a)ᵀ b.
    """

    def __init__(self, size: int, hidden_size: int):
        super().__init__(
            nn.Linear(size, hidden_size, bias=False),
            nn.BatchNorm1d(hidden_size),
            nn.ReLU(),
            nn.Linear(hidden_size, size),
        )


class Prototypes(nn.Linear):
    """embedding z (n, size) -> its cosine with each of K prototypes, (n, K), in float32 or wider.

    They stay on the sphere because every use normalises them: SwAV (arXiv 2006.09882) normalises them after each step
    instead, DINO (arXiv 2104.14294) by weight normalisation.
    """

    def __init__(self, size: int, num_prototypes: int):
        super().__init__(size, num_prototypes, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):
            z = z if z.dtype == torch.float64 else z.float()
            return F.linear(F.normalize(z, dim=1), F.normalize(self.weight, dim=1))
