"""Theory, the marginal term: the cumulant ladder, Gaussian laws, and the error of each rung.

"Ours" marks derivations that are not the paper's (arXiv 2510.01345). Expectations are finite sums wherever they can
be, so that identities hold to rounding; what is sampled has a tolerance of four standard errors.
"""

import math

import pytest
import torch
from numpy.polynomial.hermite_e import hermegauss

from hf_mi_ssl.mi import CRITICS, JOINT_TERMS, MARGINAL_TERMS, Pairs, bounds
from hf_mi_ssl.mi.pairs import off_diagonal

J, M = JOINT_TERMS, MARGINAL_TERMS
LADDER = ["zeroth_order", "first_order", "second_order", "third_order"]


def pairs(a, b, critic="bilinear", temperature=1.0):
    return Pairs(a, b, CRITICS[critic], temperature)


def product(a, b, critic="bilinear", temperature=1.0):
    """Every row of a (n, D) beside every row of b (m, D): the nm pairings i = j, hence also those with i ≠ j, follow
    the product of the two samples' laws, and marginal terms are expectations over p(a)p(b) without an error."""
    return pairs(a.repeat_interleave(len(b), 0), b.repeat(len(a), 1), critic, temperature)


def normal(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def skewed(n, d, seed=0):
    """Correlated coordinates, a mean and a skewness."""
    return (normal(n, d, seed).clamp_min(-0.5) + 0.3 * normal(n, 1, seed + 1)) @ (normal(d, d, seed + 2) / d + 0.6)


def two_views(n=40, d=3, seed=0):
    """Views that share most of what they show; neither centred nor white."""
    a = skewed(n, d, seed)
    return a, a + 0.5 * skewed(n, d, seed + 7)


def covariance(z):
    centred = z - z.mean(0)
    return centred.T @ centred / len(z)


def white(z):
    """The sample with mean 0 and covariance 1, exactly."""
    z = z - z.mean(0)
    return torch.linalg.solve_triangular(torch.linalg.cholesky(covariance(z)), z.T, upper=False).T


def gaussian_atoms(d):
    """6^d points of equal weight whose moments are those of N(0, I) up to order 5: Gauss–Hermite with three nodes."""
    line = torch.tensor([-(3**0.5), 0, 0, 0, 0, 3**0.5], dtype=torch.float64)
    return torch.cartesian_prod(*[line] * d).view(-1, d)


def central(z, order):
    """E[(z − μ)^⊗order], a tensor with `order` indices."""
    z, letters = z - z.mean(0), "abcd"[:order]
    return torch.einsum(",".join("n" + x for x in letters) + "->" + letters, *[z] * order) / len(z)


def close(value, expected, tolerance=1e-10):
    torch.testing.assert_close(value, torch.as_tensor(expected, dtype=value.dtype), rtol=tolerance, atol=tolerance)


def assert_mean(values, expected):
    """The mean of independent values is what is expected, within four standard errors."""
    values = torch.as_tensor(values, dtype=torch.float64)
    assert abs(values.mean() - expected) <= 4 * values.std() / len(values) ** 0.5


# The cumulant ladder: M = Σ_k κ_k / k!


def test_the_cumulants_of_the_bilinear_score_are_contractions_of_moments():
    """κ₁ = μ_Aᵀμ_B, κ₂ = tr Σ_AΣ_B + μ_AᵀΣ_Bμ_A + μ_BᵀΣ_Aμ_B; centred: κ₃ = ⟨M₃, M₃⟩, κ₄ = ⟨M₄, M₄⟩ − 3 κ₂². Ours."""
    a, b, tau = skewed(30, 3), skewed(40, 3, 5), 2.0
    p = product(a, b, temperature=tau)
    (mu_a, cov_a), (mu_b, cov_b) = ((z.mean(0), covariance(z)) for z in (a, b))
    kappa_1 = mu_a @ mu_b
    kappa_2 = torch.trace(cov_a @ cov_b) + mu_a @ cov_b @ mu_a + mu_b @ cov_a @ mu_b
    close(M["first_order"](p), kappa_1 / tau)
    close(M["second_order"](p), kappa_1 / tau + kappa_2 / (2 * tau**2))
    p = product(a - mu_a, b - mu_b, temperature=tau)
    kappa_2, kappa_3 = torch.trace(cov_a @ cov_b), (central(a, 3) * central(b, 3)).sum()
    kappa_4 = (central(a, 4) * central(b, 4)).sum() - 3 * kappa_2**2
    close(M["third_order"](p), kappa_2 / (2 * tau**2) + kappa_3 / (6 * tau**3))
    scores = off_diagonal(p.scores) - p.mean_negative_score
    close((scores**4).mean() - 3 * scores.square().mean() ** 2, kappa_4 / tau**4)


def test_order_one_leaves_the_covariance_of_the_views():
    """J − M₁ = tr Cov(a, b)/τ, unbiased on a sample: order 1 centres and does nothing else. Ours."""
    a = skewed(20, 4)
    b = a + 0.5 * skewed(20, 4, 3)
    p = pairs(a, b, temperature=0.7)
    cross = (a - a.mean(0)).T @ (b - b.mean(0)) / (len(a) - 1)
    close(J["expected_score"](p) - M["first_order"](p), torch.trace(cross) / 0.7)


@pytest.mark.parametrize("order", range(4))
def test_each_rung_of_the_ladder_is_wrong_by_the_next_power_of_the_temperature(order):
    """M − M_k = κ_{k+1} / ((k+1)! τ^{k+1}) + …: twice the temperature, 2^{k+1} times less error. Ours."""
    a, b = skewed(30, 3), skewed(40, 3, 5)
    errors = []
    for tau in (400.0, 800.0):
        p = product(a, b, temperature=tau)
        errors.append((M["exact"](p) - M[LADDER[order]](p)).item())
    assert errors[0] / errors[1] == pytest.approx(2 ** (order + 1), rel=0.05)


def test_the_ladder_climbs_to_the_exact_term():
    """|M − M_k| falls with every order once the temperature is above the scores."""
    p = product(skewed(30, 3), skewed(40, 3, 5), temperature=30.0)
    errors = [abs(M["exact"](p) - M[rung](p)).item() for rung in LADDER]
    assert errors == sorted(errors, reverse=True)
    assert errors[3] < 0.01 * errors[0]


# Laws that are not Gaussian


def test_the_leading_error_of_order_two_is_mardias_skewness():
    """White, equal views: M − M₂ = β₁/(6τ³) + (K − 3d²)/(24τ⁴) + …, β₁ = E(xᵀy)³, K = E(xᵀy)⁴. Ours."""
    z = white(skewed(40, 3))
    skewness, kurtosis = ((z @ z.T) ** 3).mean(), ((z @ z.T) ** 4).mean()
    p = product(z, z, temperature=3.0)
    close(M["second_order"](p), 3 / (2 * 9))
    close(M["third_order"](p) - M["second_order"](p), skewness / (6 * 27))
    assert skewness > 0.5
    tau = 100.0
    p = product(z, z, temperature=tau)
    close(tau**4 * (M["exact"](p) - M["third_order"](p)), (kurtosis - 27) / 24, 0.05)


def test_a_symmetric_law_has_no_third_order():
    """κ₃ = 0 where z and −z are alike: order 2 is then wrong by τ⁻⁴ only, and clusters are what it under-penalises."""
    half = skewed(20, 3)
    z = torch.cat([half, -half])
    errors = []
    for tau in (30.0, 60.0):
        p = product(z, z, temperature=tau)
        close(M["third_order"](p), M["second_order"](p))
        errors.append((M["exact"](p) - M["second_order"](p)).item())
    assert errors[0] / errors[1] == pytest.approx(16, rel=0.05)
    clusters = white(torch.eye(6, dtype=torch.float64)[:, :5])  # a simplex of six, in five dimensions
    p = product(clusters, clusters, temperature=3.0)
    assert M["second_order"](p) == pytest.approx(5 / 18)
    assert M["exact"](p) > 1.2 * 5 / 18
    assert abs(M["exact"](p) - M["third_order"](p)) < 0.2 * (M["exact"](p) - M["gaussian"](p))


@pytest.mark.parametrize("tau", [0.1, 0.5])
def test_order_two_of_the_cosine_sees_only_the_mean_and_the_participation_ratio(tau):
    """M₂ = ‖μ‖²/τ + (1/d_eff − ‖μ‖⁴)/(2τ²) on the unit sphere, 1/d_eff = tr (E zzᵀ)²; near M if d_eff ≫ 1/τ. Ours."""
    z = torch.nn.functional.normalize(skewed(40, 6), dim=1)
    norm, purity = z.mean(0).square().sum(), (z.T @ z / 40).square().sum()
    close(M["second_order"](product(z, z, "cosine", tau)), norm / tau + (purity - norm**2) / (2 * tau**2))
    exact = {d: 1 / tau - bounds.uniform_sphere_dv(d, tau) for d in (3, 512)}  # uniform: μ = 0, d_eff = d
    assert 1 / (2 * 512 * tau**2) == pytest.approx(exact[512], rel=0.1)
    if tau == 0.1:
        assert 1 / (2 * 3 * tau**2) > 2 * exact[3]  # 16.7 for 7.0 nats: no expansion at all


# Gaussian laws, to all orders


def test_the_gaussian_term_is_its_series():
    """−½ log det(I − Σ_AΣ_B/τ²) = ½ Σ_k tr (Σ_AΣ_B)^k / (k τ^{2k}); order 2 is k = 1, at most the whole. Ours."""
    a, b = (z - z.mean(0) for z in (skewed(50, 6), skewed(50, 6, 5)))
    product_of_covariances = covariance(a) @ covariance(b)
    tau = 1.3 * torch.linalg.eigvals(product_of_covariances).real.max().item() ** 0.5
    s = torch.linalg.eigvals(product_of_covariances).real / tau**2
    whole = M["gaussian"](pairs(a, b, temperature=tau))
    close(whole, sum((s**k).sum() / (2 * k) for k in range(1, 100)))
    missing = whole - M["second_order"](product(a, b, temperature=tau))
    close(missing, 0.5 * (-torch.log1p(-s) - s).sum())
    assert 0 < missing < (s**2).sum() / (4 * (1 - s.max()))


def test_the_gaussian_term_is_the_exact_one_of_gaussian_draws():
    """log E e^{aᵀb/τ} of N(μ_A, Σ_A), N(μ_B, Σ_B), means and covariances arbitrary: e^M without bias on a sample."""
    mix_a, mix_b = normal(3, 3, 1) / 2, normal(3, 3, 2) / 2
    z = white(normal(20, 3))  # the population's moments, exactly
    population = M["gaussian"](pairs(z @ mix_a + 0.4, z @ mix_b - 0.7, temperature=2.5)).exp()
    draws = [(normal(1000, 3, 10 + s) @ mix_a + 0.4, normal(1000, 3, 50 + s) @ mix_b - 0.7) for s in range(20)]
    values = torch.stack([M["exact"](pairs(a, b, temperature=2.5)).exp() for a, b in draws])
    assert_mean(values, population)
    assert values.std() < 0.03  # the test has power: the value is 0.80


def test_the_gaussian_marginal_is_infinite_within_the_radius_of_convergence():
    """M is finite only if τ² > λ_max(Σ_AΣ_B): never with unit variances and τ = 1, Barlow's. Ours."""
    a = skewed(50, 6)
    largest = torch.linalg.eigvalsh(covariance(a)).max().item()
    assert M["gaussian"](pairs(a, a, temperature=0.999 * largest)) == torch.inf
    assert M["gaussian"](pairs(a, a, temperature=1.001 * largest)).isfinite()
    standardized = (a - a.mean(0)) / a.std(0, correction=0)
    assert M["gaussian"](pairs(standardized, standardized)) == torch.inf


@pytest.mark.parametrize(
    ("tau", "shortfall"), [(1.05, 0.62), (1.5, 0.24), (2, 0.13), (5, 0.02), (20, 0.0013), (200, 1e-5)]
)
def test_what_order_two_misses_of_a_white_gaussian(tau, shortfall):
    """1 − M₂/M at Σ = I: Barlow's λ = 1/τ = 0.005 is where the expansion is right. Ours."""
    z = white(normal(30, 6))
    whole, cut = M["gaussian"](pairs(z, z, temperature=tau)), M["second_order"](product(z, z, temperature=tau))
    close(whole, -3 * math.log1p(-1 / tau**2))
    assert 1 - (cut / whole).item() == pytest.approx(shortfall, rel=0.26)


def test_the_joint_cumulants_of_gaussian_views():
    """κ_n of aᵀb under p(a, b) = ½ (n−1)! tr (SK)^n, S the joint covariance, K the exchange of a and b. Ours."""
    nodes, weights = (torch.as_tensor(x) for x in hermegauss(5))
    points, weight = torch.cartesian_prod(*[nodes] * 4), torch.cartesian_prod(*[weights] * 4).prod(1)
    mix = normal(4, 4)
    z = points @ mix.T
    t, weight = (z[:, :2] * z[:, 2:]).sum(1), weight / weight.sum()
    moment = [(weight * (t - (weight * t).sum()) ** n).sum() for n in range(5)]
    measured = [(weight * t).sum(), moment[2], moment[3], moment[4] - 3 * moment[2] ** 2]
    exchange = torch.eye(4, dtype=torch.float64).roll(2, 0)
    for n, kappa in enumerate(measured, 1):
        close(kappa, math.factorial(n - 1) / 2 * torch.trace(torch.linalg.matrix_power(mix @ mix.T @ exchange, n)))


@pytest.mark.parametrize(("rho", "reached"), [(0.5, 0.113), (0.9, 0.317), (0.99, 0.371)])
def test_a_fixed_bilinear_critic_stays_below_0_378_nats_a_dimension(rho, reached):
    """max_w wρ + ½ log(1 − w²) is at w = (√(1 + 4ρ²) − 1)/(2ρ), and is ≤ 0.378 while MI = −½ log(1 − ρ²) → ∞. Ours."""
    z = white(normal(50, 2))
    a, b = z[:, :1], rho * z[:, :1] + math.sqrt(1 - rho**2) * z[:, 1:]
    best = (math.sqrt(1 + 4 * rho**2) - 1) / (2 * rho)
    dv = {}
    for w in (0.98 * best, best, 1.02 * best):
        p = pairs(a, b, temperature=1 / w)
        dv[w] = (J["expected_score"](p) - M["gaussian"](p)).item()
    assert max(dv, key=dv.get) == best
    assert dv[best] == pytest.approx(reached, abs=6e-4)
    assert dv[best] < min(0.378, -0.5 * math.log(1 - rho**2))
