"""LeJEPA, arXiv 2511.08544, Algorithms 1 and 2: views near their mean, and SIGReg, a test of projections for N(0, 1).

SIGReg averages, over directions and views, N ∫ |φ_N(t) − e^(−t²/2)|² e^(−t²/2) dt, φ_N the empirical characteristic
function (Epps and Pulley). The official code is followed: trapezoids on 17 points of [0, 3], doubled for symmetry; the
paper has 17 points of [−5, 5]. The invariance is a mean over views, images and dimensions.
"""

import torch


def sigreg(z, directions):
    """z (N, D); directions (D, S), normalised here."""
    t = torch.linspace(0, 3, 17, dtype=z.dtype)
    gauss = torch.exp(-(t**2) / 2)
    angles = (z @ (directions / directions.norm(dim=0)))[:, :, None] * t
    distance = (angles.cos().mean(dim=0) - gauss) ** 2 + angles.sin().mean(dim=0) ** 2
    return len(z) * 2 * torch.trapezoid(distance * gauss, t, dim=1).mean()


def loss(z_a, z_b, directions, weight):
    centre = (z_a + z_b) / 2
    invariance = ((z_a - centre).square().mean() + (z_b - centre).square().mean()) / 2
    return (1 - weight) * invariance + weight * (sigreg(z_a, directions) + sigreg(z_b, directions)) / 2
