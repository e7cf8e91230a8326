"""What terms cost: tiles and Gram sides give the value and the gradient of the plain formula, in less memory."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hf_mi_ssl.mi import CRITICS, JOINT_TERMS, MARGINAL_TERMS, Pairs, streaming
from hf_mi_ssl.mi.gram import log_det_shifted, on_the_smaller_side, squared_norm
from hf_mi_ssl.mi.pairs import off_diagonal

TERMS = JOINT_TERMS | MARGINAL_TERMS
# No test of memory: F × F matrices by definition; distributions over prototypes; nothing at all; a queue.
LEFT_OUT = ("gaussian", "prototype_partition", "zeroth_order", "queue")


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setitem(streaming._SIDE, "cpu", 8)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def value_and_gradients(function, *inputs):
    inputs = [x.clone().requires_grad_() for x in inputs]
    value = function(*inputs)
    weights = normal(*value.shape, seed=9, dtype=value.dtype)
    return value.detach(), *torch.autograd.grad((value * weights).sum(), inputs)


def plain_rows(left, right, skip=()):
    scores = left @ right.T
    distance = (torch.arange(len(left))[:, None] - torch.arange(len(right))).abs()
    skipped = torch.isin(distance, torch.tensor(skip, dtype=torch.long))
    return torch.logsumexp(scores.masked_fill(skipped, -torch.inf), 1)


class LargestTensor(TorchDispatchMode):
    """The number of elements of the largest tensor that is made."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        sizes = [x.untyped_storage().nbytes() // x.element_size() for x in tree_leaves(made) if torch.is_tensor(x)]
        self.numel = max([self.numel, *sizes])
        return made


def largest_tensor(term, a, b):
    with LargestTensor() as largest:
        value_and_gradients(lambda x, y: TERMS[term](Pairs(x, y, CRITICS["cosine"], 0.2)), a, b)
    return largest.numel


