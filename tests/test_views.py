"""Views have torchvision's distributions, and each is a pure function of (seed, epoch, image index, view)."""

from dataclasses import replace

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from hf_mi_ssl.views import IMAGENET_MEAN, IMAGENET_STD, RandomViews, ViewRecipe, clean_view, view_recipes
from hf_mi_ssl.views.draws import draw_parameters

EVERYTHING = replace(view_recipes("moco", 24)[0], blur=0.5, blur_kernel=5, solarize=0.3)


def random_images(n: int, height: int, width: int) -> torch.Tensor:
    shape = (n, 3, height, width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def two_views(recipe: ViewRecipe = EVERYTHING, seed: int = 0) -> RandomViews:
    return RandomViews((recipe, recipe), seed)


def uniforms(n: int, low: float, high: float, seed: int = 1) -> torch.Tensor:
    return low + (high - low) * torch.rand(n, generator=torch.Generator().manual_seed(seed))


# The parameters have torchvision's distributions


def ks(a: torch.Tensor, b: torch.Tensor) -> float:
    """The two-sample Kolmogorov–Smirnov statistic times √(nm / (n + m)): above 1.95 once in a thousand times."""
    a, b, both = a.double().sort().values, b.double().sort().values, torch.cat((a, b)).double()
    gap = torch.searchsorted(a, both, right=True) / len(a) - torch.searchsorted(b, both, right=True) / len(b)
    return gap.abs().max().item() * (len(a) * len(b) / (len(a) + len(b))) ** 0.5


def draw(recipe=EVERYTHING, n=4000, height=24, width=24, seed=0, epoch=0, view=0):
    return draw_parameters(recipe, height, width, seed, epoch, torch.arange(n), view)


@pytest.mark.parametrize(
    ("height", "width", "scale", "ratio"),
    [
        (224, 224, (0.2, 1.0), (3 / 4, 4 / 3)),
        (32, 32, (0.08, 1.0), (3 / 4, 4 / 3)),
        (50, 200, (0.5, 1.0), (3 / 4, 4 / 3)),  # often no try fits
        (200, 50, (0.9, 1.0), (3 / 4, 4 / 3)),
        (40, 41, (0.99, 1.0), (1.3, 1.4)),
        (64, 48, (0.9, 1.0), (0.5, 0.6)),
    ],
)
def test_crop_boxes_have_torchvisions_distribution(height, width, scale, ratio):
    torch.manual_seed(0)
    transform, image = v2.RandomResizedCrop(8, scale, ratio), torch.zeros(3, height, width)
    theirs = [transform.make_params([image]) for _ in range(3000)]
    theirs = {name: torch.tensor([box[name] for box in theirs]) for name in ("top", "left", "height", "width")}
    p = draw(replace(EVERYTHING, crop_scale=scale, crop_ratio=ratio), height=height, width=width)
    ours = {name: getattr(p, name) for name in theirs}
    assert (ours["top"] >= 0).all()
    assert (ours["top"] + ours["height"] <= height).all()
    assert (ours["left"] >= 0).all()
    assert (ours["left"] + ours["width"] <= width).all()
    for box in (ours, theirs):
        box["area"], box["aspect"] = box["height"] * box["width"], box["width"] / box["height"]
        box["place"] = box["top"] / (height - box["height"] + 1) + box["left"] / (width - box["width"] + 1)
    for name in ours:
        assert ks(ours[name], theirs[name]) < 1.95, name


def test_jitter_has_torchvisions_distribution():
    torch.manual_seed(0)
    recipe = replace(EVERYTHING, brightness=0.4, contrast=1.5, saturation=0.8, hue=0.1)
    jitter = v2.ColorJitter(recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue)
    theirs, ours = [jitter.make_params([]) for _ in range(4000)], draw(recipe)
    for k, name in enumerate(("brightness_factor", "contrast_factor", "saturation_factor", "hue_factor")):
        assert ks(ours.factors[:, k], torch.tensor([p[name] for p in theirs])) < 1.95
    counts = torch.unique(ours.order, dim=0, return_counts=True)[1].double()
    assert len(counts) == 24
    assert ((counts - 4000 / 24) ** 2 / (4000 / 24)).sum() < 23 + 4 * (2 * 23) ** 0.5
    assert torch.equal(ours.order.sort(1).values, torch.arange(4).expand(4000, 4))


def test_the_probabilities_are_those_of_the_recipe():
    p, n = draw(n=20_000), 20_000
    for name in ("flip", "jitter", "grayscale", "blur", "solarize"):
        expected = getattr(EVERYTHING, "jitter_probability" if name == "jitter" else name)
        frequency = getattr(p, name).double().mean()
        assert abs(frequency - expected) < 4 * (expected * (1 - expected) / n) ** 0.5, name
    assert ks(p.sigma, uniforms(n, *EVERYTHING.blur_sigma)) < 1.95
    assert draw(replace(EVERYTHING, flip=1.0)).flip.all()
    assert not draw(replace(EVERYTHING, flip=0.0)).flip.any()


def numbers(p) -> torch.Tensor:
    """(parameters, n)"""
    columns = (p.top, p.left, p.height, p.width, p.flip, p.jitter, p.grayscale, p.blur, p.sigma, p.solarize)
    return torch.cat((torch.stack([c.double() for c in columns]), p.factors.T.double(), p.order[:, :3].T.double()))


@pytest.mark.parametrize("other", [{"view": 1}, {"view": 2}, {"view": 9}, {"epoch": 1}, {"seed": 1}])
def test_views_epochs_and_seeds_are_independent(other):
    a, b = numbers(draw()), numbers(draw(**other))
    correlation = torch.corrcoef(torch.cat((a, b)))[: len(a), len(a) :]
    assert correlation.abs().max() < 4.5 / 4000**0.5
    assert (a == b).all(dim=0).sum() == 0


def test_the_parameters_of_one_view_are_independent_of_each_other():
    p = draw()
    ours = torch.stack([x.double() for x in (p.flip, p.jitter, p.grayscale, p.blur, p.sigma, p.solarize, p.height)])
    ours = torch.cat((ours, p.factors.T.double()))
    assert (torch.corrcoef(ours) - torch.eye(len(ours))).abs().max() < 4.5 / 4000**0.5


# A view is a pure function of (seed, epoch, image index, view)


@pytest.mark.parametrize(
    ("height", "width", "size", "threads"),
    [(24, 24, 24, 1), (33, 29, 31, 1), (33, 29, 31, 2), (20, 50, 32, 1), (80, 80, 64, 1)],
)
def test_a_view_is_the_same_to_the_last_bit_in_every_batch(height, width, size, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        n = 50
        recipe = replace(EVERYTHING, size=size, blur_kernel=7)
        views = RandomViews((recipe, replace(recipe, solarize=0.8)), seed=3, num_local=2, local_size=size)
        images, indices = random_images(n, height, width), torch.arange(n) + 10_000

        def make(rows):
            view_a, view_b, local_views = views(images[rows], 2, indices[rows])
            return torch.stack([view_a, view_b, *local_views])

        whole = make(torch.arange(n))
        order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
        for rows in (order, order[:1], order[1:3], order[3:8], order[8:41], torch.arange(n)[49:]):
            assert torch.equal(make(rows), whole[:, rows])
    finally:
        torch.set_num_threads(before)


def test_the_two_views_the_epochs_and_the_seeds_differ():
    images, indices = random_images(1, 24, 24).expand(8, -1, -1, -1), torch.arange(8)
    views = torch.cat(
        [
            *two_views()(images, 0, indices),
            *two_views()(images, 1, indices),
            *two_views(seed=1)(images, 0, indices),
        ]
    )
    assert len(torch.unique(views, dim=0)) == 48


@pytest.mark.parametrize("count", [1, 3])
def test_every_pass_of_a_step_has_the_same_views_and_memory_those_of_one_batch(count):
    made = []

    class Counted(RandomViews):
        def __call__(self, *batch):
            made.append(batch)
            return super().__call__(*batch)

    views = Counted(view_recipes("moco", 8), seed=0)
    batches = [(epoch, torch.arange(4), torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)) for epoch in range(count)]
    step = views.of_step(iter(batches))
    passes = [[torch.stack(pair) for pair in step] for _ in "EM"]
    assert all(torch.equal(one, other) for one, other in zip(*passes, strict=True))
    assert len(made) == (1 if count == 1 else 2 * count)


def test_the_ambient_generator_is_neither_read_nor_moved():
    images, indices = random_images(4, 24, 24), torch.arange(4)
    state = torch.get_rng_state()
    first = two_views()(images, 0, indices)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(12345)
    assert torch.equal(torch.stack(two_views()(images, 0, indices)), torch.stack(first))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (48, 20), (7, 60)])
