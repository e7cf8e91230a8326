"""The joint terms: J of L = J − M. What is true of pairs that belong together.

A term maps `Pairs` to a scalar; the first line of its docstring is its formula, which cards and tables print.
"""

from collections.abc import Callable

from torch import Tensor

from .pairs import Pairs

Term = Callable[[Pairs], Tensor]
JOINT_TERMS: dict[str, Term] = {}


def joint_term(term: Term) -> Term:
    """Register a joint term under its own name. Its docstring must begin with the formula, "J = …"."""
    if not (term.__doc__ or "").startswith("J = "):
        raise ValueError(f"the docstring of joint term {term.__name__!r} must begin with its formula: 'J = …'")
    JOINT_TERMS[term.__name__] = term
    return term


@joint_term
def expected_score(p: Pairs) -> Tensor:
    """J = mean_i T(a_i, b_i)"""
    return p.positive_scores.mean()
