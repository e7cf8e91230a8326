"""Theory, decorrelation: what Barlow Twins, VICReg and CorInfoMax expand, as formulas that hold exactly."""

import math

import pytest
import torch

from tests.test_theory import J, M, assert_mean, close, covariance, gaussian_atoms, normal, pairs, product, two_views


def off_diagonal_sum(matrix):
    return matrix.sum() - torch.trace(matrix)


# Barlow Twins


def test_route_1_the_second_order_marginal_decorrelates_within_each_view():
    """−2τ(J − M₂) = −2 Σ C_kk + (1/τ)[D + Σ_{k≠l} (Σ_A)_kl (Σ_B)_kl] of standardised embeddings, for any law. Ours."""
    a, b = ((z - z.mean(0)) / z.std(0, correction=0) for z in two_views())
    tau = 2.5
    value = J["expected_score"](pairs(a, b, temperature=tau)) - M["second_order"](product(a, b, temperature=tau))
    within = off_diagonal_sum(covariance(a) * covariance(b))
    close(-2 * tau * value, -2 * (a * b).mean(0).sum() + (3 + within) / tau)
    assert abs(M["redundancy"](pairs(a, b)) - within) > 0.1


@pytest.mark.parametrize("tau", [2.0, 200.0])
def test_barlow_twins_is_the_second_order_bound_of_aligned_views_at_temperature_1_over_lambda(tau):
    """a = b, C = Σ: −2τ(J − M₂) = −2 Σ C_kk + D/τ + λ Σ_{k≠l} C_kl², λ = 1/τ; λ = 0.005 is τ = 200. Ours."""
    a, _ = two_views()
    z = (a - a.mean(0)) / a.std(0, correction=0)
    value = J["expected_score"](pairs(z, z, temperature=tau)) - M["second_order"](product(z, z, temperature=tau))
    close(-2 * tau * value, -6 + 3 / tau + M["redundancy"](pairs(1e5 * z, 1e5 * z)) / tau)


def exchangeable_views():
    """Both orders of every pair, so that Σ_A = Σ_B and C = Cᵀ; so large that batch norm's 1e-5 is rounding."""
    a, b = two_views(d=4)
    return 1e5 * torch.cat([a, b]), 1e5 * torch.cat([b, a])


def isserlis_variance(cov_a, cov_b, cross):
    """Var aᵀb under a joint Gaussian: tr Σ_AΣ_B + tr C²."""
    return (cov_a * cov_b).sum() + (cross * cross.T).sum()


def test_isserlis_gives_the_variance_of_the_score_under_the_joint_gaussian():
    """Var_P aᵀb = tr Σ_AΣ_B + tr C², by nodes that are exact for Gaussian moments of order 4."""
    z = gaussian_atoms(4) @ normal(4, 4).T
    cov = covariance(z)
    score = (z[:, :2] * z[:, 2:]).sum(1)
    close(score.var(correction=0), isserlis_variance(cov[:2, :2], cov[2:, 2:], cov[:2, 2:]))


def test_route_2_barlow_twins_is_an_exact_identity_under_the_joint():
    """C = Cᵀ: −2(E_P T − ½ Var_P T) = Σ(1 − C_kk)² + Σ_{k≠l} C_kl² + Σ_{k≠l} (Σ_A)_kl (Σ_B)_kl.

    Ours. The last sum is (a) of the five things that lie between this and Barlow Twins."""
    a, b = exchangeable_views()
    p = pairs(a, b)
    x, y = p.standardized
    cross, within = x.T @ y / len(x), off_diagonal_sum(covariance(x) * covariance(y))
    expansion = -2 * (torch.trace(cross) - isserlis_variance(covariance(x), covariance(y), cross) / 2)
    close(expansion, -J["invariance"](p) + M["redundancy"](p) + within)
    assert within > 0.1


