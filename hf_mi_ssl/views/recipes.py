"""Which views: the distribution of augmentations, and the published one for each image size."""

from dataclasses import dataclass

from ..errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ViewRecipe:
    """The distribution that views are drawn from; operations are applied in the order of the fields.

    The defaults are those of MoCo v2 (arXiv 2003.04297) and SimSiam (arXiv 2011.10566) but for the blur, which depends
    on the image size: see `view_recipe`. Raises UserError for values that are no probability or no range.

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


def view_recipe(image_size: int) -> ViewRecipe:
    """The published recipe for the nearest of 32, 64, 96 and 224 pixels, with `image_size` as its size.

    Raises UserError when `image_size` is not positive.
    """
    nearest = min((32, 64, 96, 224), key=lambda size: abs(size - image_size))
    return ViewRecipe(
        size=image_size,
        # Small images are not blurred: CIFAR-10 in SimCLR (arXiv 2002.05709 §B.9) and SimSiam (arXiv 2011.10566 §D).
        blur=0.5 if nearest >= 96 else 0.0,
        # A tenth of the image, made odd (arXiv 2002.05709 §A): 23 at 224.
        blur_kernel=2 * (max(image_size, 0) // 20) + 1,
    )
