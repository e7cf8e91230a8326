"""SwAV, arXiv 2006.09882, Algorithm 1: predict the other view's Sinkhorn assignment to the prototypes.

The official code is followed: three iterations, each of which divides by the sums over the prototypes (rows of Q) and
then over the samples, so that each sample's assignment adds up to 1; the paper's pseudo-code ends likewise. The mean
over the two assignments and over the other views. No queue: the official runs at N = 4096 have none.
"""

import torch
import torch.nn.functional as F


def sinkhorn(scores, epsilon, iterations):
    """scores (N, K) -> assignments (N, K): rows add up to 1, columns nearly to N/K."""
    q = torch.exp(scores.detach() / epsilon).T
    q = q / q.sum()
    for _ in range(iterations):
        q = q / q.sum(dim=1, keepdim=True) / q.shape[0]
        q = q / q.sum(dim=0, keepdim=True) / q.shape[1]
    return q.T * q.shape[1]


def loss(z_a, z_b, prototypes, temperature, epsilon, iterations, local=()):
    """z_a, z_b and each of the local views (N, D), prototypes (K, D); both are normalised here."""
    c = F.normalize(prototypes, dim=1)
    scores = [F.normalize(z, dim=1) @ c.T for z in (z_a, z_b, *local)]
    total = 0
    for i in range(2):
        q = sinkhorn(scores[i], epsilon, iterations)
        others = [s for j, s in enumerate(scores) if j != i]
        entropies = [-(q * F.log_softmax(s / temperature, dim=1)).sum(dim=1).mean() for s in others]
        total = total + sum(entropies) / len(others)
    return total / 2
