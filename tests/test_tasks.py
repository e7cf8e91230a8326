"""The known truth is true: every task's mutual information against a computation that shares no code with it."""

import math

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from hf_mi_ssl.errors import UserError
from hf_mi_ssl.estimators.tasks import TASKS, _directions, rotated
from tests.test_shapes import decode_content, decode_style


def draw(name, n, seed=1):
    """In float64, before the rounding of `sample`."""
    return TASKS[name].draw(n, torch.Generator().manual_seed(seed))


def assert_mean_is(log_ratio, truth):
    """The mean of log p(a, b)/p(a)p(b) over the joint law is the MI."""
    assert abs(log_ratio.mean() - truth) < 4 * log_ratio.std() / math.sqrt(len(log_ratio))
    assert log_ratio.std() / math.sqrt(len(log_ratio)) < 0.02 * truth


@pytest.mark.parametrize("name", list(TASKS))
def test_a_sample_is_a_function_of_n_and_the_seed(name):
    n = 8 if name.startswith("shapes") else 64
    first, again, other = (TASKS[name].sample(n, seed) for seed in (3, 3, 4))
    assert all(z.shape[0] == n and z.dtype == torch.float32 and z.isfinite().all() for z in first)
    assert all(map(torch.equal, first, again))
    assert not any(map(torch.equal, first, other))
    with pytest.raises(UserError, match="at least one pair"):
        TASKS[name].sample(0)


@pytest.mark.parametrize(
    "name", ["gaussian_2d_1", "gaussian_5d_2", "gaussian_20d_5", "gaussian_64d_3", "rotated_16d_3"]
)
def test_gaussians_have_the_mean_log_density_ratio_that_they_claim(name):
    a, b = draw(name, 40_000)
    d, truth = a.shape[1], TASKS[name].mutual_information()
    assert truth == float(name.split("_")[2])
    rho = math.sqrt(1 - math.exp(-2 * truth / d))
    eye = torch.eye(d, dtype=torch.float64)
    cross = rho * (rotated(eye) if name.startswith("rotated") else eye)
    joint = MultivariateNormal(
        torch.zeros(2 * d).double(), torch.cat([torch.cat([eye, cross], 1), torch.cat([cross.T, eye], 1)])
    )
    alone = MultivariateNormal(torch.zeros(d).double(), eye)
    assert_mean_is(joint.log_prob(torch.cat([a, b], 1)) - alone.log_prob(a) - alone.log_prob(b), truth)


def unspiral(z):
    angle, (x, y) = -z.square().sum(1), z[:, :2].T
    return torch.stack([angle.cos() * x - angle.sin() * y, angle.sin() * x + angle.cos() * y, z[:, 2]], 1)


def places(images):
    """The blobs' coordinates, from the ratio of two neighbouring pixels: log p(x + 1) − log p(x) = m − x − ½"""
    tiles = images.view(-1, 2, 8, 2, 8).transpose(2, 3).reshape(-1, 4, 8, 8).log()
    found = torch.stack([tiles[:, :, 4, 3] - tiles[:, :, 3, 3], tiles[:, :, 3, 4] - tiles[:, :, 3, 3]], 2) + 4
    return torch.special.ndtri((found.flatten(1) - 1) / 6)


