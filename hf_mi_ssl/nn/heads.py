"""The heads: projector h -> z, and predictor z -> p."""

from torch import nn


class Projector(nn.Sequential):
    """representation h (n, input_size) -> embedding z (n, output_size), an MLP with batch norm.

    Hidden layers are linear, batch norm, ReLU. With `output_norm` the last linear layer is followed by a batch norm
    without scale and shift (SimSiam, arXiv 2011.10566 §4.4).
    """

    def __init__(self, input_size: int, hidden_size: int, output_size: int, num_layers: int, output_norm: bool):
        layers: list[nn.Module] = []
        for _ in range(num_layers - 1):
            layers += [nn.Linear(input_size, hidden_size, bias=False), nn.BatchNorm1d(hidden_size), nn.ReLU()]
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
