"""The operations that make views are torchvision's, on the same parameters, with each image's own."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as tv

from hf_mi_ssl.views import IMAGENET_MEAN, IMAGENET_STD, ViewRecipe, clean_view, operations


def random_images(n: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """uint8 images, coarse patches under fine noise, with some pixels grey, black and white."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 4, 4, generator=generator)
    images = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    images = images + 0.1 * torch.randn(images.shape, generator=generator)
    kind = torch.randint(0, 12, (n, 1, height, width), generator=generator)
    images = torch.where(kind == 0, images.mean(1, keepdim=True), images)
    return images.where(kind != 1, 0).where(kind != 2, 1).clamp(0, 1).mul(255).round().to(torch.uint8)


def uniforms(n: int, low: float, high: float, seed: int = 1) -> torch.Tensor:
    return low + (high - low) * torch.rand(n, generator=torch.Generator().manual_seed(seed))


def one_by_one(function, images, *parameters):
    return torch.stack([function(x, *(p.item() for p in own)) for x, *own in zip(images, *parameters, strict=True)])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_resized_crop_is_torchvisions(data):
    height, width, size = (data.draw(st.integers(1, 70)) for _ in range(3))
    box_height, box_width = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    box = data.draw(st.integers(0, height - box_height)), data.draw(st.integers(0, width - box_width))
    box += box_height, box_width
    images = random_images(2, height, width)
    expected = tv.resized_crop(images.float() / 255, *box, (size, size), antialias=True)
    actual = operations.resized_crop(images, *(torch.tensor((value, value)) for value in box), size)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_every_image_has_its_own_box():
    images = random_images(5, 40, 30)
    boxes = [torch.tensor(v) for v in ((0, 1, 2, 30, 0), (0, 9, 8, 7, 0), (40, 3, 20, 10, 1), (30, 21, 4, 23, 1))]
    expected = one_by_one(
        lambda x, *box: tv.resized_crop(x, *box, (16, 16), antialias=True), images.float() / 255, *boxes
    )
    torch.testing.assert_close(operations.resized_crop(images, *boxes, 16), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "low", "high"), [("brightness", 0, 2), ("contrast", 0, 2), ("saturation", 0, 2), ("hue", -0.5, 0.5)]
)
@pytest.mark.parametrize("shape", [(32, 32), (17, 40)])
def test_colour_operations_are_torchvisions(name, low, high, shape):
    images, factor = random_images(24, *shape).float() / 255, uniforms(24, low, high)
    factor[:2] = torch.tensor((low, high))
    expected = one_by_one(getattr(tv, f"adjust_{name}"), images, factor)
    actual = getattr(operations, f"adjust_{name}")(images, factor)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_colour_jitter_applies_each_image_its_own_order():
    orders = torch.cartesian_prod(*[torch.arange(4)] * 4)
    orders = orders[orders.sort(1).values.eq(torch.arange(4)).all(1)].repeat(4, 1)  # the 24 permutations, four times
    n = len(orders)
    images, mask = random_images(n, 20, 20).float() / 255, torch.arange(n) % 5 != 0
    factors = torch.stack([uniforms(n, 0.6, 1.4, k) for k in range(3)] + [uniforms(n, -0.1, 0.1, 3)], dim=1)
    functions = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
    expected = images.clone()
    for i in mask.nonzero().flatten().tolist():
        for k in orders[i].tolist():
            expected[i] = functions[k](expected[i], factors[i, k].item())
    actual = operations.color_jitter_(images.clone(), mask, orders, factors)
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-5)
    assert torch.equal(actual[~mask], images[~mask])


@pytest.mark.parametrize(("height", "width", "kernel_size"), [(32, 32, 3), (30, 21, 9), (8, 9, 15), (96, 96, 23)])
def test_gaussian_blur_is_torchvisions(height, width, kernel_size):
    images, sigma = random_images(6, height, width).float() / 255, uniforms(6, 0.1, 2.0)
    expected = one_by_one(lambda x, s: tv.gaussian_blur(x, [kernel_size] * 2, [s] * 2), images, sigma)
    actual = operations.gaussian_blur(images, sigma, kernel_size)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_operations_without_parameters_are_torchvisions():
    images = random_images(8, 20, 15).float() / 255
    assert torch.equal(operations.horizontal_flip(images), tv.horizontal_flip(images))
    assert torch.equal(operations.solarize(images), tv.solarize(images, 0.5))
    grey = operations.to_grayscale(images)
    torch.testing.assert_close(grey, tv.rgb_to_grayscale(images, 3), rtol=0, atol=1e-6)
    expected = tv.normalize(images, IMAGENET_MEAN, IMAGENET_STD)
    torch.testing.assert_close(operations.normalize(images, IMAGENET_MEAN, IMAGENET_STD), expected, rtol=0, atol=1e-6)


def test_on_rows_touches_only_the_rows_of_the_mask():
    images, mask = random_images(6, 5, 5).float() / 255, torch.tensor([0, 1, 1, 0, 0, 1]).bool()
    changed = operations.on_rows_(images.clone(), mask, operations.adjust_brightness, torch.arange(6) / 6)
    assert torch.equal(changed[~mask], images[~mask])
    assert torch.equal(changed[mask], operations.adjust_brightness(images[mask], (torch.arange(6) / 6)[mask]))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 40))
def test_the_clean_view_is_the_whole_image_resized_by_torchvision(height, width, size):
    images = random_images(2, height, width)
    expected = tv.resize(images.float() / 255, [size, size], antialias=True)
    expected = tv.normalize(expected, IMAGENET_MEAN, IMAGENET_STD)
    torch.testing.assert_close(clean_view(images, ViewRecipe(size=size)), expected, rtol=0, atol=1e-4)