@pytest.mark.parametrize(
    ("name", "original", "inverse_a", "inverse_b"),
    [
        ("cubic_5d_2", "gaussian_5d_2", lambda z: z.sign() * z.abs() ** (1 / 3), lambda z: z),
        ("half_cube_5d_2", "gaussian_5d_2", lambda z: z.sign() * z.abs() ** (2 / 3), None),
        ("uniform_margins_5d_2", "gaussian_5d_2", torch.special.ndtri, None),
        ("asinh_student_3d", "student_3d", torch.sinh, None),
        ("spiral_3d", None, unspiral, None),
        ("blob_images", None, places, None),
        ("rotated_16d_3", None, lambda z: z, lambda z: z @ torch.linalg.inv(rotated(torch.eye(16).double()))),
    ],
)
def test_maps_are_injective_so_that_the_information_is_that_of_what_they_map(name, original, inverse_a, inverse_b):
    found = [inverse(z) for inverse, z in zip((inverse_a, inverse_b or inverse_a), draw(name, 2000))]
    if original:
        expected = draw(original, 2000)
        assert TASKS[name].mutual_information() == TASKS[original].mutual_information()
    else:  # a Gaussian of that size and information
        d, truth = found[0].shape[1], TASKS[name].mutual_information()
        rho = math.sqrt(1 - math.exp(-2 * truth / d))
        expected = torch.randn(2, 2000, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        expected[1] = rho * expected[0] + math.sqrt(1 - rho**2) * expected[1]
    for z, ours in zip(expected, found):
        assert torch.allclose(z, ours, atol=1e-6)


def test_student_has_the_mean_log_density_ratio_that_it_claims():
    a, b = draw("student_3d", 200_000)
    rho = math.sqrt(1 - math.exp(-2 / 3))

    def log_density(d, square, log_determinant):  # of the multivariate t with 2 degrees of freedom
        constant = math.lgamma(1 + d / 2) - math.lgamma(1) - d / 2 * math.log(2 * math.pi) - log_determinant / 2
        return constant - (1 + d / 2) * torch.log1p(square / 2)

    both = ((a**2 + b**2 - 2 * rho * a * b) / (1 - rho**2)).sum(1)
    joint = log_density(6, both, 3 * math.log(1 - rho**2))
    alone = [log_density(3, z.square().sum(1), 0.0) for z in (a, b)]
    assert_mean_is(joint - alone[0] - alone[1], TASKS["student_3d"].mutual_information())
    assert TASKS["student_3d"].mutual_information() == pytest.approx(1 + 0.290922, abs=1e-6)  # as in 2306.11078


def test_uniform_noise_has_the_entropies_that_quadrature_finds():
    w, t = 0.3, torch.linspace(-0.3, 1.3, 200_001, dtype=torch.float64)
    density = ((t + w).clamp(0, 1) - (t - w).clamp(0, 1)) / (2 * w)
    entropy = -torch.trapezoid(torch.special.xlogy(density, density), t).item()
    truth = TASKS["uniform_noise_3d"].mutual_information()
    assert truth == pytest.approx(3 * (entropy - math.log(2 * w)), abs=1e-6)  # h(b) − h(b | a)
    a, b = draw("uniform_noise_3d", 1000)
    assert (b - a).abs().max() <= w
    assert (a - 0.5).abs().max() <= 0.5


def test_noisy_labels_have_the_information_of_their_table():
    a, b = draw("noisy_labels", 400_000)
    table = (a.T @ b).double() / len(a)
    expected = torch.full((10, 10), 0.2 / 90, dtype=torch.float64).fill_diagonal_(0.08)
    assert (table - expected).abs().max() < 4 * math.sqrt(0.08 / len(a))
    information = (expected * (expected * 100).log()).sum().item()
    assert TASKS["noisy_labels"].mutual_information() == pytest.approx(information, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "k", "d", "spread", "shared", "variance", "covariance"),
    [("mixture_labels_5d", 8, 5, 10.0, False, 1.0, 0.0), ("mixture_views_16d", 8, 16, 4.0, True, 2.0, 1.0)],
)
def test_mixtures_have_the_mean_log_density_ratio_that_they_claim(name, k, d, spread, shared, variance, covariance):
    centres = (spread * _directions(2 - shared, k, d)).expand(2, -1, -1)
    eye = torch.eye(d, dtype=torch.float64)
    cross = torch.cat(
        [torch.cat([variance * eye, covariance * eye], 1), torch.cat([covariance * eye, variance * eye], 1)]
    )

    def log_density(z, means, covariances):
        law = MixtureSameFamily(Categorical(torch.ones(k).double()), MultivariateNormal(means, covariances))
        return law.log_prob(z)

    a, b = draw(name, 20_000)
    joint = log_density(torch.cat([a, b], 1), torch.cat(list(centres), 1), cross)
    alone = [log_density(z, means, variance * eye) for z, means in zip((a, b), centres)]
    assert_mean_is(joint - alone[0] - alone[1], TASKS[name].mutual_information())


def test_the_shared_factor_is_read_off_every_image_at_the_sizes_of_the_tasks():
    style = [decode_style((z.view(-1, 3, 32, 32) + 1) * 127.5) for z in TASKS["shapes_style"].sample(512, seed=5)]
    assert torch.equal(*style)
    content = [
        decode_content(((z.view(-1, 1, 64, 64) + 1) * 127.5).expand(-1, 3, -1, -1))
        for z in TASKS["shapes_content"].sample(200, seed=5)
    ]
    assert torch.equal(*content)
    for factor in (style[0], content[0]):
        assert len(factor.unique()) == 8
    assert TASKS["shapes_style"].mutual_information() == TASKS["shapes_content"].mutual_information() == math.log(8)
