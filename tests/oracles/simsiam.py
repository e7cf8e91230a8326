"""SimSiam, arXiv 2011.10566, Algorithm 1: D(p, z) = −cos(p, stopgrad(z)), symmetrised."""

import torch.nn.functional as F


def distance(p, z):
    z = z.detach()
    return -(F.normalize(p, dim=1) * F.normalize(z, dim=1)).sum(dim=1).mean()


def loss(p_a, p_b, z_a, z_b):
    return distance(p_a, z_b) / 2 + distance(p_b, z_a) / 2
