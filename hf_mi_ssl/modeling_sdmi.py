"""SDMI, self-distillation: two branches, a stop-gradient, the target moved in an M-step.

E-step: θ ascends L(f_θ, sg g_ξ). M-step: ξ is reset to θ, follows it, or ascends L(sg f_θ, g_ξ) in turn.
"""

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForPreTraining

from .configuration import SDMIConfig
from .distributed import each_group_back, each_group_from_all
from .encoders import build_encoder
from .modeling_base import (
    Embeddings,
    EncoderModel,
    MIPreTrainingOutput,
    MISSLForPreTraining,
    Sides,
    build_projector,
    gather_all,
    mean_bound,
    named_views,
    pretraining_output,
)
from .nn.assignment import build_assignment
from .nn.heads import Predictor, Prototypes
from .nn.queue import Queue
from .nn.target import TARGETS, ResetTarget


class SDMIModel(EncoderModel):
    """The online encoder f_θ of an SDMI model (`AutoModel`)."""

    config: SDMIConfig


class SDMIForPreTraining(MISSLForPreTraining):
    """Online branch, predictor if the row has one, and target, trained on −L = −(J − M).

    Example:
        >>> model = SDMIForPreTraining(SDMIConfig.from_method("sdmi"))
        >>> for phase in model.phases:                       # θ, then ξ, each with an optimiser step
        ...     model(view_a, view_b, phase=phase).loss.backward()
        >>> model.update_target(momentum=0.99)               # the M-step of `reset` and `ema`
    """

    config: SDMIConfig

    def __init__(self, config: SDMIConfig):
        super().__init__(config)
        size, width, count = config.projection_size, config.predictor_hidden_size, config.num_prototypes
        self.predictor = None if width is None else Predictor(size, width)
        self.prototypes = None if count is None else Prototypes(size, count)
        self.queue = None if config.queue_size is None else Queue(config.queue_size, size)
        self.assignment = build_assignment(config.target_assignment, config.target_temperature, count, self.queue)
        if config.target == "reset":
            self.target = ResetTarget()
        else:
            prototypes = None if count is None else Prototypes(size, count)
            self.target = TARGETS[config.target](
                build_encoder(config.encoder_config), build_projector(config), prototypes
            )
        self.phases = self.target.phases
        self._target_has_begun = False
        self.post_init()

    def sides(self, view_a: Tensor, view_b: Tensor, local_views: Sequence[Tensor] = (), phase: str = "E") -> Sides:
        # In phase "E" only the online branch and its heads receive gradients, in phase "M" only the target.
        views = named_views(view_a, view_b, local_views)
        targets = ("a", "b") if self.config.symmetric else ("b",)
        predicted = [name for name in views if name != "b" or self.config.symmetric]
        embedded = views if not self.target.has_own_encoder else predicted
        with _held_fixed(phase == "M"):
            z = self.each(self.embed, {name: views[name] for name in embedded})
            left = self.each(self._predict, {name: z[name] for name in predicted})
        with _held_fixed(phase == "E"):
            seen = views if self.target.has_own_encoder else z
            right = self.each(self._target, {name: seen[name] for name in targets})
        return left, right

    def compare(self, left: Embeddings, right: Embeddings, phase: str = "E") -> MIPreTrainingOutput:
        if phase == "E":
            right = {name: t.detach() for name, t in right.items()}  # the stop-gradient on g_ξ
        else:
            left = {name: p.detach() for name, p in left.items()}  # the stop-gradient on f_θ
        p, t = gather_all(left), gather_all(right)
        assigned = {name: self.assignment(target) for name, target in t.items()}
        negatives = None if self.queue is None else self.queue.embeddings.clone()  # backward needs them as they are
        bound = mean_bound(self.objective, p, assigned, negatives=negatives, draw=self.draws)
        if self.training:
            self.draws += 1
            self.assignment.observe(*t.values())
            if self.queue is not None:
                self.queue.push(t["b"])
        return pretraining_output(bound, left["a"], right["b"])

    def phases_at(self, step: int) -> tuple[str, ...]:
        """The phases of training step 0, 1, …: the M-step comes every `m_step_every` steps."""
        return self.phases if (step + 1) % self.config.m_step_every == 0 else ("E",)

    @property
    def online(self) -> tuple[nn.Module, ...]:
        """The modules that a target of its own has too: encoder, projector and, where there are, prototypes."""
        return (self.encoder, self.projector, *([] if self.prototypes is None else [self.prototypes]))

    @property
    def branches(self) -> dict:
        """The online branch, and the target where it has parameters of its own."""
        own = {"target": (self.target.encoder, self.target.projector)} if self.target.has_own_encoder else {}
        return super().branches | own

    def update_target(self, momentum: float | None = None) -> None:
        """The M-step of targets that follow the online branch; `momentum` defaults to the column's value."""
        momentum = self.config.target_momentum if momentum is None else momentum
        self.target.follow(self.online, momentum)

    @torch.no_grad()
    def tie_weights(self, missing_keys: set[str] | None = None, recompute_mapping: bool = True) -> None:
        # transformers calls this when a model has been built and when a checkpoint has been loaded (`missing_keys`),
        # which is when a target of its own begins, and when `requires_grad` must be set again: loading loses it.
        super().tie_weights(missing_keys=missing_keys, recompute_mapping=recompute_mapping)
        if isinstance(self.target, ResetTarget) or self.device.type == "meta":
            return
        own = {f"target.{name}" for name in self.target.state_dict()}
        absent = not self._target_has_begun if missing_keys is None else own <= missing_keys
        if absent and self.config.target_init == "same":
            self.target.copy_from(self.online)
            if missing_keys is not None:
                missing_keys.difference_update(own)
        self.target.requires_grad_(self.config.target == "gradient")
        self._target_has_begun = True

    def _predict(self, z: Tensor) -> Tensor:
        return self._on_prototypes(z if self.predictor is None else self.predictor(z))

    def _on_prototypes(self, z: Tensor) -> Tensor:
        return z if self.prototypes is None else self.prototypes(z)

    def _target(self, view: Tensor) -> Tensor:
        """Of a view, or of its online embedding where the target is the online branch."""
        if not self.target.has_own_encoder:
            return self._on_prototypes(self.target(view))
        if not (self.config.target_shuffle and self.training):
            return self.target(view)
        # Batch statistics that a positive pair shares would tell it apart from the negatives.
        group = self.config.batch_norm_group_size
        return each_group_back(self.target(each_group_from_all(view, group)), group)


def _held_fixed(fixed: bool) -> contextlib.AbstractContextManager:
    """No graph for the branch that does not move: this saves memory, the stop-gradient itself is in `compare`."""
    return torch.no_grad() if fixed else contextlib.nullcontext()


AutoModel.register(SDMIConfig, SDMIModel, exist_ok=True)
AutoModelForPreTraining.register(SDMIConfig, SDMIForPreTraining, exist_ok=True)
