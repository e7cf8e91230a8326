"""Theory, the two paradigms: what alternation, a stop-gradient and a predictor do, and what they do not."""

import copy

import pytest
import torch

from hf_mi_ssl.mi import CRITICS, Pairs
from hf_mi_ssl.nn.heads import Predictor
from tests.conftest import forward, small_model
from tests.test_theory import J, M, close, covariance, normal, pairs, product, two_views, white

# Alternation and the stop-gradient


def test_a_stop_gradient_without_predictor_gives_half_the_joint_gradient(views):
    """Tied weights, both orders: the stop-gradient is vacuous, so the prototype takes two encoders. Ours."""
    columns = {"temperature": 0.5, "marginal": {"exact": 1.0}, "projector_num_layers": 2}
    tied = small_model("simsiam", predictor_hidden_size=None, **columns).double()
    joint = small_model("jmi", **columns).double()
    joint.load_state_dict(tied.state_dict())
    for model in (tied, joint):
        forward(model, *(view.double() for view in views)).loss.backward()
    half = dict(tied.named_parameters())
    for name, whole in joint.named_parameters():
        torch.testing.assert_close(2 * half[name].grad, whole.grad, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("marginal", M)
def test_the_stop_gradient_is_vacuous_with_tied_weights_whatever_the_marginal(marginal):
    """∇L(f(x₁), sg f(x₂)) + ∇L(sg f(x₁), f(x₂)) = ∇L(f(x₁), f(x₂)) for any L. Ours."""
    x_1, x_2 = two_views()
    weight = normal(3, 3, 1).requires_grad_()

    def gradient(stop_1=False, stop_2=False):
        a, b = x_1 @ weight, x_2 @ weight
        negatives = normal(9, 3, 4)
        p = Pairs(a.detach() if stop_1 else a, b.detach() if stop_2 else b, CRITICS["cosine"], 0.5, negatives)
        return torch.autograd.grad(J["expected_score"](p) - M[marginal](p), weight)[0]

    close(gradient(stop_2=True) + gradient(stop_1=True), gradient())


def test_alternating_steps_are_monotone_by_smoothness():
    """Bilinear critic: L is concave in Z_A and in Z_B, and steps of η = τ²/max‖b‖² gain ≥ ½η‖∇‖² each. Ours.

    Smoothness alone gives that, without the concavity that the paper's Proposition 3.1 assumes."""
    tau, (a, b) = 0.5, two_views()

    def value(a, b):
        p = pairs(a, b, temperature=tau)
        return J["expected_score"](p) - M["exact"](p)

    other = normal(40, 3, 9)
    assert value((a + other) / 2, b) >= (value(a, b) + value(other, b)) / 2
    for _ in range(20):
        for moving, fixed in ((a, b), (b, a)):
            before, z = value(a, b), moving.clone().requires_grad_()
            gradient = torch.autograd.grad(value(z, fixed) if moving is a else value(fixed, z), z)[0]
            step = tau**2 / fixed.square().sum(1).max()
            moving += step * gradient
            assert value(a, b) >= before + step / 2 * gradient.square().sum() - 1e-12


def test_two_encoders_with_the_whole_bound_need_no_stop_gradient():
    """Separate θ, ξ: simultaneous ascent without any stop-gradient is monotone too, and comes as far. Ours."""
    x_1, x_2 = two_views(d=4)

    def ascend(in_turn):
        theta, xi = (normal(4, 3, seed).requires_grad_() for seed in (1, 2))
        values = []
        for moving in [[theta], [xi]] * 200 if in_turn else [[theta, xi]] * 200:
            p = pairs(x_1 @ theta, x_2 @ xi, "cosine")
            values.append(J["expected_score"](p) - M["exact"](p))
            for z, gradient in zip(moving, torch.autograd.grad(values[-1], moving)):
                z.data += 0.2 * gradient
        assert values == sorted(values)
        assert values[-1] > values[0] + 0.5
        return values[-1].item()

    assert ascend(in_turn=True) == pytest.approx(ascend(in_turn=False), abs=0.01)


def reset(kernel, xi):
    """J = ξᵀKξ of a linear critic, before the E-step θ = Kξ/‖Kξ‖, after it, and after the reset ξ ← θ."""
    theta = torch.nn.functional.normalize(kernel @ xi, dim=0)
    return [(x @ kernel @ y).item() for x, y in ((xi, xi), (theta, xi), (theta, theta))]


def test_the_reset_ascends_where_the_views_are_exchangeable():
    """ξᵀKξ ≤ θᵀKξ ≤ θᵀKθ if K = Σ_i p(x|i) p(x'|i) ≥ 0, the kernel of positive pairs; not if indefinite. Ours."""
    falls = 0
    for seed in range(300):
        xi = torch.nn.functional.normalize(normal(8, 1, seed + 1)[:, 0], dim=0)
        of_images, any_matrix = normal(3, 8, seed).exp(), normal(8, 8, seed)
        before, step, after = reset(of_images.T @ of_images, xi)
        assert before <= step + 1e-9
        assert step <= after + 1e-9
        before, step, after = reset(any_matrix + any_matrix.T, xi)
        assert before <= step + 1e-9
        falls += step > after
    assert 0.8 < falls / 300 < 0.95


# The predictor


def predicted():
    """A target that is centred and white, and the prediction of it by a random head with batch norm and ReLU."""
    torch.manual_seed(0)
    a, b = two_views()
    return a, white(b), Predictor(3, 8).double()


def test_a_predictor_is_the_second_order_marginal_of_a_white_target():
    """−½E‖h(a) − b‖² + ½E‖b‖² = J − M₂ with T = h(a)ᵀb, value and gradient, for any h, if E b = 0, Cov b = I. Ours."""
    a, b, predictor = predicted()
    twin = copy.deepcopy(predictor)
    regression = 3 / 2 * J["negative_mse"](pairs(predictor(a), b)) + b.square().sum(1).mean() / 2
    h = twin(a)
    bound = J["expected_score"](pairs(h, b)) - M["second_order"](product(h, b))
    close(regression, bound)
    assert h.mean(0).abs().max() > 0.1  # not centred
    gradients = [torch.autograd.grad(v, m.parameters()) for v, m in ((regression, predictor), (bound, twin))]
    for ours, theirs in zip(*gradients):
        close(ours, theirs)


def test_what_a_target_that_is_not_white_changes():
    """M₂ = E[h]ᵀμ + ½(E[hᵀΣh] + μᵀCov(h)μ): the predictor's ½E‖h‖² is wrong by Σ − I and μ. Ours."""
    a, b, predictor = predicted()
    h = predictor(a).detach()
    b = 2 * b @ normal(3, 3) + 0.3
    mu, cov = b.mean(0), covariance(b)
    expected = h.mean(0) @ mu + ((h @ cov * h).sum(1).mean() + mu @ covariance(h) @ mu) / 2
    close(M["second_order"](product(h, b)), expected)
    assert abs(expected - h.square().sum(1).mean() / 2) > 0.1


def test_the_best_linear_predictor_reaches_half_the_squared_canonical_correlations():
    """max_h = ½ Σ ρ_i² ≤ −½ Σ log(1 − ρ_i²), the Gaussian MI. Ours."""
    a, b = (z - z.mean(0) for z in two_views())
    rho = torch.linalg.svdvals(white(a).T @ white(b) / len(a))
    weight = torch.linalg.lstsq(a, white(b)).solution.requires_grad_()
    h = a @ weight
    value = J["expected_score"](pairs(h, white(b))) - M["second_order"](product(h, white(b)))
    close(value, rho.square().sum() / 2)
    close(torch.autograd.grad(value, weight)[0], torch.zeros(3, 3))  # a maximum: it is concave in the weight
    assert value < -0.5 * torch.log1p(-rho.square()).sum()


def test_without_the_stop_gradient_the_predictors_target_shrinks():
    """∇_b of the regression is ∇_b of J, less b/n: a term −½E‖b‖² that no bound has, and that a stop-gradient (or a
    reset, or EMA) deletes. Ours."""
    a, b, predictor = predicted()
    h = predictor(a).detach()
    b.requires_grad_()
    regression = torch.autograd.grad(3 / 2 * J["negative_mse"](pairs(h, b)), b)[0]
    close(regression, torch.autograd.grad(J["expected_score"](pairs(h, b)), b)[0] - b / len(b))


@pytest.mark.parametrize(("m_step", "collapses"), [("gradient", True), ("ema", False), ("reset", False)])
def test_a_gradient_m_step_on_a_predictors_loss_collapses(m_step, collapses):
    """Linear encoders and predictor, −½E‖h − b‖² alone: best ξ is a point; EMA and reset keep off it. Ours."""
    x = normal(60, 4)
    x_1, x_2 = (white(x + normal(60, 4, seed)) for seed in (7, 8))
    theta, w = (z.requires_grad_() for z in (normal(4, 3, 1) / 2, torch.eye(3, dtype=torch.float64)))
    xi = theta.detach().clone().requires_grad_()
    variance = lambda: covariance(x_2 @ xi).trace().item()  # noqa: E731
    start = variance()
    for _ in range(300):
        for moving in [[theta, w], [xi]] if m_step == "gradient" else [[theta, w]]:
            value = 3 / 2 * J["negative_mse"](pairs(x_1 @ theta @ w, x_2 @ xi))
            for z, gradient in zip(moving, torch.autograd.grad(value, moving)):
                z.data += 0.1 * gradient
        if m_step != "gradient":
            xi.data.lerp_(theta.data, 0.1 if m_step == "ema" else 1.0)
    assert (variance() < 0.01 * start) if collapses else (variance() > 0.2 * start)
