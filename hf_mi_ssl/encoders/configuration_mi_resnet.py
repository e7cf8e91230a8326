"""The configuration of `mi_resnet`, the residual network of the literature for small images.

This file travels beside published weights as remote code: it imports nothing of this package, and there is no
`from __future__ import annotations` in it, which would switch the type checks of `@strict` off.
"""

from huggingface_hub.dataclasses import strict
from transformers import ResNetConfig


@strict  # not inherited: without it, fields of a subclass go unchecked
class MIResNetConfig(ResNetConfig):
    """Every field of `ResNetConfig`, with its defaults; the stem is the model's and has no settings.

    ```python
    >>> config = MIResNetConfig(depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], layer_type="basic")
    ```
    """

    model_type = "mi_resnet"


__all__ = ["MIResNetConfig"]
