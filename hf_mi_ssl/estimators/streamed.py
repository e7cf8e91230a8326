"""The scores of all re-pairings of a sample, summed block by block: memory linear in N, whatever is measured.

A kernel is a tuple (class, constants …) of a class from below. `Cosines.sums` makes the sums of all the kernels given
to it in one pass over the blocks; equal kernels are computed once. The classes take blocks of any scores.
"""

import math
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ..mi.critics import cosine
from .pairs import check_pairs

Kernel = tuple | None  # (class, constants …), called as class(like, *constants), `like` (N,) float64; None for no sums
Law = tuple[Tensor, Tensor]  # of the negatives: values (K,), weights (K,) that sum to 1, float64, on the CPU

_BLOCK = 2**19  # cosines in a block: 2 MB in float32, which a core's cache holds
_FEWEST_ROWS = 32  # of a block: fewer make the matrix product slow


class Cosines:
    """cos(a_i, b_j) of pairs (N, D), (N, D), in float32 or wider: row i is a pair, i ≠ j a draw of the product.

    Raises UserError for shapes that are not those of pairs, and for NaN or infinity.
    """

    def __init__(self, z_a: Tensor, z_b: Tensor):
        check_pairs(z_a, z_b, least=2, one_size=True)
        wide = (z.detach() if z.dtype == torch.float64 else z.detach().float() for z in (z_a, z_b))
        self.a, self.b = cosine(*map(to_unit_size, wide))
        self.positives = (self.a * self.b).sum(1).double()

    def __len__(self) -> int:
        return len(self.a)

    def __getitem__(self, rows: Tensor) -> "Cosines":
        """Some of the pairs."""
        return Cosines(self.a[rows], self.b[rows])

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """(rows, their cosines (R, N)) of one block of rows after another; the positives are on the diagonal at
        column rows.start."""
        n = len(self)
        size = max(_FEWEST_ROWS, _BLOCK // n)
        for start in range(0, n, size):
            rows = slice(start, min(start + size, n))
            yield rows, self.a[rows] @ self.b.T

    def sums(self, kernels: Iterable[Kernel]) -> dict:
        """{kernel: its sums over all the re-pairings}"""
        found = {kernel: kernel[0](self.positives, *kernel[1:]) for kernel in dict.fromkeys(kernels) if kernel}
        with torch.autocast(self.a.device.type, enabled=False):
            for rows, cosines in self.blocks() if found else ():
                for sums in found.values():
                    sums.add(rows, cosines)
        return found

    def law(self) -> Law:
        """The law of the cosines with i ≠ j, as a histogram."""
        kernel = (Histogram,)
        return self.sums([kernel])[kernel].law


def to_unit_size(z: Tensor) -> Tensor:
    """Rows (N, D) times powers of two, which costs no digit: the squares of very long or short ones are no infinities
    or zeros."""
    return torch.ldexp(z, -torch.frexp(z.abs().amax(1, keepdim=True)).exponent)


class Histogram:
    """Counts of the cosines with i ≠ j in equal bins of [−1, 1]; the mean of its values stands for each bin."""

    def __init__(self, like: Tensor, bins: int = 8192):
        self.bins = bins
        self.count, self.total = like.new_zeros(2, bins + 1)  # the last bin takes the diagonal

    def add(self, rows: slice, cosines: Tensor) -> None:
        index = ((cosines + 1) * (self.bins / 2)).int().clamp_(0, self.bins - 1)
        index.diagonal(rows.start).fill_(self.bins)
        index = index.flatten()
        self.count += torch.bincount(index, minlength=self.bins + 1)
        self.total += torch.bincount(index, weights=cosines.flatten().double(), minlength=self.bins + 1)

    @property
    def law(self) -> Law:
        count, total = self.count[:-1].cpu(), self.total[:-1].cpu()
        seen = count > 0
        return total[seen] / count[seen], count[seen] / count.sum()


class Exponential:
    """The sums of e^{S_ij}, S = β × the scores, stable at any β: `positives` (N,) are the S_ii, `rows` (N,) is
    log mean_{j≠i} e^{S_ij}."""

    def __init__(self, like: Tensor, scale: float = 1.0):
        self.scale = scale
        self.positives, self.rows = like.new_empty(2, len(like))
        self._columns = like.new_zeros(len(like), 3)
        self._top = -math.inf  # of the rows so far: the first column sum is in units of e^top

    def add(self, rows: slice, scores: Tensor) -> None:
        scores = self.scale * scores
        self.positives[rows] = scores.diagonal(rows.start).double()
        scores.diagonal(rows.start).fill_(-math.inf)
        top = scores.amax(1, keepdim=True)
        e = scores.sub_(top).exp_()
        sums, top = e.sum(1).double(), top.squeeze(1).double()
        self.rows[rows] = top + sums.log() - math.log(len(self.rows) - 1)
        highest = max(self._top, top.max().item())
        self._columns[:, 0] *= math.exp(self._top - highest)
        self._top = highest
        with_own = sums + (self.positives[rows] - top).exp()
        weights = torch.stack([(top - highest).exp(), 1 / sums, 1 / with_own], 1)
        self._columns += e.T @ weights.to(e.dtype)

    @property
    def log_z(self) -> float:
        """log mean_{i≠j} e^{S_ij}"""
        return torch.logsumexp(self.rows, 0).item() - math.log(len(self.rows))

    @property
    def marginal_influence(self) -> Tensor:
        """(r_i − 1) + (c_i − 1), r and c the row and column means of e^S/Z, (N,): the pairs' influences on log Z."""
        columns = self._columns[:, 0]
        return (self.rows - self.log_z).exp() + columns / columns.mean() - 2

    @property
    def dv(self) -> tuple[float, Tensor]:
        """mean_i S_ii − log Z, and the influence of each pair on it, (N,)."""
        mean = self.positives.mean()
        return mean.item() - self.log_z, self.positives - mean - self.marginal_influence

    @property
    def shares(self) -> Tensor:
        """What each column has of the softmaxes of all rows, the positives left out, (N,)."""
        return self._columns[:, 1]

    @property
    def log_own(self) -> Tensor:
        """The log-softmax of each positive in its row of all n, (N,)."""
        return F.logsigmoid(self.positives - self.rows - math.log(len(self.rows) - 1))

    @property
    def shares_with_own(self) -> Tensor:
        """What each column has of the softmaxes of all rows of n, (N,)."""
        return self._columns[:, 2] + self.log_own.exp()


class Softplus:
    """mean_{j≠i} softplus(β cos + c) of each row and, over i, of each column: `rows`, `columns` (N,)."""

    def __init__(self, like: Tensor, scale: float, offset: float):
        self.constants = scale, offset
        self.rows, self.columns = like.new_zeros(2, len(like))

    def of(self, cosines: Tensor) -> Tensor:
        scale, offset = self.constants[:2]
        return F.softplus(scale * cosines + offset)

    def add(self, rows: slice, cosines: Tensor) -> None:
        values = self.of(cosines)
        values.diagonal(rows.start).zero_()
        negatives = len(self.rows) - 1
        self.rows[rows] = values.sum(1).double() / negatives
        self.columns += values.sum(0) / negatives


class ClippedExponential(Softplus):
    """mean_{j≠i} e^{clip(β cos + c, −clip, clip)} of each row and of each column."""

    def __init__(self, like: Tensor, scale: float, offset: float, clip: float):
        super().__init__(like, scale, offset)
        self.clip = clip

    def of(self, cosines: Tensor) -> Tensor:
        scale, offset = self.constants
        return (scale * cosines + offset).clamp_(-self.clip, self.clip).exp_()
