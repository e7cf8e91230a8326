"""The mathematics: terms, critics and bounds against their formulas, and against distributions of known MI."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mi_ssl.mi import CRITICS, JOINT_TERMS, MARGINAL_TERMS, MIObjective, Pairs, bounds, marginal_term
from hf_mi_ssl.mi.critics import score_matrix
from hf_mi_ssl.mi.pairs import log_mean_exp, off_diagonal

TERMS = JOINT_TERMS | MARGINAL_TERMS


def embeddings(n=12, d=5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(n, d, generator=generator, dtype=dtype)
    return a, a + 0.5 * torch.randn(n, d, generator=generator, dtype=dtype)


def pairs(a, b, critic="cosine", temperature=1.0):
    negatives = embeddings(n=9, d=a.shape[1], seed=7)[0].to(a.dtype)
    return Pairs(a, b, CRITICS[critic], temperature, negatives)


def test_off_diagonal_keeps_rows_and_drops_the_positives():
    matrix = torch.arange(16.0).view(4, 4)
    expected = [[matrix[i, j] for j in range(4) if j != i] for i in range(4)]
    assert off_diagonal(matrix).tolist() == torch.tensor(expected).tolist()


def white(z):
    """Coordinates in which the covariance, shrunk a little, is the identity."""
    shrunk = (1 - 1e-3) * torch.cov(z.T) + 1e-3 * torch.eye(z.shape[1], dtype=z.dtype)
    return (z - z.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(shrunk)).T


@pytest.mark.parametrize("critic", CRITICS)
def test_critics_score_every_pairing_as_their_formula_says(critic):
    a, b = embeddings()
    b = b[:7]
    scores = score_matrix(CRITICS[critic], a, b)
    assert scores.shape == (12, 7)
    x, y = a[3], b[5]
    unit_x, unit_y = x / x.norm(), y / y.norm()
    by_hand = {
        "cosine": unit_x @ unit_y,
        "bilinear": x @ y,
        "bounded_bilinear": x @ y / max(1, x.norm()) / max(1, y.norm()),
        "negative_squared_distance": -0.5 * (x - y).square().sum(),
        "normalized_l2": -0.5 * (unit_x - unit_y).square().sum(),
        "whitened_cosine": F.cosine_similarity(white(a)[3], white(b)[5], dim=0),
    }[critic]
    assert scores[3, 5] == pytest.approx(by_hand.item())


def test_terms_equal_plain_loops_over_pairs():
    a, b = embeddings()
    n, tau = len(a), 0.3
    p = pairs(a, b, "cosine", tau)
    cosine = lambda x, y: float(F.cosine_similarity(x, y, dim=0)) / tau  # noqa: E731
    apart = [cosine(a[i], b[j]) for i in range(n) for j in range(n) if i != j]
    assert JOINT_TERMS["expected_score"](p).item() == pytest.approx(sum(cosine(a[i], b[i]) for i in range(n)) / n)
    exact = math.log(sum(map(math.exp, apart)) / len(apart))
    assert MARGINAL_TERMS["exact"](p).item() == pytest.approx(exact)
    mean = sum(apart) / len(apart)
    variance = sum((s - mean) ** 2 for s in apart) / len(apart)
    assert MARGINAL_TERMS["second_order"](p).item() == pytest.approx(mean + variance / 2)


@pytest.mark.parametrize("term", TERMS)
def test_terms_are_finite_scalars_with_a_formula_and_exact_gradients(term):
    a, b = embeddings(n=6, d=3)
    assert TERMS[term].__doc__.startswith(("J = ", "M = "))
    a.requires_grad_(), b.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: TERMS[term](pairs(x, y, "cosine", 0.5)), (a, b))


@pytest.mark.parametrize("term", TERMS)
def test_terms_do_not_depend_on_the_order_of_the_pairs(term):
    a, b = embeddings()
    order = torch.randperm(len(a), generator=torch.Generator().manual_seed(3))
    one = TERMS[term](pairs(a, b, "cosine", 0.5))
    other = TERMS[term](pairs(a[order], b[order], "cosine", 0.5))
    torch.testing.assert_close(one, other)


def test_a_term_without_a_formula_is_refused():
    with pytest.raises(ValueError, match="must begin with its formula"):

        @marginal_term
        def nameless(p):
            """Something."""


def test_the_order_two_term_tends_to_the_exact_one_as_the_temperature_grows():
    a, b = embeddings(n=200)
    gaps = []
    for tau in (1.0, 4.0, 16.0):
        p = pairs(a, b, "cosine", tau)
        gaps.append(abs((MARGINAL_TERMS["second_order"](p) - MARGINAL_TERMS["exact"](p)).item()))
    assert gaps[0] > 30 * gaps[1] > 30 * 30 * gaps[2]  # third order: 1/τ³, 64-fold with each step


def test_the_objective_is_the_weighted_sum_and_names_every_term():
    a, b = embeddings()
    objective = MIObjective("cosine", 0.5, {"expected_score": 2.0}, {"exact": 0.5, "second_order": 0.25})
    bound = objective(a, b)
    p = pairs(a, b, "cosine", 0.5)
    assert set(bound.joint) == {"expected_score"}
    assert set(bound.marginal) == {"exact", "second_order"}
    expected = 2 * TERMS["expected_score"](p) - 0.5 * TERMS["exact"](p) - 0.25 * TERMS["second_order"](p)
    torch.testing.assert_close(bound.value, expected)


def test_the_objective_leaves_autocast_and_computes_in_float32():
    a, b = embeddings(dtype=torch.float32)
    objective = MIObjective("cosine", 0.1, {"expected_score": 1.0}, {"exact": 1.0})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = objective(a, b).value
    assert inside.dtype == torch.float32
    assert torch.equal(inside, objective(a, b).value)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 40), st.floats(0.05, 5.0), st.integers(0, 1000))
def test_dv_is_at_most_row_wise_dv_and_info_nce_at_most_log_n(n, temperature, seed):
    a, b = embeddings(n=n, seed=seed)
    scores = score_matrix(CRITICS["cosine"], a, b) / temperature
    assert bounds.dv(scores) <= bounds.row_wise_dv(scores) + 1e-9
    assert bounds.info_nce(scores) <= math.log(n) + 1e-9
    assert bounds.nwj(scores) <= bounds.dv(scores) + 1e-9  # log x ≤ x/e: a worse offset


def gaussian_scores(rho: float, n: int, seed: int):
    """Pairs of known MI = −½ log(1 − ρ²) and the critic that is optimal for them, log p(a, b) / p(a) p(b)."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(n, 1, generator=generator, dtype=torch.float64)
    b = rho * a + math.sqrt(1 - rho**2) * torch.randn(n, 1, generator=generator, dtype=torch.float64)
    ratio = (rho * a @ b.T - rho**2 * (a.square() + b.T.square()) / 2) / (1 - rho**2)
    return ratio - 0.5 * math.log(1 - rho**2), -0.5 * math.log(1 - rho**2)


