"""What both paradigms share: the encoder as a model of its own, the encoder→projector branch, the output."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput

from .configuration import MISSLConfig
from .distributed import gather, split_batch_norm
from .encoders import build_encoder, representation_size
from .errors import UserError, first_line
from .mi import Bound, MIObjective
from .nn.heads import Projector


@dataclass
class MIPreTrainingOutput(ModelOutput):
    """What a pre-training forward returns.

    Args:
        loss (`Tensor`, scalar): −L = −(ΣJ − ΣM), of the global batch.
        joint (`dict[str, Tensor]`): each weighted joint term, scalars (nats for score-based terms).
        marginal (`dict[str, Tensor]`): each weighted marginal term.
        value (`Tensor`, scalar): L = ΣJ − ΣM. A lower bound on MI only where the row says so.
        embeddings_a, embeddings_b (`Tensor`, (n, D)): the local embeddings of the views that the terms compared.
    """

    loss: Tensor | None = None
    joint: dict[str, Tensor] | None = None
    marginal: dict[str, Tensor] | None = None
    value: Tensor | None = None
    embeddings_a: Tensor | None = None
    embeddings_b: Tensor | None = None


Embeddings = dict[str, Tensor]  # (n, D) by the name of the view: "a", "b", "local_0", …
Sides = tuple[Embeddings, Embeddings]


class MISSLPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation. The attribute `encoder` is the stock encoder f_θ in every model here."""

    config: MISSLConfig
    base_model_prefix = "encoder"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # Only heads get here: a nested encoder is initialised by its own library. Linear layers as torch does.
        if isinstance(module, nn.Linear):
            init.kaiming_uniform_(module.weight, a=5**0.5)
            if module.bias is not None:
                bound = module.in_features**-0.5
                init.uniform_(module.bias, -bound, bound)
        else:
            super()._init_weights(module)


class EncoderModel(MISSLPreTrainedModel):
    """The encoder alone: what `AutoModel` returns for a full checkpoint. Heads and target are left behind."""

    _keys_to_ignore_on_load_unexpected = [r"^(projector|predictor|target|prototypes|assignment|queue)\.", r"^draws$"]

    def __init__(self, config: MISSLConfig):
        super().__init__(config)
        self.encoder = build_encoder(config.encoder_config)
        self.post_init()

    def forward(self, pixel_values: Tensor, **kwargs) -> BaseModelOutputWithPooling:
        """(n, 3, H, W) -> `pooler_output`: the representation h, (n, H)."""
        outputs = self.encoder(pixel_values, **kwargs)
        return BaseModelOutputWithPooling(
            last_hidden_state=outputs.last_hidden_state, pooler_output=outputs.pooler_output.flatten(1)
        )


