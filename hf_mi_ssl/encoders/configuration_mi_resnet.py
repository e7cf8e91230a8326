"""The configuration of `mi_resnet`, the residual network of the literature for small images.

This file travels beside published weights as remote code: it imports nothing of this package, and there is no
`from __future__ import annotations` in it, which would switch the type checks of `@strict` off.
"""

from huggingface_hub.dataclasses import strict
from transformers import ResNetConfig


@strict  # not inherited: without it, fields of a subclass go unchecked
class MIResNetConfig(ResNetConfig):
    """Every field of `ResNetConfig`, with its defaults.

    Args:
        stem_padding (`int`, *optional*, defaults to 1): of the stem's 3×3 convolution; 2 is solo-learn's, which leaves
            a map two pixels larger than the image.

    ```python
    >>> config = MIResNetConfig(depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], layer_type="basic")
    ```
    """

    model_type = "mi_resnet"

    stem_padding: int = 1


__all__ = ["MIResNetConfig"]
