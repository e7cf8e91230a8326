"""Theory, the bounds: ceilings of a fixed critic, orderings, the bias of a sample, and what order 2 is instead."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial.hermite_e import hermeval

from hf_mi_ssl.mi import Pairs, bounds
from tests.test_theory import J, M, assert_mean, close, normal, pairs, product, skewed, white


def bivariate(rho, n, seed):
    """n draws of two standard normals of correlation ρ, (n, 1) each."""
    z = normal(n, 2, seed)
    return z[:, :1], rho * z[:, :1] + math.sqrt(1 - rho**2) * z[:, 1:]


# Ceilings of the cosine critic


@pytest.mark.parametrize("dimension", [1, 2, 3, 16, 128])
@pytest.mark.parametrize("tau", [0.05, 0.2, 1.0])
def test_the_ceiling_on_the_sphere_is_a_bessel_function(dimension, tau):
    """1/τ − log[Γ(d/2) (2τ)^{d/2−1} I_{d/2−1}(1/τ)], the series of I written out; ≈ 1/τ − 1/(2dτ²). Ours."""
    k = torch.arange(400, dtype=torch.float64)
    half = torch.tensor(dimension / 2, dtype=torch.float64)
    log_series = -2 * k * math.log(2 * tau) + torch.lgamma(half) - torch.lgamma(k + 1) - torch.lgamma(k + half)
    ceiling = bounds.uniform_sphere_dv(dimension, tau)
    assert ceiling == pytest.approx(1 / tau - torch.logsumexp(log_series, 0).item(), abs=1e-7)
    assert 1 / tau - 1 / (2 * dimension * tau**2) <= ceiling < 1 / tau
    if dimension == 128 and tau >= 0.2:
        assert ceiling == pytest.approx(1 / tau - 1 / (2 * dimension * tau**2), abs=2e-3)
    if dimension == 3:
        assert ceiling == pytest.approx(1 / tau - math.log(math.sinh(1 / tau) * tau), abs=1e-7)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(2, 5), st.integers(2, 20), st.floats(0.05, 2.0), st.integers(0, 10**6))
def test_no_law_on_the_sphere_passes_the_uniform_one(d, n, tau, seed):
    """1/τ − log E e^{cos/τ} is largest for the uniform law, because e^{t/τ} is positive definite. Ours."""
    z = skewed(n, d, seed)
    p = product(z, z, "cosine", tau)
    assert 1 / tau - M["exact"](p) <= bounds.uniform_sphere_dv(d, tau) + 1e-9


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(2, 20), st.floats(0.02, 2.0), st.integers(0, 10**6))
def test_cos_dv_is_at_most_2_over_the_temperature(n, tau, seed):
    """T ∈ [−1/τ, 1/τ], hence DV ≤ 2/τ on every sample, reached by two antipodes. Ours."""
    a, b = normal(n, 3, seed), normal(n, 3, seed + 1)
    for other in (a, b):
        p = pairs(a, other, "cosine", tau)
        assert bounds.dv(p.scores) <= 2 / tau + 1e-9
    antipodes = torch.tensor([[1.0], [-1.0]])
    assert bounds.dv(pairs(antipodes, antipodes, "cosine", tau).scores).item() == pytest.approx(2 / tau)


@pytest.mark.parametrize(("tau", "known"), [(1.0, 0.926), (0.5, 1.622), (0.2, 2.268), (0.1, 2.302)])
def test_the_ceiling_of_ten_clusters_on_a_simplex(tau, known):
    """1/τ − log[e^{1/τ}/K + (1 − 1/K) e^{−1/(τ(K−1))}], below log K and below the uniform sphere's. Ours."""
    vertices = torch.eye(10, dtype=torch.float64) - 0.1
    p = product(vertices, vertices, "cosine", tau)
    dv = 1 / tau - M["exact"](p).item()
    assert dv == pytest.approx(1 / tau - math.log(math.exp(1 / tau) / 10 + 0.9 * math.exp(-1 / (9 * tau))), abs=1e-12)
    assert dv == pytest.approx(known, abs=5e-4)
    assert dv < min(math.log(10), bounds.uniform_sphere_dv(9, tau))


# Orderings


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(2, 12), st.floats(0.01, 100.0), st.integers(0, 10**6))
def test_orderings_on_arbitrary_scores(n, scale, seed):
    """NWJ ≤ DV ≤ DV_r, InfoNCE ≤ log N; InfoNCE_i = log N − log(1 + (N−1) e^{−DV_i}) row by row, so it is at most that
    of DV_r (concave). The last two are ours."""
    scores = scale * normal(n, n, seed)
    slack = 1e-9 * scale
    assert bounds.nwj(scores) <= bounds.dv(scores) + slack
    assert bounds.dv(scores) <= bounds.row_wise_dv(scores) + slack
    assert bounds.info_nce(scores) <= math.log(n) + slack
    off = scores.masked_fill(torch.eye(n, dtype=torch.bool), -torch.inf)
    rows = scores.diagonal() - torch.logsumexp(off, 1) + math.log(n - 1)
    squash = lambda x: math.log(n) - F.softplus(math.log(n - 1) - x)  # noqa: E731
    close(bounds.info_nce(scores), squash(rows).mean())
    assert bounds.info_nce(scores) <= squash(bounds.row_wise_dv(scores)) + slack


