"""Terms beside plain forms of the same formula: the loss as one writes it down, with the matrix of all scores or of
all correlations. Plain forms that need more than 8 GB are left out.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F

from hf_mi_ssl.mi import MIObjective

TEMPERATURE = 0.2
LIMIT = 8e9  # bytes


# For terms of scores the loss is M − J: a cross-entropy gives no other.


def scores(a, b, skip_diagonal=False):
    matrix = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / TEMPERATURE
    return matrix.fill_diagonal_(-torch.inf) if skip_diagonal else matrix


def off_diagonal(matrix):
    n = len(matrix)
    return matrix.flatten()[1:].view(n - 1, n + 1)[:, :-1]


def joint(a, b):
    return F.cosine_similarity(a, b).mean() / TEMPERATURE


def exact(a, b):
    return torch.logsumexp(scores(a, b, True), (0, 1)) - math.log(len(a) * (len(a) - 1)) - joint(a, b)


def row_wise(a, b):
    return torch.logsumexp(scores(a, b, True), 1).mean() - math.log(len(a) - 1) - joint(a, b)


def info_nce(a, b):
    return F.cross_entropy(scores(a, b), torch.arange(len(a), device=a.device)) - math.log(len(a))


def nt_xent(a, b):
    n, z = len(a), torch.cat([a, b])
    return F.cross_entropy(scores(z, z, True), torch.arange(2 * n, device=a.device).roll(n)) - math.log(2 * n - 1)


def nt_xent_in_quarters(a, b):
    """Four N × N matrices, diagonals taken out by boolean masks, then put together, as lightly computes it."""
    n = len(a)
    apart = ~torch.eye(n, dtype=torch.bool, device=a.device)
    within_a, within_b = (scores(z, z)[apart].view(n, n - 1) for z in (a, b))
    halves = torch.cat([scores(a, b), within_a], 1), torch.cat([scores(b, a), within_b], 1)
    return F.cross_entropy(torch.cat(halves), torch.arange(n, device=a.device).repeat(2)) - math.log(2 * n - 1)


def second_order(a, b):
    negatives = off_diagonal(scores(a, b))
    return negatives.mean() + negatives.var(correction=0) / 2 - joint(a, b)


def third_order(a, b):
    negatives = off_diagonal(scores(a, b))
    centred = negatives - negatives.mean()
    return negatives.mean() + centred.square().mean() / 2 + (centred**3).mean() / 6 - joint(a, b)


def redundancy(a, b):
    a, b = (F.batch_norm(z, None, None, training=True) for z in (a, b))
    return off_diagonal(a.T @ b / len(a)).square().sum()


def covariance(a, b):
    return sum(off_diagonal(torch.cov(z.T)).square().sum() / z.shape[1] for z in (a, b))


def log_det(a, b):
    covariances = (torch.cov(F.normalize(z.double(), dim=1).T, correction=0) for z in (a, b))
    return -sum(torch.logdet(c + 1e-8 * torch.eye(len(c)).to(c)) for c in covariances) / a.shape[1]


SINGLE = (exact, row_wise, info_nce, second_order, third_order, redundancy, covariance, log_det)
PLAIN = {"nt_xent": [nt_xent, nt_xent_in_quarters]} | {form.__name__: [form] for form in SINGLE}
OF_DIMENSIONS = ("redundancy", "covariance", "log_det")  # plain forms hold D × D matrices, the others N × N


def ours(term, a, b):
    joint = {} if term in OF_DIMENSIONS else {"expected_score": 1.0}
    return -MIObjective("cosine", TEMPERATURE, joint, {term: 1.0})(a, b).value


def forms(term, n, d):
    """{what it is called: function}, ours first, then the plain forms that fit."""
    side = d if term in OF_DIMENSIONS else 2 * n if term == "nt_xent" else n
    matrices = 16 if term == "log_det" else 5  # of float32, at the peak of a plain form
    plain = PLAIN[term] if 4 * matrices * side**2 <= LIMIT else []
    return {"ours": partial(ours, term)} | {form.__name__: form for form in plain}


def embeddings(n, d, device):
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(n, d, generator=generator)
    b = a + torch.randn(n, d, generator=generator)
    return a.to(device).requires_grad_(), b.to(device).requires_grad_()
