"""Published views by name have the published distributions, and local views stand beside them without moving them."""

from dataclasses import replace

import pytest
import torch

from hf_mi_ssl.errors import UserError
from hf_mi_ssl.views import RandomViews, ViewRecipe, local_recipe, make_views, view_recipes
from hf_mi_ssl.views.draws import draw_parameters

from .test_views import ks, random_images, uniforms

N = 4000
# smallest crop; brightness, contrast, saturation, hue; blur and solarize of the first and the second view
PUBLISHED = {
    "moco": (0.2, (0.4, 0.4, 0.4, 0.1), (0.5, 0.5), (0, 0)),
    "simclr": (0.08, (0.8, 0.8, 0.8, 0.2), (0.5, 0.5), (0, 0)),
    "byol": (0.08, (0.4, 0.4, 0.2, 0.1), (1, 0.1), (0, 0.2)),
    "dino": (0.4, (0.4, 0.4, 0.2, 0.1), (1, 0.1), (0, 0.2)),
}


def draw(recipe: ViewRecipe, view: int, size: int = 224):
    return draw_parameters(recipe, size, size, 0, 0, torch.arange(N), view)


def assert_frequencies(p, **probabilities):
    for name, expected in probabilities.items():
        frequency = getattr(p, name).double().mean().item()
        assert abs(frequency - expected) <= 4 * (expected * (1 - expected) / N) ** 0.5, name


def assert_crops_and_jitter(p, smallest, largest, jitter):
    shares = (p.height * p.width).double() / 224**2
    assert smallest - 0.01 < shares.min() < smallest + 0.01
    assert shares.max() < largest + 0.01
    for factors, strength, centre in zip(p.factors.T, jitter, (1, 1, 1, 0), strict=True):
        assert ks(factors, uniforms(N, centre - strength, centre + strength)) < 1.95


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_two_views_have_the_published_distributions(name):
    smallest, jitter, blurs, solarizes = PUBLISHED[name]
    for view, recipe in enumerate(view_recipes(name, 224)):
        p = draw(recipe, view)
        assert_frequencies(p, flip=0.5, jitter=0.8, grayscale=0.2, blur=blurs[view], solarize=solarizes[view])
        assert_crops_and_jitter(p, smallest, 1, jitter)
        assert (recipe.size, recipe.blur_kernel, recipe.blur_sigma) == (224, 23, (0.1, 2.0))


@pytest.mark.parametrize("name", PUBLISHED)
def test_local_views_are_small_parts_of_the_image_half_of_them_blurred(name):
    p = draw(local_recipe(view_recipes(name, 224)[0], 96), 2)
    assert_frequencies(p, flip=0.5, jitter=0.8, grayscale=0.2, blur=0.5, solarize=0)
    assert_crops_and_jitter(p, 0.05, 0.4, PUBLISHED[name][1])
    assert ks((p.height * p.width).double() / 224**2, uniforms(N, 0.05, 0.4)) < 1.95


@pytest.mark.parametrize("name", PUBLISHED)
def test_small_images_are_not_blurred_and_kernels_grow_with_the_image(name):
    first, second = zip(*(view_recipes(name, size) for size in (16, 32, 64, 79, 81, 96, 160, 224, 384)), strict=True)
    _, _, (blur_a, blur_b), _ = PUBLISHED[name]
    assert [recipe.blur for recipe in first] == [0] * 4 + [blur_a] * 5
    assert [recipe.blur for recipe in second] == [0] * 4 + [blur_b] * 5
    assert [local_recipe(recipe, 24).blur for recipe in first] == [0] * 4 + [0.5] * 5
    assert [view_recipes(name, size)[1].blur_kernel for size in (32, 96, 224)] == [3, 9, 23]
    assert all(recipe.size == size for size in (1, 28, 33, 224) for recipe in view_recipes(name, size))