@pytest.mark.parametrize("skip", [(), (0,), (0, 13)])
@pytest.mark.parametrize(("n", "m"), [(24, 24), (27, 27), (30, 19), (9, 50)])
@pytest.mark.usefixtures("small_tiles")
def test_rows_summed_in_tiles_are_rows_summed_at_once(n, m, skip):
    left, right = normal(n, 5), normal(m, 5, seed=1)
    tiled = value_and_gradients(lambda x, y: streaming.log_sum_exp_rows(x, y, skip), left, right)
    plain = value_and_gradients(lambda x, y: plain_rows(x, y, skip), left, right)
    torch.testing.assert_close(tiled, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("skip", [(), (0,), (0, 13)])
@pytest.mark.parametrize("n", [26, 24, 9, 3])
def test_one_triangle_of_symmetric_scores_is_enough(n, skip, monkeypatch):
    z = normal(n, 5)
    plain = value_and_gradients(lambda x: plain_rows(x, x, skip), z)
    for side in (8, 2048):  # in tiles, at once
        monkeypatch.setitem(streaming._SIDE, "cpu", side)
        found = value_and_gradients(lambda x: streaming.log_sum_exp_rows(x, x, skip, symmetric=True), z)
        torch.testing.assert_close(found, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.usefixtures("small_tiles")
def test_scores_of_500_stay_finite_and_right(symmetric):
    z = normal(30, 4)
    z = (z / z.norm(dim=1, keepdim=True)) * 500**0.5
    z[7] = -z[3]  # a score of −500 beside one of +500
    rows = lambda x: streaming.log_sum_exp_rows(x, x, (0,), symmetric)  # noqa: E731
    exact = value_and_gradients(lambda x: plain_rows(x, x, (0,)), z)
    torch.testing.assert_close(value_and_gradients(rows, z), exact, rtol=1e-10, atol=1e-10)
    single = value_and_gradients(rows, z.float())
    assert all(torch.isfinite(x).all() for x in single)
    torch.testing.assert_close([x.double() for x in single], list(exact), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.usefixtures("small_tiles")
def test_powers_summed_in_tiles_are_powers_summed_at_once(order):
    inputs = normal(30, 5), normal(19, 5, seed=1), normal(seed=2)
    tiled = value_and_gradients(lambda x, y, c: streaming.sum_of_powers(x, y, c, order), *inputs)
    plain = value_and_gradients(lambda x, y, c: ((x @ y.T - c) ** order).sum(), *inputs)
    torch.testing.assert_close(tiled, plain, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("critic", CRITICS)
def test_critics_are_symmetric(critic):
    """NT-Xent computes the scores of one triangle only."""
    a, b = normal(12, 5), normal(12, 5, seed=1)
    (left_a, right_b), (left_b, right_a) = CRITICS[critic](a, b), CRITICS[critic](b, a)
    torch.testing.assert_close(left_a @ right_b.T, (left_b @ right_a.T).T)
    torch.testing.assert_close(left_a @ right_a.T, (left_a @ right_a.T).T)


@pytest.mark.parametrize("critic", CRITICS)
@pytest.mark.parametrize("term", ["nt_xent", "decoupled", "uniformity", "info_nce", "info_nce_of_targets", "exact"])
def test_terms_in_tiles_have_the_gradients_of_terms_at_once(term, critic, monkeypatch):
    a, b = normal(21, 5), normal(21, 5, seed=1)
    found = []
    for side in (8, 2048):
        monkeypatch.setitem(streaming._SIDE, "cpu", side)
        found.append(value_and_gradients(lambda x, y: TERMS[term](Pairs(x, y, CRITICS[critic], 0.2)), a, b))
    torch.testing.assert_close(*found, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("n", "d"), [(40, 6), (6, 40)])
def test_second_order_from_moments_is_second_order_from_scores(n, d):
    def from_scores(a, b):
        negatives = off_diagonal(Pairs(a, b, CRITICS["negative_squared_distance"], 2.0).scores)
        return negatives.mean() + negatives.var(correction=0) / 2

    inputs = normal(n, d), normal(n, d, seed=1) + 0.5
    moments = lambda a, b: TERMS["second_order"](Pairs(a, b, CRITICS["negative_squared_distance"], 2.0))  # noqa: E731
    found, expected = (value_and_gradients(function, *inputs) for function in (moments, from_scores))
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("n", "d"), [(40, 6), (6, 40), (12, 12)])
def test_both_gram_sides_have_the_same_value_and_gradient(n, d):
    x, y = normal(n, d), normal(n, d, seed=1)
    cases = [
        (squared_norm, lambda x, y: (x.T @ y).square().sum(), (x, y)),
        (lambda x: squared_norm(x, x), lambda x: (x.T @ x).square().sum(), (x,)),
        (lambda x: log_det_shifted(x, 0.1), lambda x: torch.logdet(x.T @ x + 0.1 * torch.eye(d, dtype=x.dtype)), (x,)),
        (lambda x, y: torch.stack([(u @ v.T).sin().sum() for u, v in [on_the_smaller_side(x, y)]]),
         lambda x, y: (x @ y.T).sin().sum()[None], (x, y)),
    ]  # fmt: skip
    for found, plain, inputs in cases:
        expected = value_and_gradients(plain, *inputs)
        torch.testing.assert_close(value_and_gradients(found, *inputs), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("n", "d"), [(64, 64), (64, 2048), (256, 1024), (1024, 64), (1024, 512)])
@pytest.mark.parametrize("term", ["redundancy", "covariance"])
def test_taking_the_diagonal_off_the_gram_side_costs_little_precision(term, n, d):
    a = normal(n, d)
    b = a + 0.5 * normal(n, d, seed=1)
    found = [
        value_and_gradients(lambda x, y: TERMS[term](Pairs(x, y, CRITICS["cosine"])), a.to(dtype), b.to(dtype))
        for dtype in (torch.float64, torch.float32)
    ]
    (value, gradient, _), (single_value, single_gradient, _) = found
    assert single_value.item() == pytest.approx(value.item(), rel=2e-5)
    assert (single_gradient - gradient).norm() < 2e-5 * gradient.norm()


@pytest.mark.parametrize("term", [t for t in TERMS if t not in (*LEFT_OUT, "sketched_gaussianity")])
def test_no_term_holds_a_matrix_of_all_pairings(term):
    n = 4096
    largest = largest_tensor(term, normal(n, 4, dtype=torch.float32), normal(n, 4, seed=1, dtype=torch.float32))
    assert largest <= 512**2, f"{largest} numbers at once, N² is {n**2}"


@pytest.mark.parametrize("term", [t for t in TERMS if t not in LEFT_OUT])
def test_no_term_holds_a_matrix_of_all_dimensions(term):
    n, d = 64, 8192
    largest = largest_tensor(term, normal(n, d, dtype=torch.float32), normal(n, d, seed=1, dtype=torch.float32))
    assert largest <= 256 * d, f"{largest} numbers at once, D² is {d**2}"  # 256: the directions of a sketch
