"""BYOL, arXiv 2006.07733, eq. 2: squared distance of the normalised prediction and target, summed over both orders.

The official code (deepmind-research, byol) and the paper agree: a sum, so 4 − 2 cos − 2 cos, not the mean over orders.
"""

import torch.nn.functional as F


def distance(p, t):
    return (F.normalize(p, dim=1) - F.normalize(t.detach(), dim=1)).square().sum(dim=1).mean()


def loss(p_a, p_b, t_a, t_b):
    return distance(p_a, t_b) + distance(p_b, t_a)


def constant():
    """What 4 · −(J − M) differs by if T is the cosine at τ = 1 and J the mean over both orders: −4. With
    T = −½ ‖·‖² of the normalised (cosine − 1) it is nothing."""
    return -4.0
