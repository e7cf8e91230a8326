"""`mi_resnet`: a residual network with a 3×3 stem of stride 1 and no max-pool, as the literature uses on small images.

transformers' own ResNet divides the image by four before its first block, which leaves a 1×1 map of a 32-pixel image;
this one leaves 4×4 (SimCLR, arXiv 2002.05709, appendix B.9). This file travels beside published weights as remote
code: it imports torch, transformers and its own configuration only.
"""

from torch import Tensor, nn
from transformers import ResNetBackbone, ResNetForImageClassification, ResNetModel
from transformers.models.resnet.modeling_resnet import ResNetConvLayer

from .configuration_mi_resnet import MIResNetConfig


class MIResNetEmbeddings(nn.Module):
    """The stem: a 3×3 convolution of stride 1, batch norm and activation, at the image's own size with padding 1."""

    def __init__(self, config: MIResNetConfig):
        super().__init__()
        self.embedder = ResNetConvLayer(
            config.num_channels, config.embedding_size, kernel_size=3, stride=1, activation=config.hidden_act
        )
        self.embedder.convolution.padding = (config.stem_padding, config.stem_padding)

    def forward(self, pixel_values: Tensor) -> Tensor:  # (n, 3, H, W) -> (n, embedding_size, H, W)
        return self.embedder(pixel_values)


class MIResNetModel(ResNetModel):
    """The encoder: `pooler_output` is (n, hidden_sizes[-1], 1, 1), the map before it is 1/8 of the image."""

    config: MIResNetConfig

    def __init__(self, config: MIResNetConfig):
        super().__init__(config)
        self.embedder = MIResNetEmbeddings(config)
        self.post_init()


class MIResNetForImageClassification(ResNetForImageClassification):
    """The encoder with a linear classifier."""

    config: MIResNetConfig

    def __init__(self, config: MIResNetConfig):
        super().__init__(config)
        self.resnet = MIResNetModel(config)
        self.post_init()


class MIResNetBackbone(ResNetBackbone):
    """The maps of the stages that `out_features` names, for dense tasks."""

    config: MIResNetConfig

    def __init__(self, config: MIResNetConfig):
        super().__init__(config)
        self.embedder = MIResNetEmbeddings(config)
        self.post_init()


__all__ = ["MIResNetBackbone", "MIResNetForImageClassification", "MIResNetModel"]
