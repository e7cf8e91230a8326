"""Claims about MI measured with a fixed critic: lower bounds in nats, with honest intervals and ceilings."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mi_ssl import counter
from hf_mi_ssl.errors import UserError
from hf_mi_ssl.estimators import NWJ, TRACKED, CalibratedCosDV, CosDV, InfoNCE, cross_fit, track
from hf_mi_ssl.estimators.fixed import ESTIMATORS
from hf_mi_ssl.estimators.fixed_critic import cross_fit_all, hold_out_all
from hf_mi_ssl.estimators.result import cut
from hf_mi_ssl.estimators.streamed import Cosines
from hf_mi_ssl.mi.critics import cosine, score_matrix
from hf_mi_ssl.mi.pairs import log_mean_exp, off_diagonal

BOUNDS = {name: make for name, make in ESTIMATORS.items() if make.kind == "lower_bound"}
FITTED = {name: make for name, make in ESTIMATORS.items() if make.fits}


def gaussian_pairs(n, dimension, rho, seed):
    generator = torch.Generator().manual_seed(seed)
    a, noise = torch.randn(2, n, dimension, generator=generator)
    return a, rho * a + math.sqrt(1 - rho**2) * noise


def clusters(n, k, seed):
    """Both views are the name of one of k equally likely clusters: MI is log k."""
    z = torch.eye(k)[torch.randint(k, (n,), generator=torch.Generator().manual_seed(seed))]
    return z, z


def cross_fit_each(estimators, *pairs):
    return cross_fit_all({name: make() for name, make in estimators.items()}, *pairs)


def measure(estimator, pairs, method="influence"):
    kernel = estimator.kernel()
    return getattr(estimator, method)(pairs.positives, pairs.sums([kernel]).get(kernel))


@pytest.mark.parametrize("seed", range(3))
def test_the_calibrated_value_is_not_below_any_fixed_temperature(seed):
    a, b = gaussian_pairs(600, 16, 0.7, seed)
    calibrated = cross_fit(CalibratedCosDV(), a, b)
    for temperature in (0.03, 0.07, 0.1, 0.2, 0.5, 1.0):
        fixed = CosDV(temperature).estimate(a, b)
        assert calibrated.value >= fixed.value - 3 * math.hypot(calibrated.standard_error, fixed.standard_error)


@pytest.mark.parametrize("seed", range(8))
def test_independent_embeddings_certify_nothing(seed):
    estimates = cross_fit_each(ESTIMATORS, *gaussian_pairs(400, 16, 0.0, seed))
    for estimate in estimates.values():
        assert estimate.low <= 0
    for name in FITTED:  # a fixed temperature may be worse than nothing, a fitted scale is not
        assert estimates[name].low <= 0 <= estimates[name].high
        assert 0 <= estimates[name].value < 0.02


@pytest.mark.parametrize(("dimension", "rho"), [(1, 0.9), (4, 0.5), (4, 0.9), (32, 0.3), (16, 0.6)])
def test_bounds_are_ordered_and_below_the_mutual_information_of_gaussians(dimension, rho):
    truth = -dimension / 2 * math.log(1 - rho**2)
    estimates = cross_fit_each(BOUNDS, *gaussian_pairs(600, dimension, rho, dimension))
    for name, estimate in estimates.items():
        assert estimate.kind == "lower_bound"
        assert estimate.value <= truth + 3 * estimate.standard_error, name
    assert estimates["cos_dv"].value <= estimates["row_wise_dv"].value


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 40), st.integers(1, 6), st.floats(0, 1), st.floats(0.002, 1), st.integers(0, 9))
def test_info_nce_is_at_most_log_n_before_any_cut(n, dimension, rho, temperature, seed):
    pairs = Cosines(*gaussian_pairs(n, dimension, rho, seed))
    assert measure(InfoNCE(temperature), pairs)[0] <= math.log(n) + 1e-6


def test_info_nce_reaches_log_n_where_donsker_varadhan_passes_it():
    a = gaussian_pairs(30, 8, 1.0, 0)[0]
    info_nce, dv = (measure(make(0.01), Cosines(a, a))[0] for make in (InfoNCE, CosDV))
    assert info_nce == pytest.approx(math.log(30), abs=1e-3)
    assert dv > 2 * math.log(30)


def test_clusters_are_measured_to_the_last_bit():
    estimates = cross_fit_each(ESTIMATORS, *clusters(1000, 8, 0))
    for name in ("cos_dv_calibrated", "nwj", "jsd", "density_ratio", "smile"):
        assert estimates[name].value == pytest.approx(math.log(8), abs=0.05)
    assert estimates["cos_dv"].value < estimates["cos_dv_calibrated"].value


@settings(max_examples=20, deadline=None)
@given(st.integers(4, 40), st.integers(1, 6), st.floats(0, 1), st.integers(0, 9))
def test_no_estimate_exceeds_log_n_and_intervals_hold_the_value(n, dimension, rho, seed):
    for estimate in cross_fit_each(ESTIMATORS, *gaussian_pairs(n, dimension, rho, seed)).values():
        assert estimate.value <= math.log(n) + 1e-6
        assert estimate.ceiling <= math.log(n)
        assert estimate.low <= estimate.value <= estimate.high
        assert (estimate.n, estimate.split) == (n, "held-out")


def test_halves_that_are_cross_fitted_certify_the_log_of_a_half():
    a = gaussian_pairs(101, 64, 1.0, 0)[0]
    for name, estimate in cross_fit_each(ESTIMATORS, a, a).items():
        size = 50 if name in FITTED else 101
        assert estimate.value <= math.log(size)
        assert estimate.ceiling <= math.log(size)
    assert cross_fit(CalibratedCosDV(), a, a).ceiling == math.log(50)
    assert CalibratedCosDV().fit(a, a).estimate(a, a).ceiling == math.log(101)


def test_few_pairs_of_few_kinds_are_above_the_truth_and_warned_of():
    """Of ten clusters, in equal shares as data sets are: two of one kind meet too rarely among a few."""
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    z = torch.eye(10)[order % 10]
    few, many = cross_fit(CalibratedCosDV(), z, z), cross_fit(CalibratedCosDV(), *clusters(400, 10, 0))
    assert few.value > math.log(10) + 0.1
    assert any("nats above the truth" in warning for warning in few.warnings)
    assert not any("above the truth" in warning for warning in many.warnings)


@pytest.mark.parametrize(("kinds", "each"), [(50, 5), (100, 5)])
def test_many_kinds_of_few_images_are_above_the_truth_and_warned_of(kinds, each):
    order = torch.randperm(kinds * each, generator=torch.Generator().manual_seed(0))
    z = torch.eye(kinds)[order % kinds]
    for name in ("cos_dv_calibrated", "jsd"):
        estimate = cross_fit(ESTIMATORS[name](), z, z)
        assert estimate.low > math.log(kinds) + 0.1  # the interval does not see it
        assert any("nats above the truth" in warning for warning in estimate.warnings)


def test_only_a_fixed_temperature_is_blamed_for_a_negative_value():
    a, b = gaussian_pairs(400, 16, 0.0, 0)
    for name, estimate in cross_fit_each(ESTIMATORS, a, b).items():
        blamed = any("temperature" in warning for warning in estimate.warnings)
        assert blamed == (name not in FITTED), name


def test_a_value_that_is_cut_keeps_the_width_of_its_interval_inside():
    assert cut(5.0, 6.0, 7.0, 0.0, 4.0) == (3.0, 4.0, 4.0)
    assert cut(-2.0, -1.5, -1.0, 0.0, 4.0) == (0.0, 0.0, 0.5)
    assert cut(1.0, 2.0, 3.0, 0.0, 4.0) == (1.0, 2.0, 3.0)
    # One number tells all pairs apart: beyond log n whatever n is
    a = gaussian_pairs(80, 64, 1.0, 0)[0]
    estimate = NWJ().fit(a, a).estimate(a + 0.05 * gaussian_pairs(80, 64, 1.0, 1)[0], a)
    assert estimate.low < estimate.value == math.log(80) == estimate.high


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_the_length_of_embeddings_does_not_matter_however_large(scale):
    a, b = gaussian_pairs(100, 8, 0.9, 0)
    for name, estimate in cross_fit_each(ESTIMATORS, a, b).items():
        other = cross_fit(ESTIMATORS[name](), a * scale, b * scale)
        assert other.value == pytest.approx(estimate.value, abs=1e-5)
    assert estimate.value > 0.5


@pytest.mark.parametrize("dimension", [1, 2, 3, 8, 64])
def test_ceilings_are_reached_by_perfect_alignment_and_not_passed(dimension):
    a = gaussian_pairs(1000, dimension, 1.0, dimension)[0]
    for name, estimate in cross_fit_each(ESTIMATORS, a, a).items():
        assert abs(estimate.value - estimate.ceiling) <= 3 * estimate.standard_error + 0.01, name
        if name != "nwj":  # its variance grows like e^{2 MI}
            assert estimate.saturated
            assert any("ceiling" in warning for warning in estimate.warnings)


def test_an_estimate_is_saturated_above_90_percent_of_its_ceiling():
    weak, strong = (CosDV().estimate(*gaussian_pairs(300, 64, rho, 0)) for rho in (0.5, 0.999))
    assert (weak.saturated, strong.saturated) == (False, True)
    assert weak.value < 0.9 * weak.ceiling < strong.value


@pytest.mark.parametrize("name", ["density_ratio", "smile"])
def test_a_plug_in_says_that_it_is_no_bound(name):
    estimate = cross_fit(ESTIMATORS[name](), *gaussian_pairs(100, 4, 0.5, 0))
    assert estimate.kind == "plugin"
    assert any("not a bound" in warning for warning in estimate.warnings)
    assert any("leaves out the error of the fit" in warning for warning in estimate.warnings)


def test_the_interval_of_the_density_ratio_is_that_of_its_fitted_logits():
    """Of clusters all its error is that of the fit: with the fit done again it would cover next to nothing."""
    fixed = ESTIMATORS["density_ratio"]().fit(*clusters(400, 8, 0))
    population = fixed.estimate(*clusters(4000, 8, 1)).value
    again = [cross_fit(ESTIMATORS["density_ratio"](), *clusters(200, 8, seed)) for seed in range(10)]
    assert sum(e.low <= math.log(8) <= e.high for e in again) <= 1
    assert all(any("no width" in warning for warning in e.warnings) for e in again)
    estimates = [fixed.estimate(*clusters(200, 8, 100 + seed)) for seed in range(50)]
    assert all(e.low - 1e-6 <= population <= e.high + 1e-6 for e in estimates)


def test_smile_does_not_change_with_the_scale_and_shift_of_its_critic():
    """Fed with cosine/τ it reads far above the truth: clipping must meet a fitted log-ratio."""
    a, b = gaussian_pairs(1000, 8, 0.8, 0)
    truth = -4 * math.log(1 - 0.8**2)
    scores = score_matrix(cosine, a, b) / 0.05
    raw = scores.diagonal().mean() - log_mean_exp(off_diagonal(scores).clamp(-5, 5))
    assert raw > truth + 3
    assert abs(cross_fit(ESTIMATORS["smile"](), a, b).value - truth) < 1


def test_nwj_on_other_pairs_is_the_donsker_varadhan_bound_up_to_the_error_of_the_fit():
    estimates = cross_fit_each(BOUNDS, *gaussian_pairs(1000, 8, 0.6, 0))
    assert estimates["nwj"].value == pytest.approx(estimates["cos_dv_calibrated"].value, abs=0.01)
    pairs = gaussian_pairs(500, 8, 0.6, 1)
    dv, nwj = (make().fit(*pairs).estimate(*pairs).value for make in (CalibratedCosDV, NWJ))
    assert nwj == pytest.approx(dv, abs=1e-5)  # on the pairs of the fit the offset is the best one


def test_alignment_with_few_clusters_stays_below_the_uniform_ceiling():
    """e^{t/τ} is positive definite on the sphere, so that no aligned population has a smaller marginal term."""
    for dimension, temperature in ((2, 0.2), (3, 0.5), (9, 0.1)):
        k = dimension + 1  # a simplex: cosines −1/(k − 1)
        mean = (math.exp(1 / temperature) + (k - 1) * math.exp(-1 / (temperature * (k - 1)))) / k
        assert 1 / temperature - math.log(mean) <= CosDV(temperature).reach(10**6, dimension)


@pytest.mark.parametrize("make", ESTIMATORS.values())
def test_the_interval_covers_the_population_value_of_the_fixed_critic(make):
    def off_centre(n, seed):
        return (z + 0.3 for z in gaussian_pairs(n, 6, 0.6, seed))  # so that rows and columns differ

    estimator = make().fit(*off_centre(400, 1))
    n = 200 if make is InfoNCE else 1000  # what InfoNCE estimates depends on n
    population = [estimator.estimate(*off_centre(n, 1000 + seed)).value for seed in range(24_000 // n)]
    population = sum(population) / len(population)
    estimates = [estimator.estimate(*off_centre(200, 100 + seed)) for seed in range(50)]
    assert sum(e.low <= population <= e.high for e in estimates) >= 42


@pytest.mark.parametrize("make", ESTIMATORS.values())
def test_influences_are_what_leaving_a_pair_out_changes(make):
    a, b = (z.double() + 0.5 for z in gaussian_pairs(150, 3, 0.6, 0))  # off centre: rows and columns differ
    estimator, pairs = make().fit(a, b), Cosines(a, b)
    value, influence = measure(estimator, pairs)
    others = (torch.arange(150) != i for i in range(150))
    jackknife = 149 * torch.tensor([value - measure(estimator, pairs[keep])[0] for keep in others])
    assert influence.mean().item() == pytest.approx(0, abs=1e-6)
    assert (influence - jackknife).abs().max() < 0.05 * influence.std()


@pytest.mark.parametrize("make", TRACKED.values())
def test_the_standard_error_is_the_spread_over_samples(make):
    estimates = [cross_fit(make(), *gaussian_pairs(200, 8, 0.6, seed)) for seed in range(80)]
    spread = torch.tensor([e.value for e in estimates]).std().item()
    assert sum(e.standard_error for e in estimates) / 80 == pytest.approx(spread, rel=0.25)


@pytest.mark.parametrize("make", ESTIMATORS.values())
def test_the_order_of_the_pairs_does_not_matter(make):
    a, b = gaussian_pairs(200, 8, 0.6, 0)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    one = make().fit(a, b).estimate(a, b)
    other = make().fit(a[order], b[order]).estimate(a[order], b[order])
    assert other.value == pytest.approx(one.value, abs=1e-5)
    assert other.standard_error == pytest.approx(one.standard_error, abs=1e-5)


@pytest.mark.parametrize("make", FITTED.values())
def test_cross_fitting_measures_each_half_with_the_critic_of_the_other(make):
    a, b = gaussian_pairs(60, 4, 0.6, 0)
    order = counter.permutation(60, "estimators/halves")
    one, other = order[:30], order[30:]
    parts = [
        measure(make().fit(a[fitted], b[fitted]), Cosines(a[measured], b[measured]))[0]
        for fitted, measured in ((one, other), (other, one))
    ]
    mean = make().to_nats(sum(parts) / 2)
    estimate = cross_fit(make(), a, b)
    assert estimate.value == pytest.approx(mean, abs=1e-6)
    assert estimate.low < mean < estimate.high


def test_track_is_cross_fit_of_each_and_deterministic():
    pairs = gaussian_pairs(101, 8, 0.6, 0)
    estimates = track(*pairs, "test")
    assert estimates == track(*pairs, "test")
    assert estimates == {name: cross_fit(make(), *pairs, split="test") for name, make in TRACKED.items()}


def test_held_out_estimators_that_share_passes_say_what_each_alone_does():
    a, b = gaussian_pairs(120, 8, 0.6, 0)
    together = hold_out_all({name: make() for name, make in ESTIMATORS.items()}, a, b, 90, "test")
    assert list(together) == list(ESTIMATORS)
    for name, make in ESTIMATORS.items():
        known = 90 if make.fits else 0
        alone = make()
        if known:
            alone.fit(a[:known], b[:known])
        assert together[name] == alone.estimate(a[known:], b[known:], "test")


@pytest.mark.parametrize("z", [torch.ones(64, 16), torch.zeros(64, 16)])
def test_a_collapsed_embedding_shares_nothing_and_its_interval_is_warned_of(z):
    for estimate in cross_fit_each(ESTIMATORS, z, z).values():
        assert estimate.value == pytest.approx(0, abs=1e-3)
        assert estimate.standard_error < 1e-12
        assert any("no width" in warning for warning in estimate.warnings)
        assert not any("temperature" in warning for warning in estimate.warnings)


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
