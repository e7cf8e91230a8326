"""The marginal terms: M of L = J − M, exact or a surrogate of log E_p(a)p(b)[e^T]. What keeps embeddings apart.

A term maps `Pairs` to a scalar; the first line of its docstring is its formula, which cards and tables print. Pairs
with i ≠ j are the samples of p(a)p(b). Without any marginal term the best embedding is a constant: collapse.
"""

import torch
from torch import Tensor

from .joint import Term
from .pairs import Pairs, log_mean_exp

MARGINAL_TERMS: dict[str, Term] = {}


def marginal_term(term: Term) -> Term:
    """Register a marginal term under its own name. Its docstring must begin with the formula, "M = …"."""
    if not (term.__doc__ or "").startswith("M = "):
        raise ValueError(f"the docstring of marginal term {term.__name__!r} must begin with its formula: 'M = …'")
    MARGINAL_TERMS[term.__name__] = term
    return term


@marginal_term
def exact(p: Pairs) -> Tensor:
    """M = log mean_{i≠j} exp T(a_i, b_j)

    The marginal term of the Donsker–Varadhan bound (arXiv 2510.01345, eq. 15). The log of a batch mean is biased down
    by about half the relative variance of the mean, so the bound is biased up; for cosine/τ this is below 1e-4 nats.
    """
    return log_mean_exp(p.negative_scores)


@marginal_term
def second_order(p: Pairs) -> Tensor:
    """M = mean_{i≠j} T(a_i, b_j) + ½ var_{i≠j} T(a_i, b_j)

    The exact term's cumulant expansion, cut after order 2 (arXiv 2510.01345, §3.4). Relations: tends to `exact` as the
    temperature grows. A surrogate: J minus it may exceed the mutual information.
    """
    s = p.negative_scores
    return s.mean() + s.var(correction=0) / 2


@marginal_term
def nt_xent(p: Pairs) -> Tensor:
    """M = mean over the 2N embeddings z of log mean_{z'} exp T(z, z'), z' the other 2N − 1 embeddings

    SimCLR's denominator (arXiv 2002.05709, eq. 1): J minus it is −NT-Xent + log(2N − 1), the other view included.
    Relations: with the scores within a view removed it is the symmetric InfoNCE.
    """
    within_a, within_b = p.within_view_scores
    per_a = log_mean_exp(torch.cat([p.scores, within_a], dim=1), dim=1)  # (N, 2N − 1) -> (N,)
    per_b = log_mean_exp(torch.cat([p.scores.T, within_b], dim=1), dim=1)
    return (per_a.mean() + per_b.mean()) / 2
