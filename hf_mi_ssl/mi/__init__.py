"""The mathematics of L = J − M: pure functions of torch tensors, in float32 or wider, on one process, in nats."""

from . import moments  # registers its terms
from .critics import CRITICS, critic
from .joint import JOINT_TERMS, joint_term
from .marginal import MARGINAL_TERMS, marginal_term
from .objective import Bound, MIObjective
from .pairs import Critic, Pairs

__all__ = [
    "CRITICS",
    "JOINT_TERMS",
    "MARGINAL_TERMS",
    "Bound",
    "Critic",
    "MIObjective",
    "Pairs",
    "critic",
    "joint_term",
    "marginal_term",
    "moments",
]
