"""How far surrogates of the marginal term are from the exact one: laws with a known answer, identities, the recipe."""

import importlib.util
import json
import math
import sys
from pathlib import Path

import pytest
import torch
from numpy.polynomial.legendre import leggauss

from hf_mi_ssl.errors import UserError
from hf_mi_ssl.evaluation import mardia_skewness
from hf_mi_ssl.evaluation.coordinates import own_coordinates, predicted, target_whiteness
from hf_mi_ssl.evaluation.surrogates import surrogate_rows
from hf_mi_ssl.hub import export_encoder, export_pretraining
from hf_mi_ssl.mi import CRITICS, MARGINAL_TERMS, Pairs
from tests.conftest import small_config, small_model

D, N = 5, 1024


def normal(n=N, d=D, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(seed=0):
    return torch.rand(N, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def laplace(seed=0):
    half = uniform(seed) - 0.5
    return -half.sign() * torch.log1p(-2 * half.abs())


def clusters(seed=0):
    """Eight clusters at random, with a little noise: what a useful representation looks like."""
    which = torch.randint(8, (N,), generator=torch.Generator().manual_seed(seed))
    return normal(8, D, 7)[which] + 0.3 * normal(N, D, seed + 1)


def row(z, tau, coordinates="whitened", z_b=None):
    (found,) = surrogate_rows(z, z if z_b is None else z_b, coordinates, [tau])
    return found


def within(found, expected, least=1e-4):
    """The value is what is expected, within four of its standard errors."""
    assert abs(found.value - expected) <= 4 * found.standard_error + least, (found, expected)


# Laws with a known answer: d = 5, τ = 3, white


def test_a_gaussian_has_truncation_only_and_it_is_the_rest_of_the_series_of_the_log_determinant():
    found = row(normal(), 3.0)
    whole = -D / 2 * math.log1p(-1 / 9)
    within(found.exact, whole)
    assert found.values["second_order"].value == pytest.approx(D / 18, abs=1e-4)
    assert found.values["gaussian"].value == pytest.approx(whole, abs=1e-4)
    assert found.parts["truncation"].value == pytest.approx(whole - D / 18, abs=1e-4)
    within(found.parts["non_gaussianity"], 0)
    within(found.parts["isserlis"], 0)


def test_of_a_uniform_law_order_two_is_right_for_the_wrong_reason():
    """Light tails take off as much as the truncation adds: 0.278, 0.278, 0.294."""
    nodes, weights = (torch.as_tensor(x) for x in leggauss(40))
    kernel = torch.exp(3 * torch.outer(nodes, nodes) / 3)  # both on [−√3, √3]
    exact = D * math.log(weights @ kernel @ weights / 4)
    found = row(uniform(), 3.0)
    assert exact == pytest.approx(0.2783, abs=5e-4)
    within(found.exact, exact)
    assert found.parts["non_gaussianity"].value == pytest.approx(-found.parts["truncation"].value, abs=2e-3)


def test_the_third_order_of_a_skewed_law_is_its_skewness():
    """Rectified Gaussians: β = 5 · 1.641², 0.278 at order 2 and 0.361 at order 3."""
    found = row(normal().relu(), 3.0)
    mean, second, third = (2 * math.pi) ** -0.5, 0.5, 2 * (2 * math.pi) ** -0.5
    skewness = (third - 3 * mean * second + 2 * mean**3) / (second - mean**2) ** 1.5
    within(found.values["third_order"], D / 18 + D * skewness**2 / 162)
    assert found.errors["second_order"].value > found.errors["third_order"].value > 0


def test_the_leading_error_is_skewness_over_the_third_power_of_the_temperature():
    z = normal(4096).clamp_min(-0.5)
    beta, tau = mardia_skewness(z), 40.0
    found = row(z, tau)
    assert found.errors["second_order"].value == pytest.approx(beta / (6 * tau**3), rel=0.1)
    assert abs(found.errors["third_order"].value) < 0.1 * found.errors["second_order"].value
    assert found.skewness == pytest.approx(beta / (6 * tau**3) / (D / (2 * tau**2)), rel=0.05)


def test_order_two_asks_too_little_of_clusters():
    found = row(clusters(), 3.0)
    assert found.parts["non_gaussianity"].value > 4 * found.parts["non_gaussianity"].standard_error
    assert abs(found.errors["third_order"].value) < 0.5 * found.errors["second_order"].value


def test_an_exact_term_that_no_sample_knows_is_not_believed():
    """Of Laplace laws E e^T is infinite: what a sample says of it is noise."""
    found = row(laplace(), 3.0)
    assert found.exact.standard_error > 0.05
    assert any("known to ±" in reason for reason in found.reasons)
    within(found.values["second_order"], D / 18, 1e-6)


# Identities


@pytest.mark.parametrize("coordinates", ["cosine", "standardised", "whitened"])
def test_the_parts_make_up_the_error(coordinates):
    a = clusters() + 0.5
    b = a + 0.5 * laplace(3)
    found = row(a, 15.0, coordinates, b)
    parts = {name: part.value for name, part in found.parts.items()}
    error = found.errors["second_order"].value
    assert parts["non_gaussianity"] + parts["truncation"] == pytest.approx(error, abs=1e-12)
    assert found.exact.value - found.values["second_order"].value == pytest.approx(error, abs=1e-12)
    if coordinates == "standardised":  # V_P^G − V_Q = tr C²
        x, y = ((z - z.mean(0)) / z.std(0) for z in (a, b))
        cross = x.T @ y / N
        tr_c2 = (cross * cross.T).sum().item() / (2 * 15**2)
        assert parts["isserlis"] + parts["wrong_measure"] == pytest.approx(tr_c2, rel=0.02)


def test_values_are_those_of_the_population():
    """Plug-in moments of N pairs are too large by D²/N and the like: here more than five standard errors."""
    z = normal(256, 32)
    found = row(z, 20.0, "standardised")
    truth = 32 / (2 * 20**2)
    plain = (32 + MARGINAL_TERMS["redundancy"](Pairs(z, z, CRITICS["bilinear"])).item()) / (2 * 20**2)
    for name in ("second_order", "redundancy", "covariance"):
        within(found.values[name], truth)
    assert plain - truth > 5 * found.values["redundancy"].standard_error


def test_standard_errors_are_those_of_repetition():
    draws = [row(clusters(seed), 5.0) for seed in range(10)]
    values = torch.tensor([found.errors["second_order"].value for found in draws])
    said = torch.tensor([found.errors["second_order"].standard_error for found in draws])
    assert 0.5 < (said.square().mean().sqrt() / values.std()).item() < 2


def test_the_published_weights_are_temperatures():
    """50/D aᵀb − covariance and 2 aᵀb − λ redundancy are J/τ − M₂, times one number, off the diagonal. Ours."""
    a = normal(64, 6)
    x, y = ((z - z.mean(0)) / z.std(0, correction=0) for z in (a, a + normal(64, 6, 1)))
    for method, joint in (("vicreg", 2 * 25 / 6), ("barlow_twins", 2.0)):
        config = small_config(method)
        place, tau = own_coordinates(config)
        assert place == "standardised"
        ((name, weight),) = ((k, v) for k, v in config.marginal.items() if k != "variance")
        off = MARGINAL_TERMS[name](Pairs(x, y, CRITICS["bilinear"])) * (6 / 2 if name == "covariance" else 1)
        weighted = weight * MARGINAL_TERMS[name](Pairs(x, y, CRITICS["bilinear"]))
        torch.testing.assert_close(joint * tau * off / (2 * tau**2), weighted)


def test_the_coordinates_of_every_row(method):
    place, tau = own_coordinates(small_config(method))
    assert place in ("cosine", "standardised", "whitened")
    if method in ("jmi", "sdmi", "simclr", "byol"):
        assert (place, tau) == ("cosine", small_config(method).temperature)
    if method in ("dino", "corinfomax", "lejepa"):  # their temperature is not one of aᵀb
        assert tau is None


# The predictor


def test_a_predictor_of_a_white_target_is_the_second_order():
    t, noise = normal(2048, 8), normal(2048, 8, 1)
    p = t + noise
    found = row(p, 1.0, "predicted", t)
    assert max(target_whiteness(t)) < 0.1
    within(found.parts["coloured_target"], 0)
    second, predictor = found.gradients["second_order"], found.gradients["predictor"]
    assert second == pytest.approx(predictor, abs=0.05)


def test_a_coloured_target_costs_what_its_covariance_lacks():
    """M₂ − M_predictor = ½ E hᵀ(Σ_B − I)h, centred target."""
    scale = torch.linspace(0.2, 2, 8, dtype=torch.float64)
    t = normal(2048, 8) * scale
    t = torch.cat([t, -t])
    p = t + 0.5 * normal(4096, 8, 1)
    h, y = predicted(p, t)
    expected = 0.5 * ((h @ torch.cov(y.T) * h).sum(1) - h.square().sum(1)).mean().item()
    found = row(p, 1.0, "predicted", t)
    assert found.parts["coloured_target"].value == pytest.approx(expected, rel=0.02)
    assert target_whiteness(t)[0] > 0.5
    assert found.gradients["predictor"][0] < found.gradients["second_order"][0]


def test_a_mean_that_targets_share_is_no_score():
    """Targets in a cone read 10⁴ nats where it counted."""
    t, noise = normal(N, 8), normal(N, 8, 1)
    for spread in (1.0, 0.1, 0.01):
        found = row(spread * (t + 0.3 * noise) + 1, 1.0, "predicted", spread * t + 1)
        assert 0 < found.exact.value < 20
        assert target_whiteness(spread * t + 1)[1] > 0.3 / spread  # and is told of


@pytest.mark.parametrize("place", ["cosine", "standardised", "whitened", "predicted"])
def test_what_is_not_finite_or_does_not_vary_costs_one_line(place):
    z = normal()
    bad = z.clone()
    bad[3, 2] = math.nan
    for a, b in ((z, bad), (bad, z)):
        with pytest.raises(UserError, match="NaN or infinity"):
            surrogate_rows(a, b, place)
    one, point = torch.ones(N, D), torch.ones(N, D)
    one[3] = 2  # varies in one of the groups that are left out in turn
    one[3, 0] = 5
    for z in (point,) if place in ("standardised", "cosine") else (point, one):
        with pytest.raises(UserError, match="collapsed"):
            surrogate_rows(z, z, place)


# The validity rule


def test_the_verdict_follows_the_rule():
    rows = surrogate_rows(normal(), normal(), "whitened")
    assert [found.spread for found in rows] == pytest.approx([1 / times for times in (0.5, 1.5, 3, 5, 10, 20)])
    assert [bool(found.reasons) for found in rows] == [True, True, True, False, False, False]
    assert rows[0].values["gaussian"].value == math.inf
    assert rows[0].parts["non_gaussianity"].value == -math.inf
    assert math.isnan(rows[0].parts["truncation"].standard_error)
    assert "λ_max(Σ)/τ = 2.0" in rows[0].reasons[0]


def test_skewed_embeddings_are_unreliable_beyond_the_radius_too():
    found = row(clusters() ** 2, 5.0)
    assert found.spread < 0.25
    assert any(reason.startswith("skewness") for reason in found.reasons)
    assert any(reason.startswith("measured") for reason in found.reasons)


def test_the_rows_own_temperature_is_among_them_and_collapse_is_named():
    assert 0.2 in [found.temperature for found in surrogate_rows(normal(), normal(), "cosine", own=0.2)]
    with pytest.raises(UserError, match="collapsed"):
        surrogate_rows(torch.ones(64, 4), torch.ones(64, 4), "cosine")


# The recipe


@pytest.fixture(scope="module")
def recipe():
    path = Path(__file__).resolve().parent.parent / "recipes" / "surrogate_report.py"
    spec = importlib.util.spec_from_file_location("surrogate_report", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(recipe, monkeypatch, model, folder, output):
    data = ["--dataset_name", "imagefolder", "--data_dir", folder, "--image_size", 16, "--dataloader_num_workers", 0]
    argv = ["surrogate_report.py", "--model", model, *data, "--output_dir", output]
    monkeypatch.setattr(sys, "argv", [*map(str, argv)])
    assert recipe.main() == 0
    assert (output / "surrogates.png").stat().st_size > 10_000
    return json.loads((output / "surrogates.json").read_text()), (output / "surrogates.md").read_text()


def test_a_run_is_measured_in_its_embeddings_and_at_its_predictor(recipe, folder, monkeypatch, tmp_path, capsys):
    model = small_model("byol")
    directory = tmp_path / "run"
    export_encoder(model.encoder, directory, image_size=16, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
    export_pretraining(model, directory)
    found, text = run(recipe, monkeypatch, directory, folder, tmp_path / "whole")
    assert {row["coordinates"] for row in found["rows"]} == {"cosine", "standardised", "whitened", "predicted"}
    assert found["own"] == {"cosine": 1.0, "predicted": 1.0}
    assert {row["dimension"] for row in found["rows"]} == {16, 2}
    assert text.rstrip() in capsys.readouterr().out
    assert "1 (own)" in text
    assert "The predictor's target" in text
    (directory / "pretraining" / "config.json").unlink()
    alone, text = run(recipe, monkeypatch, directory, folder, tmp_path / "alone")
    assert {row["coordinates"] for row in alone["rows"]} == {"cosine", "standardised", "whitened"}
    assert alone["own"] == {}
    assert "predictor" not in text


def test_too_few_pairs_cost_one_line(recipe, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["surrogate_report.py", "--model", "none", "--n", "8"])
    with pytest.raises(UserError, match="too few pairs"):
        recipe.main()
