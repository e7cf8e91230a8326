"""MoCo v2, arXiv 2003.04297, loss of MoCo, arXiv 1911.05722, Algorithm 1: the key among itself and the queue's K.

Not symmetrised, in the paper and in the official code: view a is the query, view b the key. The keys of the batch join
the queue only after the loss.
"""

import torch
import torch.nn.functional as F


def loss(p_a, t_b, queue, temperature):
    """p_a (N, D): queries; t_b (N, D): keys; queue (K, D): normalised keys of earlier batches."""
    q, k = F.normalize(p_a, dim=1), F.normalize(t_b.detach(), dim=1)
    positive = torch.einsum("nd,nd->n", q, k)[:, None]
    logits = torch.cat([positive, torch.einsum("nd,kd->nk", q, queue)], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long))


def constant(k):
    """What −(J − M) differs from the paper's loss by, K the size of the queue: −log(1 + K)."""
    return -torch.log(torch.tensor(1.0 + k, dtype=torch.float64))