@pytest.mark.parametrize("bound", [bounds.dv, bounds.row_wise_dv, bounds.info_nce, bounds.smile])
def test_bounds_reach_the_mutual_information_with_the_optimal_critic(bound):
    values = []
    for seed in range(10):
        scores, truth = gaussian_scores(0.9, 1000, seed)
        values.append(bound(scores).item())
    assert sum(values) / len(values) == pytest.approx(truth, abs=0.05)


def test_nwj_reaches_the_mutual_information_with_its_own_optimal_critic():
    values = [bounds.nwj(gaussian_scores(0.6, 1000, seed)[0] + 1).item() for seed in range(10)]
    assert sum(values) / len(values) == pytest.approx(-0.5 * math.log(1 - 0.36), abs=0.03)


def test_half_the_jsd_bound_plus_log_2_reaches_the_divergence_and_never_passes_log_2():
    scores, _ = gaussian_scores(0.9, 2000, 0)
    divergence = bounds.jsd(scores).item() / 2 + math.log(2)
    ratio = scores.diagonal()  # the divergence by its definition, from the known density ratio
    product = off_diagonal(scores)
    by_hand = 0.5 * (math.log(2) - F.softplus(-ratio).mean()) + 0.5 * (math.log(2) - F.softplus(product).mean())
    assert divergence == pytest.approx(by_hand.item())
    assert 0 < divergence < math.log(2)


@pytest.mark.parametrize("bound", [bounds.dv, bounds.row_wise_dv, bounds.info_nce, bounds.jsd, bounds.smile])
def test_bounds_stay_finite_at_scores_of_500(bound):
    a, b = embeddings(dtype=torch.float32)
    scores = 500 * score_matrix(CRITICS["cosine"], a, b)
    assert torch.isfinite(bound(scores))
    reference = bound(500 * score_matrix(CRITICS["cosine"], a.double(), b.double()))
    assert bound(scores).item() == pytest.approx(reference.item(), rel=1e-4)


def test_log_mean_exp_is_the_log_of_the_mean():
    x = torch.randn(3, 4, dtype=torch.float64)
    torch.testing.assert_close(log_mean_exp(x), x.exp().mean().log())
    torch.testing.assert_close(log_mean_exp(x, dim=1), x.exp().mean(1).log())


@pytest.mark.parametrize(("temperature", "known"), [(1.0, 0.996), (0.5, 1.984), (0.2, 4.902), (0.07, 13.493)])
def test_the_ceiling_of_the_cosine_critic_on_the_sphere(temperature, known):
    assert bounds.uniform_sphere_dv(128, temperature) == pytest.approx(known, abs=5e-4)
    generator = torch.Generator().manual_seed(0)
    z = F.normalize(torch.randn(2000, 8, generator=generator, dtype=torch.float64), dim=1)
    measured = bounds.dv(z @ z.T / temperature).item()
    if temperature >= 0.2:  # below that, a sample of 2000 has too few near pairs
        assert bounds.uniform_sphere_dv(8, temperature) == pytest.approx(measured, rel=0.02)
