"""Spectral contrastive loss, arXiv 2106.04156, eq. 6: −2 E_p(a,b)[aᵀb] + E_p(a)p(b)[(aᵀb)²].

The official code, which is followed, shortens embeddings that are longer than √μ to that length (a ball, not a sphere)
and divides the loss by μ. The second mean is over the N(N − 1) pairs i ≠ j of the two views.
"""

import torch


def into_ball(z, radius):
    return z * (radius / z.norm(dim=1, keepdim=True)).clamp(max=1)


def loss(z_a, z_b, mu):
    a, b = into_ball(z_a, mu**0.5), into_ball(z_b, mu**0.5)
    s = a @ b.T
    apart = s[~torch.eye(len(s), dtype=torch.bool)]
    return (apart.square().mean() - 2 * s.diagonal().mean()) / mu
