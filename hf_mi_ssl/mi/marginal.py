"""The marginal terms: M of L = J − M, exact or a surrogate of log E_p(a)p(b)[e^T]. What keeps embeddings apart.

A term maps `Pairs` to a scalar; the first line of its docstring is its formula, which cards and tables print. Pairs
with i ≠ j are the samples of p(a)p(b). Without any marginal term the best embedding is a constant: collapse.
Here are the terms written in scores; `moments.py` has those written in moments of the embeddings.
"""

import torch
from torch import Tensor

from .gram import on_the_smaller_side, squared_norm
from .joint import Term
from .pairs import Pairs, log_mean_exp, pooled_log_mean, register

MARGINAL_TERMS: dict[str, Term] = {}


def marginal_term(term: Term) -> Term:
    """Register a marginal term under its own name. Its docstring must begin with the formula, "M = …"."""
    return register(MARGINAL_TERMS, term, "M = ")


# The exact term, and the partition functions of rows


@marginal_term
def exact(p: Pairs) -> Tensor:
    """M = log mean_{i≠j} exp T(a_i, b_j)

    The marginal term of the Donsker–Varadhan bound (arXiv 2510.01345, eq. 15). The log of a batch mean is biased down
    by about half the relative variance of the mean, so the bound is biased up: for cosine/τ by less than 1e-4 nats
    where embeddings are spread out, by (K − 1)/N(N − 1) where they form K clusters.
    """
    return log_mean_exp(p.log_means)


@marginal_term
def row_wise(p: Pairs) -> Tensor:
    """M = mean_i log mean_{j≠i} exp T(a_i, b_j)

    Each a_i has its own partition function. Relations: at most `exact` (Jensen), so the bound is at least as tight.
    On a sample it is biased up N times as much.
    """
    return p.log_means.mean()


@marginal_term
def info_nce(p: Pairs) -> Tensor:
    """M = mean_i log mean_j exp T(a_i, b_j)

    InfoNCE (arXiv 1807.03748): the positive is among the N, so that J − M is at most log N.
    """
    return p.log_means_of(p.a, p.b, positives=True).mean()


@marginal_term
def info_nce_of_targets(p: Pairs) -> Tensor:
    """M = mean_j log mean_i exp T(a_i, b_j)

    InfoNCE with the partition over the predictions for each target, as NNCLR has it (arXiv 2104.14548, eq. 3).
    """
    return p.log_means_of(p.b, p.a, positives=True).mean()


@marginal_term
def nt_xent(p: Pairs) -> Tensor:
    """M = mean over the 2N embeddings z of log mean_{z'} exp T(z, z'), z' the other 2N − 1 embeddings

    SimCLR's denominator (arXiv 2002.05709, eq. 1): J minus it is −NT-Xent + log(2N − 1), the other view included.
    Relations: with the scores within a view removed it is the symmetric InfoNCE.
    """
    return p.log_means_of_both(positives=True).mean()


@marginal_term
def decoupled(p: Pairs) -> Tensor:
    """M = mean over the 2N embeddings z of log mean_{z'} exp T(z, z'), z' the 2N − 2 embeddings of other images

    Decoupled contrastive learning (arXiv 2110.06848, eq. 6). Relations: `nt_xent` without the positive; `row_wise`
    with the embeddings of both views as negatives.
    """
    return p.log_means_of_both(positives=False).mean()


@marginal_term
def queue(p: Pairs) -> Tensor:
    """M = mean_i log mean_t exp T(a_i, t), t the target b_i or one of the K negatives of the queue

    MoCo (arXiv 1911.05722, eq. 1): J minus it is −InfoNCE + log(1 + K). The queue's embeddings come from earlier
    targets, so it is a surrogate: they are no draws of the present p(b).
    """
    return pooled_log_mean((p.positive_scores, 1), (p.log_means_over_negatives, len(p.negatives))).mean()


@marginal_term
def uniformity(p: Pairs) -> Tensor:
    """M = ½ Σ_z log mean_{i≠j} exp T(z_i, z_j), z = a and b

    Wang and Isola (arXiv 2005.10242, eq. 5). Relations: `exact` with the pairs of one view: the same in the
    population if the critic is symmetric and the views are alike.
    """
    return (log_mean_exp(p.log_means_of(p.a, p.a)) + log_mean_exp(p.log_means_of(p.b, p.b))) / 2


