"""CorInfoMax, arXiv 2209.07999: −log det of each view's covariance, and the mean squared distance of the views.

The official code is followed: embeddings are normalised to length 1, everything is divided by D, and mean and
covariance are running ones, R ← λ R + (1 − λ) (Z − μ)ᵀ(Z − μ)/N, μ first, without gradient through the past. They
start at R = I and μ = 0; λ = 0 is the batch alone.
"""

import torch
import torch.nn.functional as F


def statistics(z, past, forgetting):
    """The running mean (D,) and covariance (D, D) after this batch; past is (mean, covariance), or None at first."""
    mean, covariance = past or (torch.zeros_like(z[0]), torch.eye(z.shape[1], dtype=z.dtype))
    mean = forgetting * mean.detach() + (1 - forgetting) * z.mean(dim=0)
    centred = z - mean
    return mean, forgetting * covariance.detach() + (1 - forgetting) * centred.T @ centred / len(z)


def loss(z_a, z_b, attraction, forgetting, eps, past_a=None, past_b=None):
    z_a, z_b = F.normalize(z_a, dim=1), F.normalize(z_b, dim=1)
    d = z_a.shape[1]
    entropies = [
        torch.logdet(statistics(z, past, forgetting)[1] + eps * torch.eye(d, dtype=z.dtype))
        for z, past in ((z_a, past_a), (z_b, past_b))
    ]
    return attraction * F.mse_loss(z_a, z_b) - sum(entropies) / d
