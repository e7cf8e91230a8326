"""JMI, joint maximisation: one shared branch, both views with gradient, an explicit marginal term."""

from torch import Tensor

from .configuration import JMIConfig
from .distributed import gather
from .modeling_base import EncoderModel, MIPreTrainingOutput, MISSLForPreTraining, pretraining_output


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

    def forward(self, view_a: Tensor, view_b: Tensor) -> MIPreTrainingOutput:
        """Two views of the same n images, (n, 3, H, W) each, row i with row i."""
        z_a, z_b = self.embed(view_a), self.embed(view_b)
        bound = self.objective(gather(z_a), gather(z_b))
        return pretraining_output(bound, z_a, z_b)
