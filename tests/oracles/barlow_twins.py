"""Barlow Twins, arXiv 2103.03230, eq. 1 and Algorithm 1: Σ_k (1 − C_kk)² + λ Σ_{k≠l} C_kl².

The pseudo-code divides by torch's unbiased standard deviation; the official code, which is followed, standardises with
a batch norm without scale and shift: the population variance, plus 1e-5 under the root.
"""

import torch


def standardise(z):
    return (z - z.mean(dim=0)) / torch.sqrt(z.var(dim=0, correction=0) + 1e-5)


def loss(z_a, z_b, weight):
    c = standardise(z_a).T @ standardise(z_b) / len(z_a)
    on = (1 - c.diagonal()).square().sum()
    off = (c - torch.diag(c.diagonal())).square().sum()
    return on + weight * off
