"""Views: random augmentations of a batch of images."""

from ..lazy import lazy_names

__getattr__, __all__ = lazy_names(
    __name__,
    {
        ".making": ("RandomViews", "clean_view", "make_views", "random_view"),
        ".recipes": ("IMAGENET_MEAN", "IMAGENET_STD", "VIEW_RECIPES", "ViewRecipe", "local_recipe", "view_recipes"),
    },
)
