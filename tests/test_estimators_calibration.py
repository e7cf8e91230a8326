"""Claims about the fits of a fixed critic, the law of the cosine, and the envelope between divergences."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_mi_ssl.estimators import CalibratedCosDV
from hf_mi_ssl.estimators.calibration import (
    MAX_SCALE,
    best_dv_scale,
    jsd_of_mi,
    mi_of_jsd,
    platt,
    root,
    sphere_law,
)
from hf_mi_ssl.estimators.streamed import Cosines
from hf_mi_ssl.mi import bounds
from hf_mi_ssl.mi.critics import cosine, score_matrix


def test_calibrated_scales_are_the_maxima():
    a, noise = torch.randn(2, 400, 16, generator=torch.Generator().manual_seed(0)).double()
    b = 0.7 * a + math.sqrt(1 - 0.7**2) * noise
    pairs, scores = Cosines(a, b), score_matrix(cosine, a, b)
    scale = best_dv_scale(pairs.positives, pairs.law())
    assert all(bounds.dv(scale * scores) >= bounds.dv((scale + d) * scores) for d in (-0.05, 0.05))
    scale, c = platt(pairs.positives, pairs.law())
    best = bounds.jsd(scale * scores + c)
    for d_scale, d_c in ((0.1, 0), (-0.1, 0), (0, 0.1), (0, -0.1), (0.1, -0.1)):
        assert best >= bounds.jsd((scale + d_scale) * scores + c + d_c)


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
