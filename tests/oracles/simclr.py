"""NT-Xent, arXiv 2002.05709, Algorithm 1: cross-entropy of the other view among the 2N − 1 other embeddings."""

import math

import torch
import torch.nn.functional as F


def loss(z_a, z_b, temperature):
    z = F.normalize(torch.cat([z_a, z_b]), dim=1)
    s = (z @ z.T / temperature).masked_fill(torch.eye(len(z), dtype=torch.bool), float("-inf"))
    n = len(z_a)
    return F.cross_entropy(s, torch.cat([torch.arange(n, 2 * n), torch.arange(n)]))


def constant(n):
    """What −(J − M) differs from the paper's loss by: −log(2N − 1)."""
    return -math.log(2.0 * n - 1)
