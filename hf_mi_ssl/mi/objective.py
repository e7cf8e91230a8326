"""L = ΣJ − ΣM: a critic, weighted joint terms and weighted marginal terms make the objective of every method."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .critics import CRITICS
from .joint import JOINT_TERMS
from .marginal import MARGINAL_TERMS
from .pairs import Pairs


@dataclass(frozen=True)
class Bound:
    """What an objective says of one batch: its weighted terms by name, scalars, in nats for score-based terms."""

    joint: dict[str, Tensor]
    marginal: dict[str, Tensor]

    @property
    def value(self) -> Tensor:
        """L = ΣJ − ΣM, the value to be ascended."""
        return sum(self.joint.values()) - sum(self.marginal.values())


class MIObjective:
    """L = Σ_k w_k J_k − Σ_k v_k M_k over pairs of embeddings, with T = critic/τ.

    Args:
        critic: a name in `CRITICS`.
        temperature: τ > 0; scores are divided by it.
        joint: weight of each joint term by name.
        marginal: weight of each marginal term by name; empty where something else stands in for M (a predictor).

    Raises:
        KeyError: for a name that is not registered; configurations check names before they get here.
    """

    def __init__(self, critic: str, temperature: float, joint: dict[str, float], marginal: dict[str, float]):
        self.critic, self.temperature = CRITICS[critic], temperature
        self.joint = [(name, JOINT_TERMS[name], weight) for name, weight in joint.items()]
        self.marginal = [(name, MARGINAL_TERMS[name], weight) for name, weight in marginal.items()]

    def __call__(self, a: Tensor, b: Tensor, negatives: Tensor | None = None, draw: int = 0) -> Bound:
        """(N, D), (N, D) and, from a queue, (K, D) -> Bound. `draw` numbers the call, for terms that draw at random.
        Leaves autocast: scores, exponentials and covariances need float32."""
        with torch.autocast(a.device.type, enabled=False):
            a, b = _at_least_float32(a), _at_least_float32(b)
            pairs = Pairs(a, b, self.critic, self.temperature, negatives, draw)
            return Bound(
                joint={name: weight * term(pairs) for name, term, weight in self.joint},
                marginal={name: weight * term(pairs) for name, term, weight in self.marginal},
            )


def _at_least_float32(z: Tensor) -> Tensor:
    return z if z.dtype == torch.float64 else z.float()
