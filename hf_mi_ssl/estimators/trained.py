"""Trained critics: a network fitted on some pairs, judged on others, in nats.

Whatever objective shapes the critic, what is reported is one statistic: the Donsker–Varadhan value of held-out pairs,
which is a lower bound for every critic. So NWJ, JSD and SMILE need no offset of their own, and InfoNCE no log N.
"""

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .. import counter
from ..errors import refuse_unknown
from ..mi import bounds
from .coordinates import Coordinates, normal_scores
from .learned import LearnedCritic, Member, Network, Split, exponential_sums

OBJECTIVES: dict[str, Callable[[Tensor], Tensor]] = {
    "dv": bounds.dv,
    "info_nce": lambda scores: (bounds.info_nce(scores) + bounds.info_nce(scores.T)) / 2,  # leaves no c(a), no c(b)
    "jsd": bounds.jsd,
    "nwj": bounds.nwj,
    "smile": bounds.smile,
}
_STEPS, _EVERY, _PATIENCE = 1500, 50, 6
_LEARNING_RATE, _MEMORY = 3e-3, 0.99
WEIGHT_DECAY = 0.3


class Separable(Network):
    """T(a, b) = f(a)ᵀg(b) + u(a) + v(b), f, g, u, v multi-layer perceptrons; T = 0 at the start

    u and v make room for critics like −|a − b|², which products alone need many dimensions for.
    """

    batch = 512

    def __init__(self, a: int, b: int, hidden: int = 128, width: int = 32):
        super().__init__()
        self.f, self.g = _mlp(a, hidden, width), _zero(_mlp(b, hidden, width))
        self.u, self.v = _zero(_mlp(a, hidden // 2, 1)), _zero(_mlp(b, hidden // 2, 1))

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        left, right = (torch.ones_like(z[:, :1]) for z in (a, b))
        return torch.cat([self.f(a), self.u(a), left], 1), torch.cat([self.g(b), right, self.v(b)], 1)


class Concatenated(Network):
    """T(a, b) = MLP([a, b]): the most general form, and n² passes; the first layer is linear, so it runs n times"""

    batch = 128

    def __init__(self, a: int, b: int, hidden: int = 64):
        super().__init__()
        self.a, self.b = nn.Linear(a, hidden), nn.Linear(b, hidden, bias=False)
        self.rest = nn.Sequential(nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), _zero(nn.Linear(hidden, 1)))

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return self.a(a), self.b(b)

    def scores(self, left: Tensor, right: Tensor) -> Tensor:
        return self.rest(left[:, None] + right).squeeze(-1)


class Bilinear(Network):
    """T(a, b) = aᵀWb + c: sees correlations, and no more"""

    batch = 512

    def __init__(self, a: int, b: int):
        super().__init__()
        self.w, self.c = nn.Parameter(torch.zeros(a, b)), nn.Parameter(torch.zeros(()))

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return a @ self.w, b

    def scores(self, left: Tensor, right: Tensor) -> Tensor:
        return super().scores(left, right) + self.c


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    layers = nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, outputs)
    return nn.Sequential(*layers)


def _zero(module: nn.Module) -> nn.Module:
    last = module[-1] if isinstance(module, nn.Sequential) else module
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return module


class TrainedCritic(LearnedCritic):
    """T trained to raise `objective` on batches of normal scores, stopped early; reported as held-out DV.

    Scores are bounded whatever the tails of the embeddings are, so that no pair lies far from those trained on.

    Args:
        objective: dv | info_nce | jsd | nwj | smile (arXiv 1807.03748, 1808.06670, 1905.06922, 1910.06222).
        seed: of the initial weights, the batches and the part that is chosen on.
    """

    network: type[Network]

    def __init__(self, objective: str = "info_nce", seed: int = 0):
        super().__init__(seed)
        refuse_unknown("objective", [objective], OBJECTIVES)
        self.objective = objective

    def train(self, train: Split, validation: Split) -> list[Member]:
        coordinates = tuple(normal_scores(z) for z in train)
        return [train_member(self.network, coordinates, train, validation, self.objective, self.seed)[0]]

    def describe(self) -> str:
        return f"{self.network.__name__.lower()} critic trained by {self.objective}"


class SeparableCritic(TrainedCritic):
    """L = held-out DV of w T, T = f(a)ᵀg(b) + u(a) + v(b): a lower bound, all pairings in one product

    Bias and variance are those of `LearnedCritic`. The default objective is InfoNCE, which is stable at any MI.
    Source: separable critics of arXiv 1905.06922; u and v are ours.
    """

    network = Separable


class ConcatenatedCritic(TrainedCritic):
    """L = held-out DV of w T, T = MLP([a, b]): a lower bound; n² passes through the network, so for small n

    Bias and variance are those of `LearnedCritic`. The form of MINE (arXiv 1801.04062).
    """

    network = Concatenated


class BilinearCritic(TrainedCritic):
    """L = held-out DV of w T, T = aᵀWb + c: a lower bound, loose where dependence is more than correlation

    Bias and variance are those of `LearnedCritic`. The form of CPC (arXiv 1807.03748).
    """

    network = Bilinear


ESTIMATORS = {"separable": SeparableCritic, "concatenated": ConcatenatedCritic, "bilinear": BilinearCritic}


def train_member(
    make: Callable[[int, int], Network],
    coordinates: Coordinates,
    train: Split,
    validation: Split,
    objective: str = "info_nce",
    seed: int = 0,
    weight_decay: float = WEIGHT_DECAY,
) -> tuple[Member, list[float]]:
    """Train make(D, E) by AdamW; returns the state with the best DV on `validation`, and that DV by check, in nats.

    What is judged and returned is the running mean of the weights: less noise than the last batch left. The start is
    judged too, so the result is never below it.
    """
    (a, b), held = (tuple(to(z).float() for to, z in zip(coordinates, pairs)) for pairs in (train, validation))
    with torch.random.fork_rng(devices=[]):  # the ambient generator stays as it is
        torch.default_generator.manual_seed(seed)
        network = make(a.shape[1], b.shape[1]).to(a.device)
    mean = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(_MEMORY))
    optimizer = torch.optim.AdamW(network.parameters(), _LEARNING_RATE, weight_decay=weight_decay)
    batch = min(network.batch, len(a))
    best, values = copy.deepcopy(network), [_judge(network, held)]
    for step in range(_STEPS):
        epoch, position = divmod(step, len(a) // batch)
        if position == 0:
            order = counter.permutation(len(a), "estimators/batches", seed, epoch).to(a.device)
        rows = order[position * batch : (position + 1) * batch]
        optimizer.zero_grad()
        (-OBJECTIVES[objective](network.scores(*network(a[rows], b[rows])))).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        mean.update_parameters(network)
        if (step + 1) % _EVERY == 0:
            values.append(_judge(mean.module, held))
            since = len(values) - 1 - values.index(max(values))
            if since == 0:
                best = copy.deepcopy(mean.module)  # a copy: the running mean runs on
            elif since == _PATIENCE:
                break
    return (coordinates, best), values


@torch.no_grad()
def _judge(network: Network, held: Split) -> float:
    one = torch.ones(1, dtype=torch.float64, device=held[0].device)
    value = exponential_sums([((torch.detach, torch.detach), network)], one, held, (1.0,))[0].dv[0]
    return value if math.isfinite(value) else -math.inf  # weights that diverged
