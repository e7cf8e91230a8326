"""What learned critics share: who sees which pairs, the weights of several critics, the held-out value, in nats.

Pairs are used once each: for training, for choosing (when to stop, which scale), or for the number that is reported.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor, nn

from .. import counter
from ..errors import UserError
from ..mi.pairs import off_diagonal
from .coordinates import Coordinates
from .pairs import check_pairs
from .result import MIEstimate, around
from .streamed import Exponential

_BLOCK = 2**17  # scores that are held at once
_CHOOSING = 1500  # pairs in a choice, at most: their scores are held squared

Split = tuple[Tensor, Tensor]


class Network(nn.Module):
    """T(a, b) = left · right: `forward` encodes (n, D) and (m, E) once, `scores` makes (n, m) of the codes."""

    dtype = torch.float32

    def scores(self, left: Tensor, right: Tensor) -> Tensor:
        """T(a_i, b_j) of encoded rows and columns."""
        return left @ right.T


Member = tuple[Coordinates, Network]


class LearnedCritic(ABC):
    """L = mean_i S_ii − log mean_{i≠j} e^{S_ij}, S = Σ_k w_k T_k, critics T_k and weights w fitted on other pairs

    A lower bound on MI in the population, whatever T_k and w are (Donsker–Varadhan). Low by what the critics did not
    learn; on n pairs an upward bias of var(Z)/2Z², Z the mean of e^S, which is small below log n and not beyond, as is
    the variance. Sources: Donsker and Varadhan 1983, MINE (arXiv 1801.04062); the weights are ours.
    Subclasses say what T_k are.
    """

    members: list[Member]
    weights: Tensor | None = None

    def __init__(self, seed: int = 0):
        self.seed = seed

    def fit(self, z_a: Tensor, z_b: Tensor) -> Self:
        """Train on four fifths of the pairs (N, D), (N, E), choose on the others; a function of pairs and seed.

        Raises UserError for unusable pairs.
        """
        check_pairs(z_a, z_b, least=20)
        order = counter.permutation(len(z_a), "estimators/validation", self.seed).to(z_a.device)
        cut = len(order) * 4 // 5
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(z_a.device.type, enabled=False):
            train, validation = ((z_a.detach()[rows], z_b.detach()[rows]) for rows in (order[:cut], order[cut:]))
            validation = tuple(z[:_CHOOSING] for z in validation)
            self.members = self.train(train, validation)
            self.weights = best_weights(all_scores(self.members, validation))
        return self

    @abstractmethod
    def train(self, train: Split, validation: Split) -> list[Member]:
        """The critics T_k, each with the coordinates that it reads."""

    @abstractmethod
    def describe(self) -> str:
        """The critic, in words."""

    def estimate(self, z_a: Tensor, z_b: Tensor, split: str = "held-out") -> MIEstimate:
        """Measure pairs (n, D), (n, E), which `fit` must not have seen: all n² − n re-pairings, in memory O(n).

        Raises UserError for unusable pairs.
        """
        if self.weights is None:
            raise UserError("this estimator has nothing fitted yet; call fit first")
        check_pairs(z_a, z_b, least=2)
        with torch.no_grad(), torch.autocast(z_a.device.type, enabled=False):
            sums, squares = exponential_sums(self.members, self.weights, (z_a.detach(), z_b.detach()), (1.0, 2.0))
        (value, influence), effective = sums.dv, math.exp(2 * sums.log_z - squares.log_z) * len(z_a) * (len(z_a) - 1)
        n, most = len(z_a), math.log(len(z_a))  # no sample of n certifies more with confidence (arXiv 1811.04251)
        error = influence.std().item() / math.sqrt(n)
        warnings = {
            "cut to log n: use more pairs": value > most,
            "few re-pairings carry the marginal term, so the value may be too high: use more pairs": effective < 100,
        }
        return MIEstimate.of(
            around(value, error, 0.0, most),
            kind="lower_bound",
            ceiling=most,
            n=n,
            split=split,
            protocol=f"{self.describe()}; trained, scaled and measured on different pairs, negatives: all i ≠ j",
            warnings=warnings,
        )


def score_blocks(members: list[Member], pairs: Split) -> Iterator[Tensor]:
    """T_k(a_i, b_j) in blocks of rows: (K, rows, n), float64."""
    encoded = []
    for coordinates, network in members:
        codes = network(*(to(z).to(network.dtype) for to, z in zip(coordinates, pairs)))
        encoded.append((network.scores, *codes))
    n = len(pairs[0])
    size = max(1, _BLOCK // n)
    for start in range(0, n, size):
        yield torch.stack([scores(left[start : start + size], right).double() for scores, left, right in encoded])


@torch.no_grad()
def all_scores(members: list[Member], pairs: Split) -> Tensor:
    """T_k(a_i, b_j), (K, n, n), float64."""
    return torch.cat([*score_blocks(members, pairs)], 1)


def exponential_sums(members: list[Member], weights: Tensor, pairs: Split, scales: tuple[float, ...]) -> list:
    """The sums of e^{β S}, S = Σ_k w_k T_k, for each scale β, over all re-pairings of the pairs, block by block."""
    found = [Exponential(weights.new_empty(len(pairs[0])), scale) for scale in scales]
    start = 0
    for block in score_blocks(members, pairs):
        rows = slice(start, start := start + block.shape[1])
        for sums in found:
            sums.add(rows, torch.tensordot(weights, block, 1))
    return found


def best_weights(scores: Tensor) -> Tensor:
    """argmax_w [DV(Σ_k w_k S_k) − |w − e|²/2n] for (K, n, n) scores, e the best critic alone: (K,), not below DV(S_e)

    An exponential family, hence concave; the penalty bounds w where positives and negatives separate. Newton's method
    with backtracking.
    """
    k, n, _ = scores.shape
    positive = scores.diagonal(dim1=1, dim2=2).mean(1)
    negative = torch.stack([off_diagonal(s).flatten() for s in scores])
    identity = torch.eye(k, dtype=scores.dtype, device=scores.device)

    def objective(w: Tensor, start: Tensor) -> float:
        return (w @ positive - torch.logsumexp(w @ negative, 0) - (w - start).square().sum() / (2 * n)).item()

    start = w = max(identity, key=lambda e: objective(e, e))
    value = objective(w, start)
    for _ in range(50):
        p = torch.softmax(w @ negative, 0)
        mean = negative @ p
        curvature = (negative * p) @ negative.T - mean.outer(mean) + identity / n
        step = torch.linalg.solve(curvature, positive - mean - (w - start) / n)
        while (new := objective(w + step, start)) < value and step.abs().max() > 1e-9:
            step = step / 2
        if new - value < 1e-9:
            return w
        w, value = w + step, new
    return w