@marginal_term
def prototype_partition(p: Pairs) -> Tensor:
    """M = mean_i log Σ_k exp(a_ik/τ)

    The normaliser of the softmax over prototypes: J minus it is E_b[log softmax(a/τ)], minus the cross-entropy of the
    target's assignment b (SwAV arXiv 2006.09882 eq. 2, DINO arXiv 2104.14294 eq. 2). Relations: with
    T = log softmax_k(a/τ)/π_k the partition function is 1 and DV is this plus the entropy of the assignments, which
    these methods keep up by other means (Sinkhorn, centring) and leave out of the loss.
    """
    return torch.logsumexp(p.both[0], 1).mean()


# The cumulant ladder: log E e^T = κ₁ + κ₂/2! + κ₃/3! + …, of T under p(a)p(b)


@marginal_term
def zeroth_order(p: Pairs) -> Tensor:
    """M = 0

    The lowest rung: alignment only, and total collapse.
    """
    return p.a.new_zeros(())


@marginal_term
def first_order(p: Pairs) -> Tensor:
    """M = mean_{i≠j} T(a_i, b_j)

    Keeps the means of the embeddings apart (a centring), and nothing else: collapse to few dimensions.
    """
    return p.mean_negative_score


@marginal_term
def second_order(p: Pairs) -> Tensor:
    """M = mean_{i≠j} T(a_i, b_j) + ½ var_{i≠j} T(a_i, b_j)

    The exact term's cumulant expansion, cut after order 2 (arXiv 2510.01345, §3.4). Relations: tends to `exact` as the
    temperature grows. A surrogate: J minus it may exceed the mutual information.
    """
    return p.mean_negative_score + p.negative_score_variance / 2


@marginal_term
def third_order(p: Pairs) -> Tensor:
    """M = mean_{i≠j} T + ½ var_{i≠j} T + ⅙ mean_{i≠j} (T − mean)³

    Order 3, the skewness: what embeddings in clusters have. Unbounded below in T: for training, keep the temperature
    high. A surrogate.
    """
    return p.mean_negative_score + p.negative_score_variance / 2 + p.third_central_moment / 6


@marginal_term
def gaussian(p: Pairs) -> Tensor:
    """M = −½ log det(I − Σ_AΣ_B) + μ_Aᵀμ_B + ½ μ_AᵀΣ_Bμ_A + ½ vᵀ(I − Σ_AΣ_B)⁻¹Σ_A v, v = μ_B + Σ_Bμ_A

    The exact term if the critic's factors (the temperature in them) are Gaussian, to all orders: −½ log det is
    ½ Σ_k tr[(Σ_AΣ_B)^k]/k. Infinite where Σ_AΣ_B has an eigenvalue of 1 or more. A surrogate for any other law.
    """
    left, right = on_the_smaller_side(*p.both)
    mean_a, mean_b = left.mean(0), right.mean(0)
    cov_a, cov_b = ((z - z.mean(0)).T @ (z - z.mean(0)) / len(z) for z in (left, right))
    rest = torch.eye(len(cov_a), dtype=cov_a.dtype, device=cov_a.device) - cov_a @ cov_b
    v = mean_b + cov_b @ mean_a
    means = mean_a @ mean_b + mean_a @ cov_b @ mean_a / 2 + v @ torch.linalg.solve(rest, cov_a @ v) / 2
    outside = torch.linalg.eigvals(rest.detach()).real.min() <= 0
    return means - torch.linalg.slogdet(rest).logabsdet / 2 + torch.where(outside, torch.inf, 0.0)


@marginal_term
def squared_score(p: Pairs) -> Tensor:
    """M = mean_{i≠j} T(a_i, b_j)²

    Spectral contrastive learning (arXiv 2106.04156, eq. 6): 2 J minus it is at most χ²(joint ‖ product) + 1, reached
    by T = the density ratio. Relations: twice the uncentred `second_order`; a surrogate, χ² may exceed MI by far.
    """
    left, right = p.both
    n = len(left)
    return (squared_norm(left.T, right.T) - p.positive_scores.square().sum()) / (n * (n - 1))
