"""SDMI, self-distillation: two branches, a stop-gradient, the target moved in an M-step.

E-step: θ ascends L(f_θ, sg g_ξ). M-step: ξ is reset to θ, follows it, or ascends L(sg f_θ, g_ξ) in turn.
"""

import contextlib

import torch
from torch import Tensor

from .configuration import SDMIConfig
from .distributed import gather
from .encoders import build_encoder
from .modeling_base import (
    EncoderModel,
    MIPreTrainingOutput,
    MISSLForPreTraining,
    build_projector,
    mean_bound,
    pretraining_output,
)
from .nn.heads import Predictor
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
        width = config.predictor_hidden_size
        self.predictor = None if width is None else Predictor(config.projection_size, width)
        if config.target == "reset":
            self.target = ResetTarget()
        else:
            self.target = TARGETS[config.target](build_encoder(config.encoder_config), build_projector(config))
        self.phases = self.target.phases
        self._target_has_begun = False
        self.post_init()

    def forward(self, view_a: Tensor, view_b: Tensor, phase: str = "E") -> MIPreTrainingOutput:
        """Two views of the same n images, (n, 3, H, W) each, row i with row i.

        In phase "E" only the online branch and the predictor receive gradients, in phase "M" only the target.
        """
        both = self.config.symmetric
        with _held_fixed(phase == "M"):
            z_a = self.embed(view_a)
            z_b = self.embed(view_b) if both or not self.target.has_own_encoder else None
            p_a = self._predict(z_a)
            p_b = self._predict(z_b) if both else None
        with _held_fixed(phase == "E"):
            t_b = self.target(view_b, z_b)
            t_a = self.target(view_a, z_a) if both else None

        orders = [(p_a, t_b), (p_b, t_a)] if both else [(p_a, t_b)]
        if phase == "E":
            orders = [(p, t.detach()) for p, t in orders]  # the stop-gradient on g_ξ
        else:
            orders = [(p.detach(), t) for p, t in orders]  # the stop-gradient on f_θ
        bound = mean_bound([self.objective(gather(p), gather(t)) for p, t in orders])
        return pretraining_output(bound, z_a, t_b)

    def phases_at(self, step: int) -> tuple[str, ...]:
        """The phases of training step 0, 1, …: the M-step comes every `m_step_every` steps."""
        return self.phases if (step + 1) % self.config.m_step_every == 0 else ("E",)

    @property
    def branches(self) -> dict:
        """The online branch, and the target where it has parameters of its own."""
        own = {"target": (self.target.encoder, self.target.projector)} if self.target.has_own_encoder else {}
        return super().branches | own

    def update_target(self, momentum: float | None = None) -> None:
        """The M-step of targets that follow the online branch; `momentum` defaults to the column's value."""
        momentum = self.config.target_momentum if momentum is None else momentum
        self.target.follow((self.encoder, self.projector), momentum)

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
            self.target.copy_from((self.encoder, self.projector))
            if missing_keys is not None:
                missing_keys.difference_update(own)
        self.target.requires_grad_(self.config.target == "gradient")
        self._target_has_begun = True

    def _predict(self, z: Tensor) -> Tensor:
        return z if self.predictor is None else self.predictor(z)


def _held_fixed(fixed: bool) -> contextlib.AbstractContextManager:
    """No graph for the branch that does not move: this saves memory, the stop-gradient itself is in `forward`."""
    return torch.no_grad() if fixed else contextlib.nullcontext()
