"""Views: random augmentations of a batch of images, as tensor code on the device that the images are on, or on the CPU
by OpenCV where that is faster.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, starmap

import torch
from torch import Tensor

from . import opencv, operations
from .draws import ViewParameters, draw_parameters
from .recipes import ViewRecipe, local_recipe


class RandomViews:
    """The views of a training step: two of each image, drawn from two recipes, and `num_local` local ones.

    A view is a pure function of (seed, epoch, image index, number of the view): the batch that an image comes in, its
    place there, the other views, the number of processes and the state of the ambient generator change no bit of it on
    a CPU.

    ```python
    views = RandomViews(view_recipes("moco", 32), seed=0)
    view_a, view_b = views(images, epoch=0, indices=torch.arange(len(images)))
    ```

    Args:
        recipes: of view 0 and view 1.
        num_local, local_size: how many local views, numbers 2, 3, …, from `local_recipe` of the first recipe, and
            their height and width in pixels.
        batch_size: make views of so many images at a time, which bounds the memory that making them takes and changes
            no bit of them on a CPU; by default of all at once.
    """

    def __init__(
        self,
        recipes: tuple[ViewRecipe, ViewRecipe],
        seed: int,
        num_local: int = 0,
        local_size: int | None = None,
        batch_size: int | None = None,
    ):
        self.recipes = [*recipes, *(local_recipe(recipes[0], local_size) for _ in range(num_local))]
        self.seed, self.batch_size = seed, batch_size

    def made_by(self, device: torch.device) -> str:
        """Who makes views of uint8 images on that device, `torch`, `opencv` or both: they round differently."""
        images = torch.empty(0, dtype=torch.uint8, device=device)
        return " and ".join(sorted({"opencv" if opencv.is_faster(images, r) else "torch" for r in self.recipes}))

    @torch.no_grad()
    def __call__(
        self, images: Tensor, epoch: int, indices: Tensor
    ) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, list[Tensor]]:
        """images (n, 3, H, W), uint8 or floating point in [0, 1], number `indices` (n,) of the data set -> two float32
        (n, 3, size, size), normalised, and, if there are local views, the list of them, (n, 3, local_size, local_size)
        each. Indices on the CPU spare images on another device a wait.
        """
        size = self.batch_size or max(1, len(images))
        split = zip(images.split(size), indices.split(size), strict=True)
        parts = [self._make(part, epoch, numbers) for part, numbers in split]
        view_a, view_b, *local_views = parts[0] if len(parts) == 1 else map(torch.cat, zip(*parts, strict=True))
        return (view_a, view_b, local_views) if local_views else (view_a, view_b)

    def of_step(self, batches: Iterable[tuple[int, Tensor, Tensor]]) -> "StepViews":
        """The views of the batches (epoch, indices, images) of one optimiser step, for as many passes as it has."""
        return StepViews(self, list(batches))

    def _make(self, images: Tensor, epoch: int, indices: Tensor) -> list[Tensor]:
        height, width = images.shape[2:]
        if not any(opencv.is_faster(images, recipe) for recipe in self.recipes):
            images = operations.to_unit_range(images)  # once for all views
        drawn = [
            (recipe, draw_parameters(recipe, height, width, self.seed, epoch, indices, number))
            for number, recipe in enumerate(self.recipes)
        ]
        views = []
        for _, alike in groupby(drawn, key=lambda pair: pair[0].fixed):
            recipes, parameters = zip(*alike, strict=True)
            views += make_views(images, parameters, recipes[0])
        return views


class StepViews:
    """Those of one batch are kept for the next pass; of several they are made again, so that memory does not grow with
    the batches that are accumulated."""

    def __init__(self, views: RandomViews, batches: list[tuple[int, Tensor, Tensor]]):
        self.views, self.batches, self.kept = views, batches, None

    def __iter__(self) -> Iterator[tuple]:
        if len(self.batches) == 1:
            self.kept = self.kept or self._made(*self.batches[0])
            return iter([self.kept])
        return starmap(self._made, self.batches)

    def _made(self, epoch: int, indices: Tensor, images: Tensor) -> tuple:
        return self.views(images, epoch, indices)


def make_views(images: Tensor, parameters: Sequence[ViewParameters], recipe: ViewRecipe) -> list[Tensor]:
    """Apply drawn parameters, for a view of each image each: (n, 3, H, W), uint8 or floating point in [0, 1], ->
    float32 (n, 3, size, size), normalised. Of `recipe` only what is not drawn is looked at."""
    if opencv.is_faster(images, recipe):
        return [opencv.make_view(images, p, recipe) for p in parameters]
    # All views in one batch: of small images, calls cost more than what they do
    view = torch.cat(
        [operations.resized_crop(images, p.top, p.left, p.height, p.width, recipe.size) for p in parameters]
    )
    p = ViewParameters.joined(parameters)
    operations.on_rows_(view, p.flip, operations.horizontal_flip)
    operations.color_jitter_(view, p.jitter, p.order, p.factors)
    operations.on_rows_(view, p.grayscale, operations.to_grayscale)
    operations.on_rows_(view, p.blur, lambda x, sigma: operations.gaussian_blur(x, sigma, recipe.blur_kernel), p.sigma)
    operations.on_rows_(view, p.solarize, operations.solarize)
    return list(operations.normalize(view, recipe.mean, recipe.std).split(len(images)))


@torch.no_grad()
def random_view(images: Tensor, recipe: ViewRecipe, seed: int, epoch: int, indices: Tensor) -> Tensor:
    """One view of each image, as `RandomViews` draws its first: (n, 3, H, W) -> (n, 3, size, size)."""
    parameters = draw_parameters(recipe, *images.shape[2:], seed, epoch, indices, 0)
    return make_views(images, [parameters], recipe)[0]


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
