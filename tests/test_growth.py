"""The verdict on growth: rising curves pass; dead, falling, noisy and collapsed ones do not, and are told why."""

import math
import random
import statistics

import pytest
import torch
import torch.nn.functional as F

from hf_mi_ssl.estimators import ESTIMATORS, cross_fit
from hf_mi_ssl.evaluation import growth_verdicts, paired_errors


def curve(values, error=0.01, name="mi/cos_dv"):
    """The records of a run whose estimate takes these values."""
    key, records = f"eval/{name}", []
    for step, value in enumerate(values, start=1):
        band = 1.959964 * error
        records += [{"step": step, "loss": -1.0, "value": 1.0}]
        records += [{"step": step, key: value, f"{key}/low": value - band, f"{key}/high": value + band}]
    return records


def verdict(values, error=0.01, collapsed=False, paired=None):
    (found,) = growth_verdicts(curve(values, error), {"mi/cos_dv": paired} if paired else {}, collapsed).values()
    return found


RISING = [0.1, 0.8, 1.3, 1.6, 1.75, 1.8]


def test_a_rising_curve_grew_and_small_falls_are_noise():
    assert verdict(RISING)["grew"]
    assert verdict(RISING)["because"] == []
    assert verdict([*RISING, 1.79, 1.81, 1.8])["grew"]


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ([0.0] * 20, "not above three standard errors"),  # dead: 100 % monotone
        ([0.5, 0.51, 0.52], "not above three standard errors"),
        ([0.1, 1.0, 1.8, 1.7, 1.6, 1.5], "below its best"),
        ([0.1, 1.0, 0.5, 1.5, 1.0, 1.8], "steps only"),
        ([1.8, 1.0, 0.1], "not above three standard errors"),
        # Falls of less than the tolerance are no falls, but they add up
        ([0.1, 1.8, *(1.8 - 0.015 * i for i in range(1, 40))], "below its best"),
    ],
)
def test_what_did_not_grow_is_told_why(values, why):
    found = verdict(values)
    assert not found["grew"]
    assert any(why in reason for reason in found["because"])


def test_a_collapsed_run_did_not_grow_however_its_curve_looks():
    assert verdict(RISING, collapsed=True)["because"] == ["the embeddings have collapsed"]


def test_the_paired_error_decides_where_there_is_one():
    values = [0.50, 0.51, 0.53, 0.54]
    assert verdict(values)["standard_error"] == pytest.approx(0.01 * math.sqrt(2))
    assert not verdict(values)["grew"]
    assert verdict(values, paired=0.002)["grew"]
    assert verdict(values, paired=0.002)["paired"]


def test_curves_of_one_evaluation_or_none_have_no_verdict():
    assert growth_verdicts(curve([1.0]), {}, False) == {}
    assert growth_verdicts([{"step": 1, "loss": 1.0}], {}, False) == {}
    both = curve(RISING) + curve(RISING, name="mi_h/cos_dv_calibrated")
    assert set(growth_verdicts(both, {}, False)) == {"mi/cos_dv", "mi_h/cos_dv_calibrated"}


def test_noise_around_a_constant_rarely_grows():
    """Independent evaluations, which is more noise than held-out pairs that stay the same have."""
    grew = 0
    for seed in range(200):
        draw = random.Random(seed)
        grew += verdict([1 + draw.gauss(0, 0.01) for _ in range(10)])["grew"]
    assert grew <= 2


def two_models(n, seed, noise=0.1):
    """Embeddings of the same pairs by a model, and by one that is a little better."""
    generator = torch.Generator().manual_seed(seed)
    z, left, right, more = (torch.randn(n, 8, generator=generator) for _ in range(4))
    before = F.normalize(z + 0.6 * left, dim=1), F.normalize(z + 0.6 * right, dim=1)
    after = F.normalize(z + 0.5 * left, dim=1), F.normalize(z + 0.5 * right + noise * more, dim=1)
    return before, after


@pytest.mark.parametrize("name", ["cos_dv", "cos_dv_calibrated"])
def test_the_paired_error_is_that_of_repeated_samples_and_below_that_of_independent_ones(name):
    pairs = [two_models(512, seed) for seed in range(20)]
    values = [[cross_fit(ESTIMATORS[name](), *side) for side in both] for both in pairs]
    spread = statistics.stdev(after.value - before.value for before, after in values)
    errors = [paired_errors(*both)[name] for both in pairs[:5]]
    assert statistics.mean(errors) == pytest.approx(spread, rel=0.5)
    assert max(errors) < 0.7 * math.hypot(*(estimate.standard_error for estimate in values[0]))


def test_the_paired_error_is_left_out_where_it_cannot_be_told():
    assert paired_errors(*two_models(63, 0)) == {}
    assert set(paired_errors(*two_models(64, 0))) == {"cos_dv", "cos_dv_calibrated"}


def test_an_error_above_that_of_independent_samples_is_not_taken():
    assert verdict([0.5, 0.6], error=0.01, paired=0.5)["standard_error"] == pytest.approx(0.01 * math.sqrt(2))


def test_growth_begins_at_the_start_so_that_what_batch_norm_wins_back_is_none():
    """A run whose weights do not move: while batch norm learns its statistics, its bound dips and comes back."""
    start = {"step": 0, "eval/mi/cos_dv": 0.8, "eval/mi/cos_dv/low": 0.78, "eval/mi/cos_dv/high": 0.82}
    found = growth_verdicts([start, *curve([0.5, 0.75, *[0.8] * 20])], {}, False)["mi/cos_dv"]
    assert found["gain"] == 0
    assert not found["grew"]


def test_a_curve_that_ends_within_the_error_of_0_did_not_grow_however_well_its_gain_is_known():
    found = verdict([-0.5, -0.2, 0.0, 0.02], error=0.01, paired=0.002)
    assert found["because"] == ["it ends at 0.020, not above 0 by three standard errors"]
    assert verdict([-0.5, -0.2, 0.0, 0.04], error=0.01, paired=0.002)["grew"]


def test_an_interval_that_is_cut_at_0_hides_nothing_of_the_error():
    records = [
        {"step": 0, "eval/mi/cos_dv": 0.0, "eval/mi/cos_dv/low": 0.0, "eval/mi/cos_dv/high": 0.0196},
        {"step": 1, "eval/mi/cos_dv": 0.005, "eval/mi/cos_dv/low": 0.0, "eval/mi/cos_dv/high": 0.0246},
    ]
    error = growth_verdicts(records, {}, False)["mi/cos_dv"]["standard_error"]
    assert error == pytest.approx(0.01 * math.sqrt(2), rel=1e-3)
