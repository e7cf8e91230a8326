"""Claims about MI measured with a fixed critic: lower bounds in nats, with honest intervals and ceilings."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mi_ssl import counter
from hf_mi_ssl.errors import UserError
from hf_mi_ssl.estimators import JSD, TRACKED, CalibratedCosDV, CosDV, InfoNCE, cross_fit, track
from hf_mi_ssl.estimators.calibration import (
    MAX_SCALE,
    best_dv_scale,
    jsd_of_mi,
    mi_of_jsd,
    negative_law,
    platt,
    root,
    sphere_law,
)
from hf_mi_ssl.mi import bounds
from hf_mi_ssl.mi.critics import cosine, score_matrix


def gaussian_pairs(n, dimension, rho, seed):
    generator = torch.Generator().manual_seed(seed)
    a, noise = torch.randn(2, n, dimension, generator=generator)
    return a, rho * a + math.sqrt(1 - rho**2) * noise


def clusters(n, k, seed):
    """Both views are the name of one of k equally likely clusters: MI is log k."""
    z = torch.eye(k)[torch.randint(k, (n,), generator=torch.Generator().manual_seed(seed))]
    return z, z


def test_fixed_temperature_estimates_are_the_bounds_of_the_cosine_matrix():
    a, b = gaussian_pairs(200, 16, 0.7, 0)
    scores = score_matrix(cosine, a, b)
    assert CosDV(0.1).estimate(a, b).value == pytest.approx(bounds.dv(scores / 0.1).item(), abs=1e-6)
    assert InfoNCE(0.1).estimate(a, b).value == pytest.approx(bounds.info_nce(scores / 0.1).item(), abs=1e-6)


def test_calibrated_scales_are_the_maxima():
    a, b = gaussian_pairs(400, 16, 0.7, 0)
    scores = score_matrix(cosine, a, b).double()
    scale = best_dv_scale(scores)
    assert all(bounds.dv(scale * scores) >= bounds.dv((scale + d) * scores) for d in (-0.05, 0.05))
    scale, c = platt(scores.diagonal(), negative_law(scores))
    best = bounds.jsd(scale * scores + c)
    for d_scale, d_c in ((0.1, 0), (-0.1, 0), (0, 0.1), (0, -0.1), (0.1, -0.1)):
        assert best >= bounds.jsd((scale + d_scale) * scores + c + d_c)


@pytest.mark.parametrize("seed", range(3))
def test_the_calibrated_value_is_not_below_any_fixed_temperature(seed):
    a, b = gaussian_pairs(600, 16, 0.7, seed)
    calibrated = cross_fit(CalibratedCosDV(), a, b)
    for temperature in (0.03, 0.07, 0.1, 0.2, 0.5, 1.0):
        fixed = CosDV(temperature).estimate(a, b)
        assert calibrated.value >= fixed.value - 3 * math.hypot(calibrated.standard_error, fixed.standard_error)


@pytest.mark.parametrize("seed", range(8))
def test_independent_embeddings_certify_nothing(seed):
    estimates = track(*gaussian_pairs(400, 16, 0.0, seed), "test")
    for estimate in estimates.values():
        assert estimate.low <= 0
    for name in ("cos_dv_calibrated", "jsd"):  # a fixed temperature may be worse than nothing, a fitted scale is not
        assert estimates[name].low <= 0 <= estimates[name].high
        assert 0 <= estimates[name].value < 0.02


@pytest.mark.parametrize(("dimension", "rho"), [(1, 0.9), (4, 0.5), (4, 0.9), (32, 0.3), (16, 0.6)])
def test_every_estimate_is_below_the_mutual_information_of_gaussians(dimension, rho):
    truth = -dimension / 2 * math.log(1 - rho**2)
    for estimate in track(*gaussian_pairs(600, dimension, rho, dimension), "test").values():
        assert estimate.kind == "lower_bound"
        assert estimate.value <= truth + 3 * estimate.standard_error


def test_clusters_are_measured_to_the_last_bit():
    estimates = track(*clusters(1000, 8, 0), "test")
    for name in ("cos_dv_calibrated", "jsd"):
        assert estimates[name].value == pytest.approx(math.log(8), abs=0.05)
    assert estimates["cos_dv"].value < estimates["cos_dv_calibrated"].value


@settings(max_examples=20, deadline=None)
@given(st.integers(4, 40), st.integers(1, 6), st.floats(0, 1), st.integers(0, 9))
def test_no_estimate_exceeds_log_n_and_intervals_hold_the_value(n, dimension, rho, seed):
    for estimate in track(*gaussian_pairs(n, dimension, rho, seed), "test").values():
        assert estimate.value <= math.log(n) + 1e-6
        assert estimate.ceiling <= math.log(n)
        assert estimate.low <= estimate.value <= estimate.high
        assert estimate.n == n
        assert estimate.split == "test"


@pytest.mark.parametrize("dimension", [1, 2, 3, 8, 64])
def test_ceilings_are_reached_by_perfect_alignment_and_not_passed(dimension):
    a = gaussian_pairs(1000, dimension, 1.0, dimension)[0]
    for name, estimate in track(a, a, "test").items():
        assert abs(estimate.value - estimate.ceiling) <= 3 * estimate.standard_error + 0.01, name
        assert any("ceiling" in warning for warning in estimate.warnings)


def test_alignment_with_few_clusters_stays_below_the_uniform_ceiling():
    """e^{t/τ} is positive definite on the sphere, so that no aligned population has a smaller marginal term."""
    for dimension, temperature in ((2, 0.2), (3, 0.5), (9, 0.1)):
        k = dimension + 1  # a simplex: cosines −1/(k − 1)
        mean = (math.exp(1 / temperature) + (k - 1) * math.exp(-1 / (temperature * (k - 1)))) / k
        assert 1 / temperature - math.log(mean) <= CosDV(temperature).reach(10**6, dimension)


def test_the_interval_of_cos_dv_covers_its_population_value():
    big = [gaussian_pairs(2000, 8, 0.6, 1000 + seed) for seed in range(8)]
    scores = [score_matrix(cosine, a, b).double() / 0.2 for a, b in big]
    positive = torch.stack([s.diagonal().mean() for s in scores]).mean()
    negative = torch.stack([s.diagonal().mean() - bounds.dv(s) for s in scores]).exp().mean().log()
    population = (positive - negative).item()
    estimates = [CosDV().estimate(*gaussian_pairs(200, 8, 0.6, seed)) for seed in range(50)]
    assert sum(e.low <= population <= e.high for e in estimates) >= 42


@pytest.mark.parametrize("make", [CosDV, InfoNCE, CalibratedCosDV, JSD])
def test_influences_are_what_leaving_a_pair_out_changes(make):
    a, b = (z.double() + 0.5 for z in gaussian_pairs(150, 3, 0.6, 0))  # off centre: rows and columns differ
    estimator = make().fit(a, b)
    scores = score_matrix(cosine, a, b)
    value, influence = estimator.influence(scores)
    others = (torch.arange(150) != i for i in range(150))
    jackknife = 149 * torch.tensor([value - estimator.influence(scores[keep][:, keep])[0] for keep in others])
    assert influence.mean().item() == pytest.approx(0, abs=1e-6)
    assert (influence - jackknife).abs().max() < 0.05 * influence.std()


@pytest.mark.parametrize("make", TRACKED.values())
def test_the_standard_error_is_the_spread_over_samples(make):
    estimates = [cross_fit(make(), *gaussian_pairs(200, 8, 0.6, seed)) for seed in range(80)]
    spread = torch.tensor([e.value for e in estimates]).std().item()
    assert sum(e.standard_error for e in estimates) / 80 == pytest.approx(spread, rel=0.25)


def test_huge_scores_stay_finite():
    a, b = gaussian_pairs(50, 1, 0.5, 0)  # cosines are ±1, scores ±500
    for estimator in (CosDV(0.002), InfoNCE(0.002)):
        estimate = estimator.estimate(a, b)
        assert math.isfinite(estimate.value)
        assert math.isfinite(estimate.standard_error)


@pytest.mark.parametrize("make", [CosDV, InfoNCE, CalibratedCosDV, JSD])
def test_the_order_of_the_pairs_does_not_matter(make):
    a, b = gaussian_pairs(200, 8, 0.6, 0)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    one = make().fit(a, b).estimate(a, b)
    other = make().fit(a[order], b[order]).estimate(a[order], b[order])
    assert other.value == pytest.approx(one.value, abs=1e-5)
    assert other.standard_error == pytest.approx(one.standard_error, abs=1e-5)


@pytest.mark.parametrize("make", [CalibratedCosDV, JSD])
def test_cross_fitting_measures_each_half_with_the_critic_of_the_other(make):
    a, b = gaussian_pairs(60, 4, 0.6, 0)
    order = counter.permutation(60, "estimators/halves")
    one, other = order[:30], order[30:]
    parts = [
        make().fit(a[fitted], b[fitted]).measure(score_matrix(cosine, a[measured], b[measured]))
        for fitted, measured in ((one, other), (other, one))
    ]
    mean = make().to_nats((parts[0][0] + parts[1][0]) / 2)
    estimate = cross_fit(make(), a, b)
    assert estimate.value == pytest.approx(mean, abs=1e-6)
    assert estimate.low < mean < estimate.high


def test_track_is_cross_fit_of_each_and_deterministic():
    pairs = gaussian_pairs(101, 8, 0.6, 0)
    estimates = track(*pairs, "test")
    assert estimates == track(*pairs, "test")
    assert estimates == {name: cross_fit(make(), *pairs, split="test") for name, make in TRACKED.items()}


def test_a_collapsed_embedding_shares_nothing():
    z = torch.ones(64, 16)
    for estimate in track(z, z, "test").values():
        assert estimate.value == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_floating_type_is_measured_in_float32_or_wider(dtype):
    a, b = (z.to(dtype) for z in gaussian_pairs(100, 8, 0.6, 0))
    assert cross_fit(CosDV(), a, b).value == pytest.approx(CosDV().estimate(a.double(), b.double()).value, abs=1e-4)


def test_unusable_input_is_a_user_error():
    z = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    bad = z.clone()
    bad[3, 2] = math.nan
    for a, b in ((z, bad), (bad, z), (z, z[:5]), (z[:1], z[:1]), (z[:3], z[:3]), (z[0], z[0])):
        with pytest.raises(UserError):
            track(a, b, "test")
    with pytest.raises(UserError, match="fit"):
        CalibratedCosDV().estimate(z, z)
    with pytest.raises(UserError, match="temperature"):
        CosDV(0.0)


@given(st.floats(0.001, 12))
def test_the_envelope_and_its_inverse_agree(mi):
    assert mi_of_jsd(jsd_of_mi(mi)) == pytest.approx(mi, abs=1e-5)


@given(st.lists(st.floats(0.01, 1), min_size=3, max_size=3), st.lists(st.floats(0.01, 1), min_size=3, max_size=3))
def test_no_pair_of_distributions_passes_the_envelope(p, q):
    p, q = (torch.tensor(x, dtype=torch.float64) / sum(x) for x in (p, q))
    kl = (p * (p / q).log()).sum().item()
    m = (p + q) / 2
    jsd = ((p * (p / m).log()).sum() + (q * (q / m).log()).sum()).item() / 2
    assert mi_of_jsd(jsd) <= kl + 1e-8


@given(st.floats(-2, 2), st.floats(0.5, 50))
def test_the_root_of_a_falling_function_is_found_or_its_nearer_end(target, steepness):
    def function(x):
        return math.tanh(steepness * (target - x)), -steepness * (1 - math.tanh(steepness * (target - x)) ** 2)

    assert root(function, -1.0, 1.0) == pytest.approx(min(1.0, max(-1.0, target)), abs=1e-6)


@pytest.mark.parametrize("dimension", [1, 2, 3, 10, 500])
def test_the_cosine_of_random_directions_has_mean_0_and_variance_1_over_d(dimension):
    t, w = sphere_law(dimension)
    assert (w @ t).item() == pytest.approx(0, abs=1e-9)
    assert (w @ t.square()).item() == pytest.approx(1 / dimension, rel=1e-6)
    reach = MAX_SCALE - torch.logsumexp(w.log() + MAX_SCALE * t, 0).item()
    assert CalibratedCosDV().reach(100, dimension) == pytest.approx(reach, abs=2e-3)