def test_views_are_normalised_float32_of_the_recipes_size(height, width):
    images, indices = random_images(5, height, width), torch.arange(5)
    views = [*two_views()(images, 0, indices), clean_view(images, EVERYTHING)]
    low, high = ((torch.tensor(v) - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD) for v in (0.0, 1.0))
    for view in views:
        assert view.shape == (5, 3, 24, 24)
        assert view.dtype == torch.float32
        assert view.device == images.device
        assert not view.requires_grad
        assert (view.amin((0, 2, 3)) >= low - 1e-4).all()
        assert (view.amax((0, 2, 3)) <= high + 1e-4).all()


def test_autocast_does_not_reach_the_pixels():
    images, indices = random_images(4, 24, 24), torch.arange(4)
    expected = two_views()(images, 0, indices)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = two_views()(images, 0, indices)
    assert torch.equal(torch.stack(actual), torch.stack(expected))


def test_uint8_and_float_images_give_the_same_views_and_stay_as_they_were():
    images, indices = random_images(8, 30, 24), torch.arange(8)
    as_float = images.float() / 255
    copies = images.clone(), as_float.clone()
    plain = ViewRecipe(size=24, jitter_probability=0.0)
    for recipe in (EVERYTHING, plain):
        views = two_views(recipe)
        assert torch.equal(torch.stack(views(images, 0, indices)), torch.stack(views(as_float, 0, indices)))
        assert torch.equal(clean_view(images, recipe), clean_view(as_float, recipe))
    assert torch.equal(images, copies[0])
    assert torch.equal(as_float, copies[1])
    with pytest.raises(TypeError, match="uint8 or floating point"):
        two_views(plain)(images.long(), 0, indices)


