"""The table's columns as the fields of two strict configurations: `config.json` on the Hub is the row.

SDMI has columns that JMI lacks (predictor, target), so combinations that mean nothing cannot be written down.
There is no `from __future__ import annotations` here: it would switch the type checks of `@strict` off.
"""

import inspect
from typing import Literal

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig

from . import encoders
from .errors import UserError, refuse_unknown
from .mi import CRITICS, JOINT_TERMS, MARGINAL_TERMS

# What transformers itself writes into or passes to a configuration beside its fields.
_FOREIGN_KEYS = {
    "_attn_implementation_internal",
    "_commit_hash",
    "_experts_implementation_internal",
    "_name_or_path",
    "attn_implementation",
    "auto_map",
    "experts_implementation",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "torch_dtype",
}
_ROWS = ("num_prototypes", "queue_size", "predictor_hidden_size")  # of projection_size numbers each


@strict
class MISSLConfig(PreTrainedConfig):
    """The columns that both paradigms have.

    Args:
        encoder_config (`dict` or `PreTrainedConfig`, *optional*, defaults to `resnet_tiny`): the encoder f_θ.
        method (`str`, *optional*): the row this configuration started from; a record, nothing reads it.
        critic (`str`, *optional*, defaults to `"cosine"`): T(a, b), a name in `hf_mi_ssl.mi.CRITICS`.
        temperature (`float`, *optional*, defaults to 0.2): τ > 0; scores are divided by it.
        joint (`dict[str, float]`): weight of each joint term.
        marginal (`dict[str, float]`): weight of each marginal term; empty where a predictor stands in for M.
        projector_hidden_size (`int`, *optional*, defaults to 512): width of the projector's hidden layers.
        projector_num_layers (`int`, *optional*, defaults to 2): linear layers of the projector.
        projector_hidden_norm (`bool`, *optional*, defaults to `True`): batch norm in its hidden layers.
        projector_activation (`str`, *optional*, defaults to `"relu"`): after its hidden layers, `relu` or `gelu`.
        projector_output_norm (`bool`, *optional*, defaults to `False`): batch norm after its last layer.
        projection_size (`int`, *optional*, defaults to 128): D, the size of the embedding z.
        batch_norm_group_size (`int`, *optional*): split every batch norm into groups of so many images, the same on
            any number of processes; by default its statistics are those of the global batch.
        one_forward (`bool`, *optional*, defaults to `False`): pass both views (and all local ones) through a branch in
            one batch. Its batch norms then have the statistics of both views together, where by default each view has
            its own; without batch norm nothing but the speed changes.
    """

    encoder_config: dict | PreTrainedConfig | None = None
    method: str | None = None
    critic: str = "cosine"
    temperature: int | float = 0.2
    joint: dict[str, int | float] | None = None
    marginal: dict[str, int | float] | None = None
    projector_hidden_size: int = 512
    projector_num_layers: int = 2
    projector_hidden_norm: bool = True
    projector_activation: Literal["relu", "gelu"] = "relu"
    projector_output_norm: bool = False
    projection_size: int = 128
    batch_norm_group_size: int | None = None
    one_forward: bool = False

    sub_configs = {"encoder_config": AutoConfig}

    def __post_init__(self, **kwargs):
        ours = [name for name in kwargs if name not in _FOREIGN_KEYS]
        refuse_unknown(f"column of {type(self).__name__}", ours, self.columns())
        if self.encoder_config is None:
            self.encoder_config = encoders.encoder_config("resnet_tiny", image_size=64)
        elif isinstance(self.encoder_config, dict):
            encoders.refuse_fetching(settings := dict(self.encoder_config))
            self.encoder_config = AutoConfig.for_model(settings.pop("model_type", None), **settings)
        self.joint = {"expected_score": 1.0} if self.joint is None else self.joint
        self.marginal = {} if self.marginal is None else self.marginal
        super().__post_init__(**kwargs)

    @classmethod
    def columns(cls) -> list[str]:
        """The names of the columns of this paradigm."""
        inherited = PreTrainedConfig.__dataclass_fields__
        return [name for name in cls.__dataclass_fields__ if name not in inherited and name != "sub_configs"]

    @classmethod
    def from_method(cls, name: str, /, **columns):
        """The row of that name, with some columns overridden.

        Raises:
            UserError: for an unknown method or column, a method of the other paradigm, or a value that cannot be.
        """
        from .methods import METHODS, get_method  # here, so that `python -m hf_mi_ssl.methods` runs a fresh module

        row = get_method(name)
        if row.paradigm != cls.model_type:
            recipe = f"recipes/pretrain_{row.paradigm}.py"
            peers = ", ".join(other.name for other in METHODS.values() if other.paradigm == cls.model_type)
            raise UserError(
                f"{name!r} is a method of {row.paradigm.upper()}: use {recipe}, "
                f"or one of {cls.model_type.upper()}: {peers}"
            )
        refuse_unknown(f"column of {cls.__name__}", columns, cls.columns())
        try:
            return cls(method=name, **(row.columns | columns))
        except StrictDataclassError as error:  # wraps what a check raised; its own text is many lines
            raise UserError(f"{name}: {error.__cause__ or error}") from error

    @property
    def formulas(self) -> dict[str, str]:
        """The formula of the critic and of each term, by name: the first line of its docstring."""
        terms = {self.critic: CRITICS[self.critic]} | {name: JOINT_TERMS[name] for name in self.joint}
        terms |= {name: MARGINAL_TERMS[name] for name in self.marginal}
        return {name: inspect.getdoc(term).splitlines()[0] for name, term in terms.items()}

    @property
    def kind(self) -> str:
        """`bound` if J − M of these columns is known to be a lower bound on mutual information, else `surrogate`: a
        critic and a temperature of one's own keep a row's bound a bound; other terms, weights or a predictor need not.
        """
        from .methods import METHODS

        row = METHODS.get(self.method)
        predictor = getattr(self, "predictor_hidden_size", None) is not None
        same = row and (self.joint, self.marginal) == (row.columns["joint"], row.columns["marginal"])
        return row.kind if same and predictor == ("predictor_hidden_size" in row.columns) else "surrogate"

    @property
    def facts(self) -> dict:
        """What a card says of the row, for `results.json`: formulas and kind, its paper, and what it relates to."""
        from .methods import get_method

        row = get_method(self.method)
        return {"formulas": self.formulas, "kind": self.kind, "arxiv": row.arxiv, "relations": row.relations}

    def validate_terms(self):
        refuse_unknown("critic", [self.critic], CRITICS)
        refuse_unknown("joint term", self.joint, JOINT_TERMS)
        refuse_unknown("marginal term", self.marginal, MARGINAL_TERMS)
        for name, weight in (*self.joint.items(), *self.marginal.items()):
            if not abs(weight) <= 1e6:  # beyond, terms overflow
                raise UserError(f"the weight of {name} must be a number up to 1e6, got {str(weight)[:20]}")
        if not self.joint:
            raise UserError("a method needs a joint term: without one nothing holds the two views together")

    def validate_sizes(self):
        for column in ("projector_hidden_size", "projector_num_layers", "projection_size"):
            _positive(self, column)
        _positive(self, "batch_norm_group_size", at_least=2)
        _temperature(self, "temperature")
        width, size, layers = self.projector_hidden_size, self.projection_size, self.projector_num_layers
        others = sum(getattr(self, name, None) or 0 for name in _ROWS)
        if layers * width**2 + (width + others) * size > 2**32 or layers > 1000:  # before memory is asked for
            raise UserError(f"{layers} layers of {width}, projection_size {size} and queue are beyond all memory")