def test_the_draws_of_the_two_views_are_those_of_every_earlier_version():
    boxes = [
        [[5, 4, 83, 92], [31, 24, 64, 57], [2, 21, 85, 73], [20, 29, 57, 53]],
        [[7, 10, 72, 79], [13, 3, 80, 93], [33, 34, 49, 62], [0, 3, 73, 81]],
    ]
    for view, recipe in enumerate(view_recipes("moco", 96)):
        p = draw(recipe, view, size=96)
        assert torch.stack((p.top, p.left, p.height, p.width), dim=1)[:4].tolist() == boxes[view]
        assert p.blur[:4].tolist() == [[True, True, False, True], [True, True, False, False]][view]


@pytest.mark.parametrize(("size", "blur", "kernel"), [(32, 0.0, 3), (96, 0.5, 9)])
def test_the_default_views_are_to_the_last_bit_two_draws_of_one_recipe(size, blur, kernel):
    images, indices = random_images(20, size, size), torch.arange(20) + 7
    recipe = ViewRecipe(size, (0.2, 1.0), (3 / 4, 4 / 3), 0.5, 0.8, 0.4, 0.4, 0.4, 0.1, 0.2, blur, (0.1, 2.0), kernel)
    views = RandomViews(view_recipes("moco", size), seed=5)(images, 3, indices)
    for number, view in enumerate(views):
        parameters = draw_parameters(recipe, size, size, 5, 3, indices, number)
        assert torch.equal(view, make_views(images, [parameters], recipe)[0])


def test_each_view_is_drawn_from_its_own_recipe():
    images, indices = random_images(6, 24, 24), torch.arange(6)
    first, second = ViewRecipe(size=24, solarize=0.0), ViewRecipe(size=20, solarize=1.0)
    view_a, view_b = RandomViews((first, second), 0)(images, 0, indices)
    assert torch.equal(view_a, RandomViews((first, first), 0)(images, 0, indices)[0])
    assert torch.equal(view_b, RandomViews((second, second), 0)(images, 0, indices)[1])
    assert view_b.shape == (6, 3, 20, 20)


def test_local_views_come_third_and_move_neither_the_two_views_nor_each_other():
    images, indices = random_images(6, 40, 40), torch.arange(6)
    recipes = view_recipes("dino", 40)
    two, three, five = (RandomViews(recipes, 1, n, 16)(images, 0, indices) for n in (0, 1, 3))
    assert (len(two), len(three), len(five)) == (2, 3, 3)
    for views in (three, five):
        assert torch.equal(torch.stack(views[:2]), torch.stack(two))
    assert [view.shape for view in five[2]] == [(6, 3, 16, 16)] * 3
    assert torch.equal(three[2][0], five[2][0])
    assert len(torch.unique(torch.cat(five[2]), dim=0)) == 18


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"size": 0}, "at least 1 pixel"),
        ({"flip": 1.5}, "flip must be a probability"),
        ({"crop_scale": (1.0, 0.2)}, "crop_scale must be a range"),
        ({"blur_sigma": (0.0, 2.0)}, "blur_sigma must be a range"),
        ({"hue": 0.6}, "hue at most 0.5"),
        ({"blur_kernel": 4}, "blur_kernel must be odd"),
        ({"blur_kernel": 65}, "blur_kernel must be odd and below"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(columns, said):
    with pytest.raises(UserError, match=said):
        replace(view_recipes("moco", 32)[0], **columns)


def test_unknown_names_and_impossible_sizes_are_refused():
    with pytest.raises(UserError, match="unknown views 'simclr2'; did you mean 'simclr'"):
        view_recipes("simclr2", 32)
    with pytest.raises(UserError, match="image size"):
        view_recipes("moco", -3)
    with pytest.raises(UserError, match="at least 1 pixel"):
        RandomViews(view_recipes("moco", 224), 0, num_local=1, local_size=0)
    RandomViews(view_recipes("byol", 224), 0, num_local=1, local_size=1)(random_images(2, 64, 64), 0, torch.arange(2))