def test_a_view_is_torchvisions_with_the_same_parameters():
    images = random_images(40, 32, 32)
    p = draw_parameters(EVERYTHING, 32, 32, 7, 0, torch.arange(40), 1)
    jitter = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
    expected, clear = [], []
    for i, x in enumerate(images.float() / 255):
        x = tv.resized_crop(x, *(v[i].item() for v in (p.top, p.left, p.height, p.width)), (24, 24), antialias=True)
        x = tv.horizontal_flip(x) if p.flip[i] else x
        for k in p.order[i].tolist() if p.jitter[i] else ():
            x = jitter[k](x, p.factors[i, k].item())
        x = tv.rgb_to_grayscale(x, 3) if p.grayscale[i] else x
        x = tv.gaussian_blur(x, [5, 5], [p.sigma[i].item()] * 2) if p.blur[i] else x
        clear.append((x - 0.5).abs() > 1e-4)  # at the threshold of solarize, rounding decides
        x = tv.solarize(x, 0.5) if p.solarize[i] else x
        expected.append(tv.normalize(x, IMAGENET_MEAN, IMAGENET_STD))
    actual, clear = two_views(seed=7)(images, 0, torch.arange(40))[1], torch.stack(clear)
    assert clear.double().mean() > 0.99
    torch.testing.assert_close(actual[clear], torch.stack(expected)[clear], rtol=0, atol=1e-4)