@strict
class SDMIConfig(MISSLConfig):
    """The columns of self-distillation: those of `MISSLConfig`, and how the two branches differ.

    Args:
        target (`str`, *optional*, defaults to `"gradient"`): the M-step: `reset`, `ema` or `gradient`.
        target_init (`str`, *optional*, defaults to `"same"`): whether a target with parameters of its own starts as
            the online branch or from an `independent` draw.
        target_momentum (`float`, *optional*, defaults to 0.99): m of ξ ← m ξ + (1 − m) θ at the first step; it goes
            to `target_momentum_end` along a cosine (BYOL, arXiv 2006.07733 §3.3). Used by `ema`.
        target_momentum_end (`float`, *optional*, defaults to 1.0): m at the last step.
        target_assignment (`str`, *optional*, defaults to `"none"`): what takes the place of a target embedding: its
            softmax over prototypes, centred and sharpened (`centering`), its codes (`sinkhorn`), its neighbour in the
            queue (`nearest_neighbor`).
        target_temperature (`float`, *optional*, defaults to 0.05): of `centering` (τ) and `sinkhorn` (ε).
        num_prototypes (`int`, *optional*): K, where embeddings are compared by their cosines with K prototypes.
        queue_size (`int`, *optional*): K target embeddings of earlier batches, as negatives or neighbours.
        target_shuffle (`bool`, *optional*, defaults to `False`): with `batch_norm_group_size`, make the groups of the
            target of other images than the online branch's (shuffling batch norm, arXiv 1911.05722 §3.3).
        m_step_every (`int`, *optional*, defaults to 1): E-steps for each M-step. Used by `gradient`.
        symmetric (`bool`, *optional*, defaults to `False`): average over both orders of the views.
        predictor_hidden_size (`int`, *optional*): width of the predictor; none without it.
        predictor_schedule (`str`, *optional*, defaults to `"cosine"`): the predictor's learning rate follows the
            schedule of all, or stays `constant` (SimSiam, arXiv 2011.10566 §4.2).
    """

    model_type = "sdmi"

    target: Literal["reset", "ema", "gradient"] = "gradient"
    target_init: Literal["same", "independent"] = "same"
    target_momentum: int | float = 0.99
    target_momentum_end: int | float = 1.0
    target_assignment: Literal["none", "centering", "sinkhorn", "nearest_neighbor"] = "none"
    target_temperature: int | float = 0.05
    num_prototypes: int | None = None
    queue_size: int | None = None
    target_shuffle: bool = False
    m_step_every: int = 1
    symmetric: bool = False
    predictor_hidden_size: int | None = None
    predictor_schedule: Literal["cosine", "constant"] = "cosine"

    def validate_target(self):
        for column in ("target_momentum", "target_momentum_end"):
            if not 0 <= getattr(self, column) <= 1:
                raise UserError(f"{column} must lie between 0 and 1, got {getattr(self, column)}")
        _temperature(self, "target_temperature")
        for column in ("m_step_every", "predictor_hidden_size", "queue_size", "num_prototypes"):
            _positive(self, column)

    def validate_assignment(self):
        if (self.target_assignment in ("centering", "sinkhorn")) != (self.num_prototypes is not None):
            raise UserError("num_prototypes goes with target_assignment=centering or sinkhorn: set both or neither")
        if self.queue_size is None and (self.target_assignment == "nearest_neighbor" or "queue" in self.marginal):
            raise UserError("this row needs a queue: set queue_size, the number of embeddings it holds")
        if self.target == "gradient" and self.target_assignment != "none":
            raise UserError(f"target_assignment={self.target_assignment} has no gradient: set target=ema or reset")
        if self.target_shuffle and (self.target != "ema" or self.batch_norm_group_size is None):
            raise UserError("target_shuffle is for target=ema with a batch_norm_group_size: set them, or leave it out")


@strict
class JMIConfig(MISSLConfig):
    """The columns of joint maximisation: those of `MISSLConfig` and no more. Symmetry is the absence of columns."""

    model_type = "jmi"

    def validate_negatives(self):
        if "queue" in self.marginal:
            raise UserError("the marginal term 'queue' needs a queue, which JMI does not have: see moco_v2")


def _positive(config, column: str, at_least: float = 0) -> None:
    value = getattr(config, column)
    if value is not None and not (value > 0 and value >= at_least):
        raise UserError(f"{column} must be {f'at least {at_least}' if at_least else 'above 0'}, got {value}")


def _temperature(config, column: str) -> None:
    if not 1e-6 <= getattr(config, column) <= 1e6:  # beyond, scores are all alike or overflow
        raise UserError(f"{column} must be above 0, from 1e-6 to 1e6, got {getattr(config, column)}")
