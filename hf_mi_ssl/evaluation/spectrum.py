"""What shape embeddings have: how many directions they use, whether they use any, how views and classes lie in them.

`rankme` does not centre and `effective_rank` does: a cone of embeddings with a little noise has a low first and a high
second, a few clusters the other way round. `embedding_std` sees only complete collapse. Report all three. Everything
is computed in float64.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import counter
from ..mi.gram import squared_norm

_DEAD = 0.1  # of the spread that isotropic embeddings have in each dimension


def rankme(z: Tensor) -> float:
    """exp(−Σ_k p_k log p_k), p = σ/Σσ, σ the singular values of z, (N, D), not centred (arXiv 2210.02885)"""
    return _exponential_entropy(_squared_singular_values(z.double()).sqrt())


def effective_rank(z: Tensor) -> float:
    """exp(−Σ_k p_k log p_k), p = λ/Σλ, λ the eigenvalues of the covariance of z, (N, D) (Roy & Vetterli 2007)"""
    return _exponential_entropy(_squared_singular_values(_centred(z)))


def participation_ratio(z: Tensor) -> float:
    """(tr C)² / tr C², C the covariance of z, (N, D): the effective rank without a logarithm or a decomposition"""
    centred = _centred(z)
    trace = centred.square().sum()
    return (trace.square() / squared_norm(centred, centred)).item() if trace > 0 else 1.0


def alpha_req(z: Tensor) -> float:
    """α of λ_i ∝ i^−α, λ the eigenvalues of the covariance of z, (N, D): near 1 is best (Agrawal et al., NeurIPS 2022)

    Least squares of log λ_i on log i with weights 1/i, so that every octave counts alike. Few directions: α ≫ 1; noise
    in all of them: α ≪ 1. Infinite below two directions. Says little for D below 64.
    """
    eigenvalues = _squared_singular_values(_centred(z)).sort(descending=True).values
    eigenvalues = eigenvalues[eigenvalues > 0]
    if len(eigenvalues) < 2:
        return math.inf
    i = torch.arange(1, len(eigenvalues) + 1, dtype=torch.float64, device=z.device)
    weight = (1 / i) / (1 / i).sum()
    x, y = i.log(), eigenvalues.log()
    x = x - weight @ x
    return (-(weight * x) @ y / ((weight * x) @ x)).item()


def lidar(z: Tensor, delta: float = 1e-4) -> float:
    """exp(−Σ_k p_k log p_k), p = λ/Σλ, λ the eigenvalues of Σ_w⁻¹ Σ_b, z (n, q, D): q views of each of n images

    Σ_b is the covariance of the images' means, Σ_w that of views around them plus δI (arXiv 2312.04000): the rank of
    what differs between images by more than it differs between views. At least 1,000 images and 10 views.
    """
    z = z.double()
    n, q, d = z.shape
    means = z.mean(1)
    within = (z - means[:, None]).reshape(n * q, d)
    spread = within.T @ within / (n * q)
    delta = max(delta, 1e-9 * spread.trace().item())  # δ is for embeddings of about unit size
    factor = torch.linalg.cholesky(spread + delta * torch.eye(d, dtype=z.dtype, device=z.device))
    whitened = torch.linalg.solve_triangular(factor, _centred(means).T, upper=False)
    return _exponential_entropy(_squared_singular_values(whitened))


def canonical_correlations(z_a: Tensor, z_b: Tensor) -> Tensor:
    """ρ_k = corr(u_kᵀ z_a, v_kᵀ z_b), z_a and z_b (N, D): directions of one half of the pairs, correlated on the other

    Mean of both ways, (min(D, ⌊N/2⌋ − 1),), largest first on the half that chose. Fitted and measured on the same
    pairs, independent views would show √(D/N) and more; here they show 0 up to noise.
    """
    a, b = z_a.double(), z_b.double()
    # Not the first and the second: data sets are often sorted by class
    halves = counter.permutation(len(a), "canonical correlations/halves").to(a.device) < len(a) // 2
    count = min(a.shape[1], b.shape[1], len(a) // 2 - 1)
    ways = []
    for chosen in (halves, ~halves):
        (mean_a, white_a), (mean_b, white_b) = _whitening(a[chosen]), _whitening(b[chosen])
        u, _, vh = torch.linalg.svd(((a[chosen] - mean_a) @ white_a).T @ ((b[chosen] - mean_b) @ white_b))
        rank = min(count, white_a.shape[1], white_b.shape[1])
        left = _centred(a[~chosen]) @ white_a @ u[:, :rank]
        right = _centred(b[~chosen]) @ white_b @ vh[:rank].T
        ways.append(F.pad(F.cosine_similarity(left, right, dim=0), (0, count - rank)))
    return (ways[0] + ways[1]) / 2


def embedding_std(z: Tensor) -> float:
    """√D · mean_k std_i(z_ik / ‖z_i‖) for z (N, D): 1 when isotropic, 0 when collapsed (arXiv 2011.10566)"""
    unit = _unit(z)
    return (z.shape[1] ** 0.5 * unit.std(0, correction=0).mean()).item()


def dead_dimensions(z: Tensor) -> float:
    """share of k with √D · std_i(z_ik / ‖z_i‖) < 0.1, z (N, D): the mean of them, `embedding_std`, hides a few"""
    return (z.shape[1] ** 0.5 * _unit(z).std(0, correction=0) < _DEAD).double().mean().item()


def mean_cosine(z: Tensor) -> float:
    """mean_{i≠j} cos(z_i, z_j), z (N, D): 0 when isotropic, 1 when collapsed, between them a cone"""
    unit, n = _unit(z), len(z)
    if not unit.any():  # all at the origin: one point, though it has no direction
        return 1.0
    return ((unit.sum(0).square().sum() - unit.square().sum()) / (n * (n - 1))).item() if n > 1 else 1.0


def alignment(z_a: Tensor, z_b: Tensor) -> float:
    """mean_i ‖u_i − v_i‖², u = z_a/‖z_a‖, v = z_b/‖z_b‖, (N, D): 0 when invariant (arXiv 2005.10242)"""
    difference = _unit(z_a) - _unit(z_b)
    return difference.square().sum(1).mean().item()


def largest_norm(z: Tensor) -> float:
    """max_i ‖z_i‖ / median_i ‖z_i‖, z (N, D): a few outliers make the ranks of z say nothing of the rest"""
    norms = z.double().norm(dim=1)
    return (norms.max() / norms.median().clamp_min(1e-12 * norms.max())).item() if norms.any() else 1.0


def uniformity(z: Tensor) -> float:
    """log mean_{i≠j} exp(−2 ‖u_i − u_j‖²), u = z/‖z‖, z (N, D): −4 uniform, 0 collapsed (arXiv 2005.10242)"""
    unit, n = _unit(z), len(z)
    if n < 2 or not unit.any():
        return 0.0
    sums = []
    for first in range(0, n, 1024):  # memory stays linear in N
        scores = 4 * (unit[first : first + 1024] @ unit.T) - 4
        scores.diagonal(first).fill_(-math.inf)
        sums.append(scores.logsumexp((0, 1)))
    return (torch.stack(sums).logsumexp(0) - math.log(n * (n - 1))).item()


def mardia_skewness(z: Tensor) -> float:
    """β = mean_{i≠j} (x_iᵀx_j)³, x the whitened z, (N, D): 0 for a Gaussian (Mardia 1970)

    β/6τ³ is the leading error of a second-order marginal term of whitened embeddings.
    """
    return _whitened_moment(z, 3)


def koziol_kurtosis(z: Tensor) -> float:
    """K = mean_{i≠j} (x_iᵀx_j)⁴, x the whitened z, (N, D): 3D(D + 2) for a Gaussian (Koziol 1989)

    (K − 3D²)/24τ⁴ is the next error after skewness. With x whitened by the sample itself K is small by 1 − (1 − D/N)².
    """
    return _whitened_moment(z, 4)


def nc1(h: Tensor, labels: Tensor) -> float | None:
    """tr(Σ_W Σ_B⁺)/C, representations h (N, D) of C classes: 0 when each class is a point (arXiv 2008.08186, eq. 2)

    None of one class, and of classes whose means are one point: there is nothing between them to compare with.
    """
    h = h.double()
    classes, which = labels.unique(return_inverse=True)
    counts = torch.bincount(which).to(h)
    means = torch.zeros(len(classes), h.shape[1], dtype=h.dtype, device=h.device).index_add_(0, which, h)
    means /= counts[:, None]
    between = _centred(means)
    within = h - means[which]
    _, singular, directions = torch.linalg.svd(between, full_matrices=False)
    if not singular.any():
        return None
    kept = singular > max(between.shape) * torch.finfo(torch.float64).eps * singular.max()
    # Σ_B⁺ = C V diag(σ⁻²) Vᵀ: only the part of Σ_W in the span of the class means counts
    return ((within @ directions[kept].T / singular[kept]).square().sum() / len(h)).item()


def leading(z: Tensor, most: int = 64) -> Tensor:
    """z (N, D) in its leading principal directions, at most `most` and N/16: as many as moments can be told of."""
    centred = _centred(z)
    _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
    rank = int((singular > 1e-6 * singular.max()).sum())
    return centred @ directions[: max(1, min(most, len(z) // 16, rank))].T


def _unit(z: Tensor) -> Tensor:
    return F.normalize(z.double(), dim=1)


def _centred(z: Tensor) -> Tensor:
    z = z.double()
    centred = z - z.mean(0)
    if centred.norm() <= torch.finfo(torch.float32).eps * z.norm():  # constant: what is left is rounding
        return torch.zeros_like(centred)
    return centred


def _squared_singular_values(z: Tensor) -> Tensor:
    gram = z.T @ z if z.shape[0] > z.shape[1] else z @ z.T  # the cheaper side has the same nonzero spectrum
    squares = torch.linalg.eigvalsh(gram).clamp_min(0)
    return squares * (squares > max(z.shape) * torch.finfo(torch.float64).eps * squares.max())


def _whitening(z: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of z, (N, D), and W, (D, R), with (z − mean) W white; R the directions that hold any variance."""
    centred = _centred(z)
    _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
    kept = (singular > 1e-6 * singular.max()) & (singular > 0)
    return z.mean(0), directions[kept].T * (len(z) ** 0.5 / singular[kept])


def _whitened_moment(z: Tensor, order: int) -> float:
    z = z.double()
    mean, white = _whitening(z)
    x, n = (z - mean) @ white, len(z)
    total = sum((part @ x.T).pow(order).sum() for part in x.split(1024))
    return ((total - x.square().sum(1).pow(order).sum()) / (n * (n - 1))).item()


def _exponential_entropy(spectrum: Tensor) -> float:
    if not spectrum.sum() > 0:
        return 1.0
    p = spectrum / spectrum.sum()
    return torch.exp(-torch.special.xlogy(p, p).sum()).item()