class MISSLForPreTraining(MISSLPreTrainedModel):
    """Encoder, projector and objective: what a method of either paradigm trains.

    `phases` names the steps that a training step is made of: "E" ascends in θ, "M" (two-encoder SDMI) in ξ.
    """

    phases: tuple[str, ...] = ("E",)

    def __init__(self, config: MISSLConfig):
        super().__init__(config)
        self.encoder = build_encoder(config.encoder_config)
        self.projector = build_projector(config)
        self.objective = MIObjective(config.critic, config.temperature, config.joint, config.marginal)
        self.register_buffer("draws", torch.zeros((), dtype=torch.int64))  # counts batches, for random terms

    def post_init(self) -> None:
        if self.config.batch_norm_group_size is not None:
            split_batch_norm(self, self.config.batch_norm_group_size)
        super().post_init()

    def sides(self, view_a: Tensor, view_b: Tensor, local_views: Sequence[Tensor] = (), phase: str = "E") -> Sides:
        """The embeddings to be compared, by the names of their views: what stands left in T(a, b), and right.

        Every one on the left is compared with every one on the right that is not of the same view.
        """
        raise NotImplementedError  # each paradigm has its own

    def compare(self, left: Embeddings, right: Embeddings, phase: str = "E") -> MIPreTrainingOutput:
        """−L of the sides of all processes, and what it is made of."""
        raise NotImplementedError  # each paradigm has its own

    def forward(
        self,
        view_a: Tensor,
        view_b: Tensor,
        local_views: Sequence[Tensor] = (),
        phase: str = "E",
        pull: Sides | None = None,
    ) -> MIPreTrainingOutput:
        """Two views of the same n images, (n, 3, H, W) each, row i with row i, and any number of smaller local views.

        In phase "E" θ ascends; phase "M", in which ξ does, is for two-encoder SDMI. With `pull`, gradients of the loss
        with respect to the sides, the loss is such that backward carries them on: the second pass of cached gradients.
        """
        sides = self.sides(view_a, view_b, local_views, phase)
        if pull is None:
            return self.compare(*sides, phase)
        pulled = [(z * side[name]).sum() for of, side in zip(sides, pull) for name, z in of.items() if name in side]
        return MIPreTrainingOutput(loss=sum(pulled))

    @property
    def branches(self) -> dict[str, tuple[PreTrainedModel, nn.Module]]:
        """(encoder, projector) of each branch with parameters of its own, by name."""
        return {"online": (self.encoder, self.projector)}

    def start_from(self, encoder: PreTrainedModel) -> None:
        """Give every encoder in the model the weights of `encoder`, of the same configuration."""
        for own, _ in self.branches.values():
            own.load_state_dict(encoder.state_dict())

    def check_images(self, image_size: int, local_size: int | None = None, batch_size: int | None = None) -> None:
        """Make sure that the encoders take views of those sizes, and batch norm batches of that many images. Freeze
        the parameters that no image reaches (the mask token of a ViT, say): distributed training waits for the
        gradient of everything that is not frozen.

        Raises:
            UserError: if they do not.
        """
        group = self.config.batch_norm_group_size
        if group is not None and batch_size is not None and batch_size % group:
            raise UserError(
                f"batch_norm_group_size={group} does not divide --per_device_train_batch_size {batch_size}: "
                f"change one of them (--set batch_norm_group_size=…)"
            )
        for encoder, _ in self.branches.values():
            encoder.eval()  # leaves the statistics of batch norm alone
            for size in (image_size, local_size):
                if size is not None:
                    reached = _representation_of_nothing(encoder, size)
            if reached.requires_grad:
                reached.sum().backward()
                for parameter in encoder.parameters():
                    parameter.requires_grad_(parameter.grad is not None)
                encoder.zero_grad()
            encoder.train()

    def embed(self, view: Tensor) -> Tensor:
        """view (n, 3, H, W) -> embedding z (n, D)."""
        return self.projector(self.encoder(view).pooler_output.flatten(1))

    def each(self, function: Callable[[Tensor], Tensor], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """`function` of each input, (n, …) -> (n, …); with `one_forward` in one batch for those of one shape."""
        if not self.config.one_forward:
            return {name: function(x) for name, x in inputs.items()}
        outputs = {}
        for shape in dict.fromkeys(x.shape for x in inputs.values()):
            names = [name for name, x in inputs.items() if x.shape == shape]
            together = function(torch.cat([inputs[name] for name in names]))
            outputs |= zip(names, together.chunk(len(names)))
        return {name: outputs[name] for name in inputs}


def _representation_of_nothing(encoder: PreTrainedModel, size: int) -> Tensor:
    try:
        return encoder(torch.zeros(1, 3, size, size, device=encoder.device)).pooler_output
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        raise UserError(f"the encoder does not take images of {size} pixels: {first_line(error)}") from error


def build_projector(config: MISSLConfig) -> Projector:
    """The projector of the configuration's columns, sized to its encoder."""
    return Projector(
        representation_size(config.encoder_config),
        config.projector_hidden_size,
        config.projection_size,
        config.projector_num_layers,
        config.projector_output_norm,
        config.projector_hidden_norm,
        config.projector_activation,
    )


def gather_all(side: Embeddings) -> Embeddings:
    """The rows of all processes."""
    return {name: gather(z) for name, z in side.items()}


def mean_bound(objective: MIObjective, left: Embeddings, right: Embeddings, **more) -> Bound:
    """The mean over all pairs of different views, term by term."""
    bounds = [objective(a, b, **more) for i, a in left.items() for j, b in right.items() if i != j]
    return Bound(
        joint={name: sum(bound.joint[name] for bound in bounds) / len(bounds) for name in bounds[0].joint},
        marginal={name: sum(bound.marginal[name] for bound in bounds) / len(bounds) for name in bounds[0].marginal},
    )


def named_views(view_a: Tensor, view_b: Tensor, local_views: Sequence[Tensor]) -> dict[str, Tensor]:
    """The views by name."""
    return {"a": view_a, "b": view_b} | {f"local_{i}": view for i, view in enumerate(local_views)}


def pretraining_output(bound: Bound, embeddings_a: Tensor, embeddings_b: Tensor) -> MIPreTrainingOutput:
    """The output of a forward pass: the loss is the negative of the bound."""
    value = bound.value
    return MIPreTrainingOutput(
        loss=-value,
        joint={name: term.detach() for name, term in bound.joint.items()},
        marginal={name: term.detach() for name, term in bound.marginal.items()},
        value=value.detach(),
        embeddings_a=embeddings_a.detach(),
        embeddings_b=embeddings_b.detach(),
    )
