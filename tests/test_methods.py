"""The contract of a row, tested for every row of the table."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoModel, AutoModelForPreTraining

from hf_mi_ssl.errors import UserError
from hf_mi_ssl.methods import METHODS, describe, get_method, main, markdown_table
from tests.conftest import forward, small_config, small_model


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


# The contract


def test_a_row_is_json(method):
    row = METHODS[method]
    assert json.loads(json.dumps(row.columns)) == row.columns
    assert row.kind in ("bound", "surrogate")
    assert set(small_config(method).formulas) == {
        row.columns["critic"],
        *row.columns["joint"],
        *row.columns["marginal"],
    }


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
    if METHODS[method].paradigm == "sdmi" and "predictor_hidden_size" not in METHODS[method].columns:
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
    if model.config.batch_norm_group_size is not None:  # whole groups, and those of the target are made of all
        order = torch.arange(len(a)).view(-1, model.config.batch_norm_group_size).flip(0).flatten()
    one, other = forward(copy.deepcopy(model), a, b).loss, forward(model, a[order], b[order]).loss
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_swapping_the_views_changes_nothing_where_the_row_is_symmetric(method, views):
    model = small_model(method).double()
    a, b = (view.double() for view in views)
    if getattr(model.config, "symmetric", True):
        one, other = forward(copy.deepcopy(model), a, b).loss, forward(model, b, a).loss
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_bf16_autocast_gives_the_bound_of_the_same_embeddings(method, views):
    model = small_model(method)
    for phase in model.phases:
        sides = model.sides(*views, phase=phase)
        outside = copy.deepcopy(model).compare(*sides, phase)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = model.compare(*sides, phase)
            whole = forward(model, *views, phase)
        assert inside.loss.dtype == whole.loss.dtype == torch.float32
        assert torch.equal(inside.loss, outside.loss)
        assert whole.loss.isfinite()


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
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-3)
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
    assert sum(values[-5:]) / 5 > sum(values[1:6]) / 5 + 0.05  # at the first step, a queue holds random directions


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
