"""Which views: the distribution of augmentations, and the published ones by name."""

from dataclasses import dataclass, replace

from ..errors import UserError, refuse_unknown

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ViewRecipe:
    """The distribution that views are drawn from; operations are applied in the order of the fields.

    The defaults are those of MoCo v2 (arXiv 2003.04297) and SimSiam (arXiv 2011.10566) but for the blur, which depends
    on the image size: see `view_recipes`. Raises UserError for values that are no probability or no range.

    Args:
        size (`int`): height and width of a view, in pixels.
        crop_scale (`tuple`): range of the crop's share of the image's area, uniform.
        crop_ratio (`tuple`): range of the crop's width / height, log-uniform.
        flip (`float`): probability of a mirrored view.
        jitter_probability (`float`): probability of colour jitter; its four operations come in random order.
        brightness, contrast, saturation (`float`): factors are uniform in [max(0, 1 − s), 1 + s].
        hue (`float`): turns of the hue are uniform in [−hue, hue]; at most 0.5.
        grayscale (`float`): probability of a view without colour.
        blur (`float`): probability of Gaussian blur.
        blur_sigma (`tuple`): range of the Gaussian's width, in pixels, uniform.
        blur_kernel (`int`): number of pixels, odd, that the Gaussian is cut to.
        solarize (`float`): probability of inverting what is brighter than half.
        mean, std (`tuple`): what each channel is normalised with.
    """

    size: int
    crop_scale: tuple[float, float] = (0.2, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter_probability: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    grayscale: float = 0.2
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    blur_kernel: int = 1
    solarize: float = 0.0
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    @property
    def fixed(self) -> tuple:
        """What is not drawn: views of recipes that agree in it can be made together."""
        return self.size, self.blur_kernel, self.mean, self.std

    def __post_init__(self):
        if self.size < 1:
            raise UserError(f"the image size must be at least 1 pixel, not {self.size}")
        for name in ("flip", "jitter_probability", "grayscale", "blur", "solarize"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} must be a probability, from 0 to 1, not {getattr(self, name)}")
        for name in ("crop_scale", "crop_ratio", "blur_sigma"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise UserError(f"{name} must be a range of positive numbers, low before high, not {low}, {high}")
        if min(self.brightness, self.contrast, self.saturation, self.hue) < 0 or self.hue > 0.5:
            raise UserError("brightness, contrast, saturation and hue must be at least 0, and hue at most 0.5")
        if self.blur_kernel % 2 == 0 or not 0 < self.blur_kernel < 2 * self.size:
            raise UserError(f"blur_kernel must be odd and below twice the image size, not {self.blur_kernel}")


_BYOL = {"crop_scale": (0.08, 1.0), "saturation": 0.2}
_DINO = {"crop_scale": (0.4, 1.0), "saturation": 0.2}
_SIMCLR = {"crop_scale": (0.08, 1.0), "brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}

# What the first and the second view have in place of the defaults of `ViewRecipe`.
VIEW_RECIPES = {
    # MoCo v2 (arXiv 2003.04297) and SimSiam (arXiv 2011.10566)
    "moco": ({"blur": 0.5}, {"blur": 0.5}),
    # SimCLR (arXiv 2002.05709 §A) on ImageNet; on CIFAR-10 it halves the strength of the jitter (§B.9)
    "simclr": (_SIMCLR | {"blur": 0.5}, _SIMCLR | {"blur": 0.5}),
    # BYOL (arXiv 2006.07733, Table 6); the official code of Barlow Twins (arXiv 2103.03230), VICReg (arXiv 2105.04906)
    # and MoCo v3 (arXiv 2104.02057) has the same, but for crops from 0.2 on when MoCo v3 trains ResNets
    "byol": (_BYOL | {"blur": 1.0}, _BYOL | {"blur": 0.1, "solarize": 0.2}),
    # DINO (arXiv 2104.14294): BYOL's, with larger crops because local views cover the small ones
    "dino": (_DINO | {"blur": 1.0}, _DINO | {"blur": 0.1, "solarize": 0.2}),
}


def view_recipes(name: str, image_size: int) -> tuple[ViewRecipe, ViewRecipe]:
    """The published recipes `name` of the first and the second view, with `image_size` as their size.

    Raises UserError for an unknown name and when `image_size` is not positive.
    """
    refuse_unknown("views", [name], VIEW_RECIPES)
    # Small images, nearer to 64 pixels than to 96, are not blurred: CIFAR-10 in SimCLR (arXiv 2002.05709 §B.9) and
    # SimSiam (arXiv 2011.10566 §D).
    unblurred = {"blur": 0.0} if image_size <= 80 else {}
    # A tenth of the image, made odd (arXiv 2002.05709 §A, and BYOL): 23 at 224.
    kernel = 2 * (max(image_size, 0) // 20) + 1
    first, second = (
        ViewRecipe(size=image_size, blur_kernel=kernel, **columns | unblurred) for columns in VIEW_RECIPES[name]
    )
    return first, second


def local_recipe(recipe: ViewRecipe, size: int) -> ViewRecipe:
    """The recipe of local views, of `size` pixels, beside views from `recipe`: small parts of the image, blurred half
    of the time if those are blurred at all, never solarized (DINO, arXiv 2104.14294). Raises UserError as they do.
    """
    kernel = min(recipe.blur_kernel, 2 * size - 1)
    blur = 0.5 if recipe.blur else 0.0
    return replace(recipe, size=size, crop_scale=(0.05, 0.4), blur=blur, blur_kernel=kernel, solarize=0.0)
