"""The cosines of all re-pairings of a sample, summed block by block: memory linear in N, whatever is measured.

A kernel is a tuple (class, constants …) of a class from below. `Cosines.sums` makes the sums of all the kernels given
to it in one pass over the blocks; equal kernels are computed once.
"""

import math
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from ..mi.critics import cosine

Kernel = tuple | None  # (class, constants …), called as class(cosines, *constants); None for no sums
Law = tuple[Tensor, Tensor]  # of the negatives: values (K,), weights (K,) that sum to 1, float64, on the CPU

_BLOCK = 2**19  # cosines in a block: 2 MB in float32, which a core's cache holds
_FEWEST_ROWS = 32  # of a block: fewer make the matrix product slow


class Cosines:
    """cos(a_i, b_j) of pairs (N, D), (N, D), in float32 or wider: row i is a pair, i ≠ j a draw of the product.

    Raises UserError for shapes that are not those of pairs, and for NaN or infinity.
    """

    def __init__(self, z_a: Tensor, z_b: Tensor):
        if z_a.ndim != 2 or z_a.shape != z_b.shape or len(z_a) < 2:
            raise UserError(f"pairs need two (N, D) tensors of one shape, N ≥ 2; got {[*z_a.shape]}, {[*z_b.shape]}")
        if not (z_a.isfinite().all() and z_b.isfinite().all()):
            raise UserError("embeddings hold NaN or infinity, so their MI is undefined; check the checkpoint")
        wide = (z.detach() if z.dtype == torch.float64 else z.detach().float() for z in (z_a, z_b))
        self.a, self.b = cosine(*wide)
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
        found = {kernel: kernel[0](self, *kernel[1:]) for kernel in dict.fromkeys(kernels) if kernel}
        with torch.autocast(self.a.device.type, enabled=False):
            for rows, cosines in self.blocks() if found else ():
                for sums in found.values():
                    sums.add(rows, cosines)
        return found

    def law(self) -> Law:
        """The law of the cosines with i ≠ j, as a histogram."""
        kernel = (Histogram,)
        return self.sums([kernel])[kernel].law


class Histogram:
    """Counts of the cosines with i ≠ j in equal bins of [−1, 1]; the mean of its values stands for each bin."""

    def __init__(self, cosines: Cosines, bins: int = 8192):
        self.bins = bins
        self.count, self.total = cosines.positives.new_zeros(2, bins + 1)  # the last bin takes the diagonal

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
    """The sums of e^{S_ij}, S = β cos, stable at any β: `rows` (N,) is log mean_{j≠i} e^{S_ij}."""

    def __init__(self, cosines: Cosines, scale: float):
        self.scale, self.positives = scale, scale * cosines.positives
        self.rows = torch.empty_like(self.positives)
        self._columns = cosines.positives.new_zeros(len(cosines), 3)
        self._top = -math.inf  # of the rows so far: the first column sum is in units of e^top

    def add(self, rows: slice, cosines: Tensor) -> None:
        scores = self.scale * cosines
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
    def columns(self) -> Tensor:
        """mean_{i≠j} e^{S_ij}/Z of each column, (N,)."""
        return self._columns[:, 0] / self._columns[:, 0].mean()

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

    def __init__(self, cosines: Cosines, scale: float, offset: float):
        self.constants = scale, offset
        self.rows, self.columns = cosines.positives.new_zeros(2, len(cosines))

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

    def __init__(self, cosines: Cosines, scale: float, offset: float, clip: float):
        super().__init__(cosines, scale, offset)
        self.clip = clip

    def of(self, cosines: Tensor) -> Tensor:
        scale, offset = self.constants
        return (scale * cosines + offset).clamp_(-self.clip, self.clip).exp_()
