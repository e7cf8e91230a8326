"""VICReg, arXiv 2105.04906, eq. 6 and Algorithm 1: invariance, variance and covariance, weighted 25, 25 and 1.

The official code, which is followed, differs from the text in two constants: the invariance is a mean over the D
dimensions too (eq. 5 sums over them; the pseudo-code has the mean), and the variance term is the mean over the two
views (eq. 6 adds them). The covariance term is added over the views in both. Variances are unbiased.
"""

import torch
import torch.nn.functional as F


def hinge(z):
    return F.relu(1 - torch.sqrt(z.var(dim=0) + 1e-4)).mean()


def covariance(z):
    c = torch.cov(z.T)
    return (c - torch.diag(c.diagonal())).square().sum() / z.shape[1]


def loss(z_a, z_b, invariance_weight, variance_weight, covariance_weight):
    invariance = F.mse_loss(z_a, z_b)
    variance = (hinge(z_a) + hinge(z_b)) / 2
    return (
        invariance_weight * invariance
        + variance_weight * variance
        + covariance_weight * (covariance(z_a) + covariance(z_b))
    )
