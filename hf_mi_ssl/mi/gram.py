"""Second moments on the cheaper side: what a D × D matrix says of N points, their N × N inner products say too."""

import math

import torch
from torch import Tensor


def squared_norm(x: Tensor, y: Tensor) -> Tensor:
    """‖XᵀY‖² = ⟨XXᵀ, YYᵀ⟩, Frobenius: (N, D), (N, E) -> a scalar, through the smaller of (D, E) and (N, N).

    Less its diagonal, Σ_k (XᵀY)_kk², it is right to 1e-7 of what is taken off: for correlations of N points that is
    far below the D²/N of sampling noise.
    """
    if x.shape[1] * y.shape[1] <= len(x) ** 2:
        return (x.T @ y).square().sum()
    gram = x @ x.T
    return (gram * (gram if y is x else y @ y.T)).sum()


def log_det_shifted(x: Tensor, shift: float) -> Tensor:
    """log det(XᵀX + shift I), (N, D) -> a scalar: D log shift + log det(I + XXᵀ/shift) where N < D."""
    n, d = x.shape
    small = x.T @ x if d <= n else x @ x.T
    identity = torch.eye(len(small), dtype=x.dtype, device=x.device)
    factor = torch.linalg.cholesky_ex(small + shift * identity).L  # the checked one waits for the device
    return 2 * factor.diagonal().log().sum() + (d - len(small)) * math.log(shift)


def on_the_smaller_side(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """X, Y of shape (N, D) in coordinates of the space that their rows span, (N, ≤ 2N), which keeps inner products.

    The basis is held constant: a function of inner products has its gradient inside that space.
    """
    if x.shape[1] <= 2 * len(x):
        return x, y
    basis = torch.linalg.qr(torch.cat([x, y]).detach().T).Q  # (D, 2N)
    return x @ basis, y @ basis
