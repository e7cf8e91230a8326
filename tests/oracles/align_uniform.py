"""Alignment and uniformity, arXiv 2005.10242, §4.1: E‖a − b‖^α + log E exp(−t‖z − z'‖²).

On the unit sphere (the official encoder ends in the normalisation, which is done here). The uniformity is a log of the
mean over the pairs i < j of one view, averaged over the two views.
"""

import torch
import torch.nn.functional as F


def uniformity(z, t):
    return torch.exp(-t * torch.pdist(z).square()).mean().log()


def loss(z_a, z_b, align_weight=1.0, uniform_weight=1.0, alpha=2, t=2):
    a, b = F.normalize(z_a, dim=1), F.normalize(z_b, dim=1)
    align = (a - b).norm(dim=1).pow(alpha).mean()
    return align_weight * align + uniform_weight * (uniformity(a, t) + uniformity(b, t)) / 2
