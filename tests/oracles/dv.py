"""The Donsker–Varadhan bound with a cosine critic, arXiv 2510.01345: mean_i s_ii − log mean_{i≠j} exp s_ij."""

import torch


def loss(z_a, z_b, temperature):
    cosine = torch.nn.functional.cosine_similarity(z_a[:, None], z_b[None, :], dim=2) / temperature
    apart = cosine[~torch.eye(len(z_a), dtype=torch.bool)]
    return -(cosine.diagonal().mean() - torch.log(torch.exp(apart).mean()))
