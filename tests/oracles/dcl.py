"""Decoupled contrastive loss, arXiv 2110.06848, eq. 6: NT-Xent without the positive pair in the denominator.

The mean over the 2N embeddings, as in NT-Xent; the equation writes their sum, and the public implementation
(raminnakhli/Decoupled-Contrastive-Learning) adds the means of the two views, twice as much.
"""

import torch
import torch.nn.functional as F


def loss(z_a, z_b, temperature):
    n = len(z_a)
    z = F.normalize(torch.cat([z_a, z_b]), dim=1)
    s = z @ z.T / temperature
    same_image = torch.eye(n, dtype=torch.bool).repeat(2, 2)
    positive = s[:n, n:].diagonal().repeat(2)
    return (torch.logsumexp(s.masked_fill(same_image, float("-inf")), dim=1) - positive).mean()


def constant(n):
    """What −(J − M) differs from the paper's loss by, for 2N − 2 negatives: −log(2N − 2)."""
    return -torch.log(torch.tensor(2.0 * n - 2, dtype=torch.float64))
