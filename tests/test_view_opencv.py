"""Views by OpenCV are those of the tensor code, from the same draws, to within their rounding to grey levels."""

import numpy as np
import pytest
import torch

from hf_mi_ssl.views import VIEW_RECIPES, RandomViews, opencv, operations, view_recipes
from hf_mi_ssl.views.draws import draw_parameters
from hf_mi_ssl.views.making import make_views

from .test_view_operations import random_images, uniforms

cv2 = pytest.importorskip("cv2")
RANGES = {"brightness": (0.2, 1.8), "contrast": (0.2, 1.8), "saturation": (0.2, 1.8), "hue": (-0.5, 0.5)}


def one_by_one(operation, images, *parameters):
    """In grey levels, (n, 3, H, W)."""
    own = zip(images.permute(0, 2, 3, 1).numpy(), *(p.tolist() for p in parameters), strict=True)
    done = np.stack([operation(cv2, np.ascontiguousarray(image), *rest) for image, *rest in own])
    return torch.from_numpy(done).permute(0, 3, 1, 2).float()


def assert_within(actual, expected, levels):
    assert (actual - expected * 255).abs().max() <= levels


@pytest.mark.parametrize("number", range(4), ids=list(RANGES))
def test_a_colour_operation_is_within_a_grey_level(number):
    images, factor = random_images(12, 60, 70), uniforms(12, *list(RANGES.values())[number])
    expected = operations.COLOR_OPERATIONS[number](images.float() / 255, factor)
    assert_within(one_by_one(opencv.COLOR_OPERATIONS[number], images, factor), expected, 1.0)


def test_greyscale_is_within_a_grey_level():
    images = random_images(4, 50, 60)
    assert_within(one_by_one(opencv._luma, images), operations.to_grayscale(images.float() / 255), 1.0)


def test_a_blur_is_within_a_grey_level():
    images, sigma = random_images(8, 60, 70), torch.tensor((0.1, 0.3, 0.5, 0.8, 1.1, 1.4, 1.7, 2.0))
    blurred = one_by_one(lambda cv2, x, s: opencv._blur(cv2, x, s, 23), images, sigma)
    assert_within(blurred, operations.gaussian_blur(images.float() / 255, sigma, 23), 1.0)


@pytest.mark.parametrize("box", [(0, 0, 130, 140), (3, 5, 20, 31), (10, 0, 110, 60), (7, 2, 1, 1)])
def test_a_crop_is_within_a_grey_level_however_it_is_scaled(box):
    images, (top, left, height, width) = random_images(2, 130, 140), box
    expected = operations.resized_crop(images, *(torch.tensor((value, value)) for value in box), 96)
    cropped = images[:, :, top : top + height, left : left + width]
    assert_within(one_by_one(lambda cv2, x: opencv._resize(cv2, x, 96), cropped), expected, 1.1)  # it rounds twice


def test_inverting_is_that_of_solarize():
    grey = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    inverted = one_by_one(lambda cv2, x: cv2.LUT(x, opencv._INVERTED), grey)
    assert_within(inverted, operations.solarize(grey.float() / 255), 0.001)


@pytest.mark.parametrize("name", VIEW_RECIPES)
@pytest.mark.parametrize("view", [0, 1])
def test_a_published_recipe_gives_the_same_views(name, view):
    images, recipe = random_images(48, 120, 130), view_recipes(name, 96)[view]
    drawn = draw_parameters(recipe, 120, 130, 0, 0, torch.arange(48), view)
    assert recipe.solarize == 0 or drawn.solarize.any()
    assert all(mask.any() for mask in (drawn.blur, drawn.grayscale, drawn.flip, drawn.jitter))
    assert len(set(map(tuple, drawn.order.tolist()))) > 8
    fast, slow = (
        opencv.make_view(images, drawn, recipe),
        make_views(operations.to_unit_range(images), [drawn], recipe)[0],
    )
    levels = (fast - slow).abs() * torch.tensor(recipe.std).view(3, 1, 1) * 255
    assert levels.mean((1, 2, 3)).max() < 1.0  # each image
    assert levels.mean() < 0.5
    assert levels.max() < 12  # where contrast and saturation multiply a rounded level


def test_large_views_of_bytes_on_a_cpu_come_from_opencv_and_others_do_not(monkeypatch):
    called = []
    monkeypatch.setattr(opencv, "make_view", lambda *args: called.append(args) or torch.zeros(2, 3, 1, 1))
    images = random_images(2, 100, 100)
    for number, (size, of, times) in enumerate(((96, images, 2), (95, images, 0), (96, images / 255, 0))):
        RandomViews(view_recipes("moco", size), number)(of, 0, torch.arange(2))
        assert len(called) == times, size
        called.clear()
    monkeypatch.setattr(opencv, "_installed", lambda: False)
    RandomViews(view_recipes("moco", 96), 0)(images, 0, torch.arange(2))
    assert not called


@pytest.mark.parametrize("size", [32, 96])
@pytest.mark.parametrize("threads", [1, 2])
def test_parts_of_a_batch_and_threads_change_no_bit(size, threads):
    images, recipes = random_images(11, 100, 100), view_recipes("byol", size)
    whole = RandomViews(recipes, 3, 1, 24)(images, 5, torch.arange(20, 31))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        parts = RandomViews(recipes, 3, 1, 24, batch_size=4)(images, 5, torch.arange(20, 31))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(whole[:2], parts[:2]))
    assert torch.equal(whole[2][0], parts[2][0])
