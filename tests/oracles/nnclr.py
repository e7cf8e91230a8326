"""NNCLR, arXiv 2104.14548, Algorithm 1: the nearest neighbour of one view's embedding against the other's predictions.

The neighbours are found in the queue as it is before the step's embeddings join it, and get no gradient. The logits'
rows are the neighbours: each of them picks its prediction among the N. The mean over both orders.
"""

import torch
import torch.nn.functional as F


def neighbours(z, queue):
    queue = F.normalize(queue, dim=1)
    return queue[(F.normalize(z.detach(), dim=1) @ queue.T).argmax(dim=1)].detach()


def contrast(nearest, p, temperature):
    return F.cross_entropy(nearest @ F.normalize(p, dim=1).T / temperature, torch.arange(len(p)))


def loss(p_a, p_b, z_a, z_b, queue, temperature):
    """p, z (N, D); queue (K, D)."""
    one = contrast(neighbours(z_a, queue), p_b, temperature)
    other = contrast(neighbours(z_b, queue), p_a, temperature)
    return one / 2 + other / 2


def constant(n):
    """What −(J − M) differs from the paper's loss by: −log N."""
    return -torch.log(torch.tensor(float(n), dtype=torch.float64))