def test_the_other_terms_that_barlow_twins_drops():
    """(b) Σ C_kl² − Σ C_kl C_lk = ½‖C − Cᵀ‖²; (c) cumulants from 3, κ₃ = tr (SK)³; (e) Var_P − Var_Q = tr C²:
    −log E_P e^{−T} holds no product of marginals. ((d) is λ ≠ 1, which is 1/τ on route 1 and 1 on route 2.) Ours."""
    a, b = two_views(d=4)
    p = pairs(1e5 * a, 1e5 * (b @ normal(4, 4, 3)))
    x, y = p.standardized
    cross = x.T @ y / len(x)
    asymmetry = M["redundancy"](p) - off_diagonal_sum(cross * cross.T)
    close(asymmetry, (cross - cross.T).square().sum() / 2)  # (b)
    assert asymmetry > 0.1
    sk = torch.cat([torch.cat([cross, covariance(x)], 1), torch.cat([covariance(y), cross.T], 1)])
    tau = 1000.0
    exact = 0.5 * torch.linalg.slogdet(torch.eye(8, dtype=torch.float64) + sk / tau).logabsdet
    variance = isserlis_variance(covariance(x), covariance(y), cross)
    expansion = torch.trace(cross) / tau - variance / (2 * tau**2)
    close(6 * tau**3 * (exact - expansion), torch.trace(sk @ sk @ sk), 0.02)  # (c)
    close(variance - 2 * M["second_order"](product(x, y)), (cross * cross.T).sum())  # (e)


# VICReg and the log-determinant


@pytest.mark.parametrize("tau", [0.5, 2.0, 8.0])
def test_vicreg_is_the_second_order_of_the_squared_distance(tau):
    """T = −‖a − b‖²/2τ: J − M₂ = D/4 − E‖a − b‖²/2τ − Σ_k (Σ_kk − τ/2)²/τ² − Σ_{k≠l} Σ_kl²/τ².

    Ours. Gaussian views of one covariance: invariance, a variance pulled to τ/2, covariance."""
    z, mix = gaussian_atoms(2), normal(2, 2)
    a, b = z @ mix, (0.8 * z + 0.6 * z.roll(1, 0)) @ mix
    p, n = pairs(a, b, "negative_squared_distance", tau), len(z)
    value = J["expected_score"](p) - M["second_order"](product(a, a, "negative_squared_distance", tau))
    variances = covariance(a).diagonal()
    off = M["covariance"](pairs(a, a)) * ((n - 1) / n) ** 2  # (2/D) Σ_{k≠l} Σ_kl², D = 2
    close(value, J["negative_mse"](p) / tau - (variances - tau / 2).square().sum() / tau**2 - off / tau**2 + 0.5)
    if tau == 2:  # VICReg's own target, unit variance
        distance = (covariance(a) - torch.eye(2)).square().sum()
        close(-4 * value, (a - b).square().sum(1).mean() + distance - 2)


@pytest.mark.parametrize("tau", [0.5, 2.0, 8.0])
def test_the_exact_marginal_of_the_squared_distance_is_a_log_determinant(tau):
    """M = −½ log det(I + (Σ_A + Σ_B)/τ), Gaussian views of one mean: finite at every τ. Ours."""
    mix_a, mix_b = normal(3, 3, 1) / 2, normal(3, 3, 2) / 2
    exact = -0.5 * torch.logdet(torch.eye(3) + (mix_a.T @ mix_a + mix_b.T @ mix_b) / tau)
    draws = [(normal(500, 3, 10 + seed) @ mix_a, normal(500, 3, 50 + seed) @ mix_b) for seed in range(20)]
    assert_mean([M["exact"](pairs(a, b, "negative_squared_distance", tau)).exp() for a, b in draws], exact.exp())


def test_vicregs_optimum_lies_on_the_radius_of_convergence():
    """2Σ/τ = I: ½ log 2 = 0.347 nats a dimension are 0.25 at second order. Ours."""
    atoms = gaussian_atoms(2)
    assert M["second_order"](product(atoms, atoms, "negative_squared_distance", 2.0)) / 2 == pytest.approx(-0.25)
    draws = [(normal(500, 2, 10 + seed), normal(500, 2, 50 + seed)) for seed in range(20)]
    assert_mean([M["exact"](pairs(a, b, "negative_squared_distance", 2.0)).exp() for a, b in draws], 0.5)


def test_corinfomaxs_log_determinant_is_the_exact_marginal_at_a_small_temperature():
    """−½ log det(I + (Σ_A + Σ_B)/τ) = (D/4) `log_det` + (D/2) log ε where Σ_A = Σ_B, τ = 2ε, ‖z‖ = 1. Ours."""
    a, epsilon = torch.nn.functional.normalize(two_views()[0], dim=1), 1e-8
    exact = -0.5 * torch.logdet(torch.eye(3) + 2 * covariance(a) / (2 * epsilon))
    close(exact, 3 / 4 * M["log_det"](pairs(a, a)) + 1.5 * math.log(epsilon))
