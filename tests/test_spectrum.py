"""Ranks, collapse and shape of embeddings, against closed forms."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mi_ssl.evaluation import (
    alignment,
    alpha_req,
    canonical_correlations,
    dead_dimensions,
    effective_rank,
    embedding_std,
    koziol_kurtosis,
    largest_norm,
    lidar,
    mardia_skewness,
    mean_cosine,
    nc1,
    participation_ratio,
    rankme,
    uniformity,
)
from hf_mi_ssl.evaluation.geometry import costly_geometry, tracked_geometry


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_spectrum(eigenvalues, n=200, mean=0.0):
    """(n, D) whose covariance has exactly these eigenvalues, in a random basis."""
    d = len(eigenvalues)
    scores = torch.linalg.qr(torch.cat([torch.ones(n, 1).double(), normal(n, d)], 1))[0][:, 1:]
    basis = torch.linalg.qr(normal(d, d, seed=1))[0]
    return mean + scores * (n * torch.as_tensor(eigenvalues, dtype=torch.float64)).sqrt() @ basis


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0.01, 10), min_size=2, max_size=30))
def test_the_participation_ratio_is_that_of_the_eigenvalues_and_below_the_effective_rank(eigenvalues):
    z = with_spectrum(eigenvalues, mean=3.0)
    total = sum(eigenvalues)
    assert participation_ratio(z) == pytest.approx(total**2 / sum(e * e for e in eigenvalues), rel=1e-6)
    assert participation_ratio(z) <= effective_rank(z) + 1e-6


@pytest.mark.parametrize("alpha", [0.3, 1.0, 2.5])
def test_a_power_law_is_read_off_exactly(alpha):
    eigenvalues = [i**-alpha for i in range(1, 101)]
    assert alpha_req(with_spectrum(eigenvalues, mean=5.0)) == pytest.approx(alpha, abs=1e-6)
    assert alpha_req(7 * with_spectrum(eigenvalues)) == pytest.approx(alpha, abs=1e-6)


def test_one_direction_decays_at_once():
    assert alpha_req(normal(50, 1) @ normal(1, 8, seed=1)) == math.inf
    assert alpha_req(torch.ones(50, 8)) == math.inf


def groups_of(between, within, n=400, q=10):
    """n images of q views whose scatter between images and within them is exactly diagonal."""
    d = len(between)
    means = with_spectrum(torch.ones(d), n)  # white up to a rotation that does not mix: made diagonal below
    means = torch.linalg.qr(means - means.mean(0))[0] * n**0.5 * torch.as_tensor(between).double().sqrt()
    views = normal(n, q, d, seed=2)
    views = views - views.mean(1, keepdim=True)
    white = torch.linalg.qr(views.reshape(n * q, d))[0].reshape(n, q, d) * (n * q) ** 0.5
    return 4 + means[:, None] + white * torch.as_tensor(within).double().sqrt()


def test_lidar_is_the_rank_of_between_over_within_scatter():
    between, within = [4.0, 1.0, 1.0, 0.5, 0.0], [1.0, 0.1, 2.0, 0.5, 3.0]
    p = torch.tensor([b / (w + 1e-4) for b, w in zip(between, within)]).double()
    p /= p.sum()
    assert lidar(groups_of(between, within)) == pytest.approx(math.exp(-torch.xlogy(p, p).sum()), rel=1e-6)


def test_lidar_tells_noise_from_what_differs_between_images_and_rankme_does_not():
    # Three directions of content, thirteen of noise that differs between the views of one image.
    z = groups_of([1.0] * 3 + [0.01] * 13, [0.05] * 3 + [1.0] * 13)
    assert lidar(z) < 4
    assert effective_rank(z.reshape(-1, 16)) > 12
    assert lidar(torch.ones(20, 4, 5)) == 1


def test_views_of_one_gaussian_have_its_canonical_correlations_and_independent_ones_none():
    rho = torch.tensor([0.95, 0.7, 0.3, 0.0], dtype=torch.float64)
    z_a = normal(20_000, 4)
    z_b = rho * z_a + (1 - rho**2).sqrt() * normal(20_000, 4, seed=1)
    found = canonical_correlations(3 + z_a @ normal(4, 4, seed=2), z_b @ normal(4, 4, seed=3))  # invariant to maps
    assert found.tolist() == pytest.approx(rho.tolist(), abs=0.03)
    independent = canonical_correlations(normal(200, 20), normal(200, 20, seed=1))  # in-sample, the first is 0.6
    assert abs(independent.mean()) < 3 / math.sqrt(200 * 20)


def test_canonical_correlations_do_not_depend_on_the_order_of_classes():
    """Halves of sorted images would be of different classes: what one half chose is nothing to the other."""
    kinds = torch.arange(2000) * 10 // 2000
    centres = 3 * normal(10, 16)[kinds]
    a, b = centres + normal(2000, 16, seed=1), centres + normal(2000, 16, seed=2)
    order = torch.randperm(2000, generator=torch.Generator().manual_seed(0))
    found = [canonical_correlations(*views).mean().item() for views in ((a, b), (a[order], b[order]))]
    assert found[0] == pytest.approx(found[1], abs=0.02)


@pytest.mark.parametrize("shape", [(40, 64), (17, 3)])
def test_canonical_correlations_of_few_pairs_or_a_constant_are_numbers(shape):
    z = normal(*shape)
    for other in (z, normal(*shape, seed=1), torch.ones(*shape), z[:, :1].expand(*shape)):
        found = canonical_correlations(z, other)
        assert found.isfinite().all()
        assert found.abs().max() <= 1 + 1e-9


def test_collapse_and_uniformity_of_known_embeddings():
    z = normal(1500, 12)
    unit = F.normalize(z, dim=1)
    off = ~torch.eye(1500, dtype=torch.bool)
    assert mean_cosine(5 * z) == pytest.approx((unit @ unit.T)[off].mean().item(), abs=1e-9)
    distances = torch.cdist(unit, unit).square()[off]
    assert uniformity(5 * z) == pytest.approx(torch.exp(-2 * distances).mean().log().item(), abs=1e-9)
    constant = torch.full((100, 6), 0.7)
    for dead in (constant, torch.zeros(100, 6)):
        assert (mean_cosine(dead), uniformity(dead)) == pytest.approx((1, 0), abs=1e-9)
    other = normal(1500, 12, seed=1)
    assert alignment(z, 3 * z) == pytest.approx(0, abs=1e-12)
    assert alignment(z, other) == pytest.approx(2 - 2 * F.cosine_similarity(z, other).mean().item(), abs=1e-9)


def test_a_cone_has_a_high_mean_cosine_and_a_healthy_effective_rank():
    z = 5 * F.one_hot(torch.tensor(0), 16) + 0.5 * normal(500, 16)
    assert mean_cosine(z) > 0.8
    assert effective_rank(z) > 14
    assert rankme(z) < 14


def test_one_long_embedding_takes_the_rank_of_all_and_not_that_of_directions():
    z = normal(500, 16)
    z[3] *= 1000
    assert largest_norm(z) == pytest.approx((z[3].norm() / z.norm(dim=1).median()).item())
    geometry = tracked_geometry(z, z)
    assert geometry["rank/effective_rank"] < 1.1
    assert geometry["rank/effective_rank_of_directions"] > 15
    assert largest_norm(torch.zeros(9, 4)) == 1
    assert largest_norm(F.one_hot(torch.arange(4), 9).T.double()) < math.inf  # most are 0


def third_and_fourth(z):
    return mardia_skewness(z), koziol_kurtosis(z)


def test_skewness_and_kurtosis_of_independent_dimensions_are_sums_of_those_of_one():
    """E (xᵀy)³ = Σ γ_k², E (xᵀy)⁴ = Σ κ_k² + 3 D (D − 1): exponential γ = 2, κ = 9; uniform 0, 9/5; normal 0, 3."""
    n, d = 5_000, 3
    uniform = torch.rand(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    basis = normal(d, d, seed=5)
    skewness, kurtosis = third_and_fourth(normal(n, d) @ basis)
    assert skewness == pytest.approx(0, abs=0.1)
    assert kurtosis == pytest.approx(3 * d * (d + 2), rel=0.05)
    skewness, kurtosis = third_and_fourth(uniform @ basis + 2)
    assert skewness == pytest.approx(0, abs=0.1)
    assert kurtosis == pytest.approx(d * 1.8**2 + 3 * d * (d - 1), rel=0.05)
    skewness, _ = third_and_fourth(-uniform.log() @ basis)
    assert skewness == pytest.approx(4 * d, rel=0.1)


def test_nc1_is_the_trace_of_its_definition_and_0_for_points():
    labels = torch.arange(300) % 5 * 7  # labels of any values
    means = 3 * normal(5, 9)
    h = means[labels // 7] + normal(300, 9, seed=1)
    centres = torch.stack([h[labels == c].mean(0) for c in labels.unique()])
    within = sum((h[labels == c] - m).T @ (h[labels == c] - m) for c, m in zip(labels.unique(), centres)) / 300
    between = (centres - centres.mean(0)).T @ (centres - centres.mean(0)) / 5
    expected = torch.trace(within @ torch.linalg.pinv(between, rtol=1e-10)).item() / 5
    assert nc1(h, labels) == pytest.approx(expected, rel=1e-6)
    assert nc1(10 * h + 1, labels) == pytest.approx(expected, rel=1e-6)  # no scale, no origin
    assert nc1(means[labels // 7], labels) == pytest.approx(0, abs=1e-12)


def test_nc1_of_one_class_or_of_classes_in_one_place_does_not_exist():
    h = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    assert nc1(h, torch.zeros(30).long()) is None
    assert nc1(torch.cat([h, h]), torch.arange(60) // 30) is None


def test_dead_dimensions_are_counted_where_the_mean_spread_hides_them():
    z = torch.randn(500, 16, generator=torch.Generator().manual_seed(0))
    assert dead_dimensions(z) == 0
    z[:, :4] = 0
    assert embedding_std(z) > 0.8
    assert dead_dimensions(z) == 0.25
    assert dead_dimensions(torch.ones(10, 4)) == 1


@pytest.mark.parametrize("z", [torch.zeros(20, 4), torch.full((20, 4), 0.1), normal(20, 1), normal(9, 40).float()])
def test_everything_that_is_measured_is_a_number_whatever_the_embeddings_are(z):
    assert all(math.isfinite(value) for value in tracked_geometry(z, z).values())
    embeddings = {"z_a": z, "z_b": z.flip(0), "h_a": z}
    measured = costly_geometry(embeddings, {"z": torch.stack([z, z], 1), "h": torch.stack([z, z.flip(0)], 1)})
    assert all(math.isfinite(value) and n == len(z) for value, n, _ in measured.values())
