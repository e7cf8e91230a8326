"""The joint terms: J of L = J − M. What is true of pairs that belong together.

A term maps `Pairs` to a scalar; the first line of its docstring is its formula, which cards and tables print.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from .pairs import Pairs, register

Term = Callable[[Pairs], Tensor]
JOINT_TERMS: dict[str, Term] = {}


def joint_term(term: Term) -> Term:
    """Register a joint term under its own name. Its docstring must begin with the formula, "J = …"."""
    return register(JOINT_TERMS, term, "J = ")


@joint_term
def expected_score(p: Pairs) -> Tensor:
    """J = mean_i T(a_i, b_i)"""
    return p.positive_scores.mean()


@joint_term
def negative_mse(p: Pairs) -> Tensor:
    """J = −mean_{i,k} (a_ik − b_ik)²

    VICReg's invariance (arXiv 2105.04906, eq. 5; the mean over k is the official code's). Relations: 2/D times
    `expected_score` of the critic −½ ‖a − b‖² at τ = 1.
    """
    return -(p.a - p.b).square().mean()


@joint_term
def negative_mse_on_sphere(p: Pairs) -> Tensor:
    """J = −mean_{i,k} (a_ik/‖a_i‖ − b_ik/‖b_i‖)²

    CorInfoMax (arXiv 2209.07999, official code). Relations: 2/D times `expected_score` of `normalized_l2`.
    """
    return -(F.normalize(p.a, dim=1) - F.normalize(p.b, dim=1)).square().mean()


@joint_term
def invariance(p: Pairs) -> Tensor:
    """J = −Σ_k (1 − C_kk)², C the correlation of the two views

    The first term of Barlow Twins (arXiv 2103.03230, eq. 1). Relations: with `redundancy` it is, where C is symmetric,
    twice the second-order expansion of −log E_p(a,b)[e^−T], T = aᵀb, without the correlations within a view: the
    measure is the joint, so no marginal of DV is in it.
    """
    a, b = p.standardized
    return -(1 - (a * b).mean(0)).square().sum()
