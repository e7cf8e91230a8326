"""Views: two random augmentations of a batch of images, as tensor code on the device that the images are on."""

import torch
from torch import Tensor

from . import operations
from .draws import ViewParameters, draw_parameters
from .recipes import IMAGENET_MEAN, IMAGENET_STD, ViewRecipe, view_recipe

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "TwoViews", "ViewRecipe", "clean_view", "view_recipe"]


class TwoViews:
    """Two views of each image, drawn independently from `recipe`.

    A view is a pure function of (seed, epoch, image index, which of the two): the batch that an image comes in, its
    place there, the number of processes and the state of the ambient generator change no bit of it on a CPU.

    ```python
    two_views = TwoViews(view_recipe(32), seed=0)
    view_a, view_b = two_views(images, epoch=0, indices=torch.arange(len(images)))
    ```
    """

    def __init__(self, recipe: ViewRecipe, seed: int):
        self.recipe = recipe
        self.seed = seed

    @torch.no_grad()
    def __call__(self, images: Tensor, epoch: int, indices: Tensor) -> tuple[Tensor, Tensor]:
        """images (n, 3, H, W), uint8 or floating point in [0, 1], number `indices` (n,) of the data set -> two float32
        (n, 3, size, size), normalised. Indices on the CPU spare images on another device a wait.
        """
        height, width = images.shape[2:]
        parameters = (draw_parameters(self.recipe, height, width, self.seed, epoch, indices, view) for view in (0, 1))
        images = operations.to_unit_range(images)
        view_a, view_b = (make_view(images, p, self.recipe) for p in parameters)
        return view_a, view_b


def make_view(images: Tensor, parameters: ViewParameters, recipe: ViewRecipe) -> Tensor:
    """Apply drawn parameters: float32 (n, 3, H, W) in [0, 1] -> (n, 3, size, size), normalised."""
    p = parameters
    view = operations.resized_crop(images, p.top, p.left, p.height, p.width, recipe.size)
    operations.on_rows_(view, p.flip, operations.horizontal_flip)
    operations.color_jitter_(view, p.jitter, p.order, p.factors)
    operations.on_rows_(view, p.grayscale, operations.to_grayscale)
    operations.on_rows_(view, p.blur, lambda x, sigma: operations.gaussian_blur(x, sigma, recipe.blur_kernel), p.sigma)
    operations.on_rows_(view, p.solarize, operations.solarize)
    return operations.normalize(view, recipe.mean, recipe.std)


@torch.no_grad()
def clean_view(images: Tensor, recipe: ViewRecipe) -> Tensor:
    """The whole image, nothing random, for evaluation: (n, 3, H, W), uint8 or floating point in [0, 1], -> float32
    (n, 3, size, size), resized with antialias where the size differs, and normalised.
    """
    images = operations.to_unit_range(images)
    n, _, height, width = images.shape
    if (height, width) != (recipe.size, recipe.size):
        zero = torch.zeros(n, dtype=torch.int64)
        images = operations.resized_crop(images, zero, zero, zero + height, zero + width, recipe.size)
    return operations.normalize(images, recipe.mean, recipe.std)
