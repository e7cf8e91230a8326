"""JMI, joint maximisation: one shared branch, every view with gradient, an explicit marginal term."""

from collections.abc import Sequence

from torch import Tensor
from transformers import AutoModel, AutoModelForPreTraining

from .configuration import JMIConfig
from .modeling_base import (
    Embeddings,
    EncoderModel,
    MIPreTrainingOutput,
    MISSLForPreTraining,
    Sides,
    gather_all,
    mean_bound,
    named_views,
    pretraining_output,
)


class JMIModel(EncoderModel):
    """The encoder of a JMI model (`AutoModel`)."""

    config: JMIConfig


class JMIForPreTraining(MISSLForPreTraining):
    """Encoder and projector, trained on −L = −(J − M) of the two views' embeddings.

    Example:
        >>> model = JMIForPreTraining(JMIConfig.from_method("simclr"))
        >>> model(view_a, view_b).loss.backward()
    """

    config: JMIConfig

    def __init__(self, config: JMIConfig):
        super().__init__(config)
        self.post_init()

    def sides(self, view_a: Tensor, view_b: Tensor, local_views: Sequence[Tensor] = (), phase: str = "E") -> Sides:
        z = self.each(self.embed, named_views(view_a, view_b, local_views))
        # T(a, b), and each local view with both: T(b, a) would only count the pair twice
        right = {name: z[name] for name in (("a", "b") if local_views else ("b",))}
        return {name: z[name] for name in z if name != "b"}, right

    def compare(self, left: Embeddings, right: Embeddings, phase: str = "E") -> MIPreTrainingOutput:
        bound = mean_bound(self.objective, gather_all(left), gather_all(right), draw=self.draws)
        if self.training:
            self.draws += 1
        return pretraining_output(bound, left["a"], right["b"])


AutoModel.register(JMIConfig, JMIModel, exist_ok=True)
AutoModelForPreTraining.register(JMIConfig, JMIForPreTraining, exist_ok=True)
