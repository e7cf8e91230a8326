"""W-MSE, arXiv 2007.06346, §3: 2 − 2 cos of the two views' embeddings after whitening.

The official code is followed: each view is whitened by itself, in sub-batches of `w_size` images (of a random order;
here the order is the one given), with the inverse of the Cholesky factor of (1 − ε) Σ + ε I, Σ unbiased, through which
gradients flow. Its default is ε = 0 and w_size = 128 at D = 64. Normalised after whitening.
"""

import torch
import torch.nn.functional as F


def whiten(z, eps):
    centred = z - z.mean(dim=0)
    sigma = (1 - eps) * torch.cov(z.T) + eps * torch.eye(z.shape[1], dtype=z.dtype)
    return (torch.linalg.inv(torch.linalg.cholesky(sigma)) @ centred.T).T


def loss(z_a, z_b, eps, w_size=None):
    w_size = w_size or len(z_a)
    a, b = (torch.cat([whiten(part, eps) for part in z.split(w_size)]) for z in (z_a, z_b))
    return 2 - 2 * (F.normalize(a, dim=1) * F.normalize(b, dim=1)).sum(dim=1).mean()


def constant():
    """What 2 · −(J − M) differs by if T is the cosine of the whitened and τ = 1: −2."""
    return -2.0
