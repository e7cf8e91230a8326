"""The contract of a row, tested for every row of the table, and the rows against their papers' pseudo-code."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoModel, AutoModelForPreTraining

from hf_mi_ssl.errors import UserError
from hf_mi_ssl.methods import METHODS, describe, formulas, get_method, main, markdown_table
from tests.conftest import forward, small_config, small_model
from tests.oracles import dv, simclr, simsiam


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


# The contract


def test_a_row_is_json(method):
    row = METHODS[method]
    assert json.loads(json.dumps(row.columns)) == row.columns
    assert row.kind in ("bound", "surrogate")
    names = {key: row.columns[key] for key in ("critic", "joint", "marginal")}
    assert set(formulas(**names)) == {names["critic"], *names["joint"], *names["marginal"]}


def test_only_the_terms_of_a_bound_are_called_a_bound(method):
    assert small_config(method).kind == METHODS[method].kind
    assert small_config(method, temperature=0.3).kind == METHODS[method].kind
    for columns in (
        {"joint": {"expected_score": 3.0}},
        {"marginal": {"second_order": 0.5}},
        {"marginal": {"exact": 2}},
    ):
        config = small_config(method, **columns)
        assert config.kind == "surrogate"
        assert set(config.formulas) == {config.critic, *config.joint, *config.marginal}
    if METHODS[method].paradigm == "sdmi":
        assert small_config(method, predictor_hidden_size=8).kind == "surrogate"


def test_the_configuration_of_a_row_survives_json(method):
    config = small_config(method)
    again = type(config)(**json.loads(config.to_json_string()))
    assert again.to_dict() == config.to_dict()
    assert type(again.encoder_config) is type(config.encoder_config)


def test_the_loss_is_the_negative_of_joint_minus_marginal_and_every_term_is_named(method, views):
    model = small_model(method)
    for phase in model.phases:
        outputs = forward(model, *views, phase)
        assert set(outputs.joint) == set(METHODS[method].columns["joint"])
        assert set(outputs.marginal) == set(METHODS[method].columns["marginal"])
        value = sum(outputs.joint.values()) - sum(outputs.marginal.values())
        torch.testing.assert_close(outputs.loss, -value)
        torch.testing.assert_close(outputs.value, value)
        assert outputs.loss.isfinite()
        assert outputs.loss.ndim == 0


def test_the_e_step_moves_the_online_branch_and_never_the_target(method, views):
    model = small_model(method)
    forward(model, *views).loss.backward()
    moved = set(gradients(model))
    expected = {name for name, _ in model.named_parameters() if not name.startswith("target.")}
    assert moved == expected


def test_the_m_step_moves_the_target_and_never_the_online_branch(method, views):
    model = small_model(method)
    if "M" not in model.phases:
        assert not any(p.requires_grad for n, p in model.named_parameters() if n.startswith("target."))
        return
    forward(model, *views, "M").loss.backward()
    assert set(gradients(model)) == {name for name, _ in model.named_parameters() if name.startswith("target.")}


def test_permuting_the_batch_changes_nothing(method, views):
    model = small_model(method).double()
    a, b = (view.double() for view in views)
    order = torch.randperm(len(a), generator=torch.Generator().manual_seed(0))
    one, other = forward(model, a, b).loss, forward(model, a[order], b[order]).loss
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_swapping_the_views_changes_nothing_where_the_row_is_symmetric(method, views):
    model = small_model(method).double()
    a, b = (view.double() for view in views)
    if getattr(model.config, "symmetric", True):
        one, other = forward(model, a, b).loss, forward(model, b, a).loss
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_bf16_autocast_gives_the_bound_of_the_same_embeddings(method, views):
    model = small_model(method)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = forward(model, *views)
    assert outputs.loss.dtype == torch.float32
    torch.testing.assert_close(outputs.loss, forward(model, *views).loss, rtol=0.1, atol=0.1)


def test_a_saved_model_gives_the_same_embeddings_through_the_auto_classes(method, views, tmp_path):
    model = small_model(method).eval()
    model.save_pretrained(tmp_path)
    whole = AutoModelForPreTraining.from_pretrained(tmp_path)
    encoder = AutoModel.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(forward(whole, *views).loss, forward(model, *views).loss)
        representation = model.encoder(views[0]).pooler_output.flatten(1)
        assert torch.equal(encoder(views[0]).pooler_output, representation)


def test_training_on_separable_clusters_raises_the_value(method):
    generator = torch.Generator().manual_seed(0)
    centres = 2 * torch.randn(4, 3, 8, 8, generator=generator)
    model = small_model(method)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    values = []
    for _ in range(40):
        x = centres[torch.randint(4, (32,), generator=generator)]
        a, b = (x + 0.5 * torch.randn(x.shape, generator=generator) for _ in range(2))
        for phase in model.phases:
            outputs = forward(model, a, b, phase)
            outputs.loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        if hasattr(model, "update_target"):
            model.update_target(0.9)
        values.append(outputs.value.item())
    assert sum(values[-5:]) / 5 > sum(values[:5]) / 5 + 0.1


# The rows against their papers


def outputs_of(model, views):
    z = [model.embed(view) for view in views]
    p = [model.predictor(x) for x in z] if getattr(model, "predictor", None) is not None else z
    return z, p


def assert_equals_oracle(model, views, oracle, constant=0.0):
    """The same value up to the documented constant, and the same gradient of every parameter."""
    twin = copy.deepcopy(model)  # batch norm moves its statistics: each side needs its own
    loss = forward(model, *views).loss
    loss.backward()
    expected = oracle(twin)
    expected.backward()
    torch.testing.assert_close(loss, expected + constant, rtol=1e-8, atol=1e-8)
    ours, theirs = gradients(model), gradients(twin)
    assert set(ours) == set(theirs)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


@pytest.fixture
def wide_views(views):
    return tuple(view.double() for view in views)


def test_simclr_is_its_paper_up_to_log_2n_minus_1(wide_views):
    model = small_model("simclr").double()
    oracle = lambda twin: simclr.loss(*outputs_of(twin, wide_views)[0], 0.5)  # noqa: E731
    assert_equals_oracle(model, wide_views, oracle, simclr.constant(len(wide_views[0])).double())


def test_simsiam_is_its_paper(wide_views):
    model = small_model("simsiam").double()

    def oracle(twin):
        (z_a, z_b), (p_a, p_b) = outputs_of(twin, wide_views)
        return simsiam.loss(p_a, p_b, z_a, z_b)

    assert_equals_oracle(model, wide_views, oracle)


def test_jmi_is_the_donsker_varadhan_bound(wide_views):
    model = small_model("jmi").double()
    oracle = lambda twin: dv.loss(*outputs_of(twin, wide_views)[0], model.config.temperature)  # noqa: E731
    assert_equals_oracle(model, wide_views, oracle)


@pytest.mark.parametrize(("phase", "fixed"), [("E", "target"), ("M", "online")])
def test_sdmi_is_the_donsker_varadhan_bound_of_two_encoders_with_one_of_them_fixed(wide_views, phase, fixed):
    model = small_model("sdmi", target_init="independent").double()
    twin = copy.deepcopy(model)
    forward(model, *wide_views, phase).loss.backward()
    (encoder, projector), (other, other_projector) = twin.branches["online"], twin.branches["target"]
    z = projector(encoder(wide_views[0]).pooler_output.flatten(1))
    t = other_projector(other(wide_views[1]).pooler_output.flatten(1))
    dv.loss(*((z, t.detach()) if fixed == "target" else (z.detach(), t)), 0.2).backward()
    theirs = gradients(twin)
    assert set(gradients(model)) == set(theirs)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-6, atol=1e-9)


# What the table prints


def test_the_table_prints_every_row_and_a_row_prints_its_terms_source(capsys):
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in METHODS)
    assert main(["simclr"]) == 0
    printed = capsys.readouterr().out
    assert "def nt_xent(p: Pairs)" in printed
    assert "J = mean_i T(a_i, b_i)" in printed
    for name in METHODS:
        assert len(describe(name).splitlines()) <= 45
        assert f"| `{name}` |" in markdown_table()


def test_an_unknown_method_names_the_nearest(capsys):
    with pytest.raises(UserError, match="did you mean 'simsiam'"):
        get_method("simsam")
    assert main(["simsam"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_module_runs_as_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "hf_mi_ssl.methods", "jmi"], capture_output=True, text=True, check=True
    )
    assert "L = expected_score − exact" in done.stdout
    assert done.stderr == ""