@pytest.mark.parametrize(("rho", "w"), [(0.9, 0.588), (0.9, 0.8), (0.5, 0.4)])
def test_population_ordering_of_the_bounds_on_gaussian_pairs(rho, w):
    """T = w ab: DV = wρ + ½ log(1 − w²) ≤ DV_r = wρ − w²/2 ≤ I; InfoNCE_n ≤ min(log n, I). Ours."""
    truth = -0.5 * math.log(1 - rho**2)
    dv, row_wise = w * rho + 0.5 * math.log(1 - w**2), w * rho - w**2 / 2
    assert dv <= row_wise <= rho**2 / 2 <= truth
    scores = [w * a @ b.T for a, b in (bivariate(rho, 400, seed) for seed in range(100))]
    partition = torch.stack(
        [M["exact"](pairs(w * a, b)).exp() for a, b in (bivariate(rho, 400, s) for s in range(100))]
    )
    if w < 0.7:  # beyond 2w² = 1, the partition function has no variance
        assert_mean(partition, (1 - w**2) ** -0.5)
    small = [bounds.info_nce(s[:8, :8]) for s in scores]
    assert sum(small) / 100 < min(math.log(8), truth)
    assert_mean([bounds.row_wise_dv(s) for s in scores], row_wise)


def test_an_over_scaled_critic_ruins_dv_before_row_wise_dv():
    """T = w ab at w > 1: E e^T = ∞, so DV = −∞, where DV_r = wρ − w²/2 is still a useful bound. Ours."""
    w = 1.05
    z = white(normal(50, 1))
    assert M["gaussian"](pairs(z, w * z)) == torch.inf
    values = [bounds.row_wise_dv(w * a @ b.T) for a, b in (bivariate(0.9, 2000, seed) for seed in range(20))]
    assert_mean(values, 0.9 * w - w**2 / 2)


# Bias


def test_the_bias_of_dv_on_the_uniform_sphere():
    """E log m̂ ≈ log m − Var(m̂)/2m²; uniform directions have no first-order variance: relvar/(2n(n−1)). Ours."""
    d, tau, n = 8, 0.4, 12
    log_m = lambda t: 1 / t - bounds.uniform_sphere_dv(d, t)  # noqa: E731  log E e^{cos/t}
    relative_variance = math.exp(log_m(tau / 2) - 2 * log_m(tau)) - 1
    z = F.normalize(normal(2 * 8000 * n, d), dim=1).view(2, 8000, n, d)
    scores = z[0] @ z[1].mT / tau
    log_ratio = scores.diagonal(dim1=1, dim2=2).mean(1) - torch.vmap(bounds.dv)(scores) - log_m(tau)
    assert_mean(log_ratio.exp(), 1)  # m̂ itself is unbiased, which takes most of the noise from its logarithm
    bias = (log_ratio.exp() - 1 - log_ratio).mean().item()
    assert bias == pytest.approx(relative_variance / (2 * n * (n - 1)), rel=0.15)


# Order 2 is χ², not a bound


def hermite_pairs(rho, order, n, seed):
    """Pairs whose bilinear critic is the Gaussian density ratio less 1, its Mehler series cut after `order`."""
    a, b = bivariate(rho, n, seed)
    series = [(k, [0] * k + [1 / math.sqrt(math.factorial(k))]) for k in range(1, order + 1)]
    left, right = (torch.cat([rho ** (k / 2) * hermeval(z, c) for k, c in series], 1) for z in (a, b))
    return pairs(left, right)


def test_the_second_order_value_passes_the_mutual_information():
    """sup_T J − M₂ = ½ χ² = ½ ρ²/(1 − ρ²), T = ratio − 1: at ρ = 0.9, 2.13 nats for an MI of 0.83. Ours."""
    rho = 0.9
    truth, half_chi_square = -0.5 * math.log(1 - rho**2), 0.5 * rho**2 / (1 - rho**2)
    assert half_chi_square == pytest.approx(2.13, abs=5e-3)
    by_order = {k: 0.5 * sum(rho ** (2 * j) for j in range(1, k + 1)) for k in (1, 3, 500)}
    assert truth == pytest.approx(0.83, abs=5e-4)
    assert by_order[1] < truth < by_order[3] < by_order[500]
    assert by_order[500] == pytest.approx(half_chi_square)
    values = []
    for seed in range(60):
        p = hermite_pairs(rho, 3, 1500, seed)
        values.append(J["expected_score"](p) - M["second_order"](p))
        uncentred = J["expected_score"](p) - M["squared_score"](p) / 2  # half the spectral contrastive objective
        close(uncentred - values[-1], M["first_order"](p) - M["first_order"](p) ** 2 / 2)
    assert_mean(values, by_order[3])
    assert sum(values) / 60 > truth + 0.1


# Prototypes


def test_with_prototypes_the_partition_function_is_1():
    """T = log softmax_k(a/τ)/π_k, π the law of the assignments: E e^T = 1, and DV = H(π) + E log softmax. Ours."""
    logits, one_hot, tau = normal(12, 4), torch.eye(4, dtype=torch.float64)[[0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3]], 0.3
    pi = one_hot.mean(0)
    critic = lambda a, b: ((a / tau).log_softmax(1) - pi.log(), b)  # noqa: E731
    marginal = M["exact"](Pairs(logits.repeat_interleave(12, 0), one_hot.repeat(12, 1), critic))
    close(marginal, 0)
    row = pairs(logits, one_hot, temperature=tau)
    entropy = torch.special.entr(pi).sum()
    dv = J["expected_score"](Pairs(logits, one_hot, critic)) - marginal
    close(dv, entropy + J["expected_score"](row) - M["prototype_partition"](row))
