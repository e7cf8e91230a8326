"""MoCo v3, arXiv 2104.02057, Algorithm 1: InfoNCE of predictions and the batch's targets, times 2τ, both orders added.

Pseudo-code and official code agree. The factor 2τ makes the size of the gradient independent of τ.
"""

import torch
import torch.nn.functional as F


def contrast(p, t, temperature):
    q, k = F.normalize(p, dim=1), F.normalize(t.detach(), dim=1)
    return 2 * temperature * F.cross_entropy(q @ k.T / temperature, torch.arange(len(q)))


def loss(p_a, p_b, t_a, t_b, temperature):
    return contrast(p_a, t_b, temperature) + contrast(p_b, t_a, temperature)


def constant(n, temperature):
    """What 4τ · −(J − M), J and M means over both orders, differs from the paper's loss by: −4τ log N."""
    return -4 * temperature * torch.log(torch.tensor(float(n), dtype=torch.float64))
