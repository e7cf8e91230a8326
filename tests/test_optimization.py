"""Who decays, is adapted or stays as it is, at which step, and that a run's optimiser is timm's."""

import sys

import pytest
import torch
from torch import nn

from hf_mi_ssl.errors import UserError
from hf_mi_ssl.training import Plan, build_optimizer, optimization, parse_arguments, set_schedules
from tests.conftest import small_model
from tests.faults.harness import same


def arguments(*argv):
    defaults = ["--weight_decay", "0.1", "--learning_rate", "0.5"]
    return parse_arguments([*defaults, *map(str, argv)], "", method="simsiam")


def groups_by_parameter(model, optimizer):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: group for group in optimizer.param_groups for p in group["params"]}


def test_norms_and_biases_do_not_decay_and_everything_that_learns_is_there(method):
    model = small_model(method)
    found = groups_by_parameter(model, build_optimizer(model, arguments()))
    assert set(found) == {name for name, p in model.named_parameters() if p.requires_grad}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert found[name]["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0), name


def plan_of(args):
    """Ten steps an epoch, and twenty epochs unless the arguments say otherwise."""
    return Plan(args, num_images=640)


@pytest.mark.parametrize(("row", "expected"), [("simsiam", 0.5), ("byol", 0.25), ("moco_v3", 0.25), ("nnclr", 0.25)])
def test_the_learning_rate_of_the_predictor_stays_in_simsiam_alone(row, expected):
    model, args = small_model(row), arguments("--warmup_epochs", 0, "--num_train_epochs", 2)
    optimizer = build_optimizer(model, args)
    assert set_schedules(optimizer, plan_of(args), step=10) == pytest.approx(0.25)
    found = groups_by_parameter(model, optimizer)
    assert any(name.startswith("predictor.") for name in found)
    for name, group in found.items():
        assert group["lr"] == pytest.approx(expected if name.startswith("predictor.") else 0.25), name


def test_weight_decay_follows_a_cosine_to_its_end_where_there_is_decay():
    model, args = small_model("jmi"), arguments("--weight_decay", 0, "--weight_decay_end", 0.4)
    optimizer, plan = build_optimizer(model, args), plan_of(args)
    for step, expected in [(0, 0.0), (50, 0.2 - 0.2 * 0.5**0.5), (100, 0.2), (199, 0.4), (50, 0.2 - 0.2 * 0.5**0.5)]:
        set_schedules(optimizer, plan, step)
        for name, group in groups_by_parameter(model, optimizer).items():
            decays = model.get_parameter(name).ndim > 1
            assert group["weight_decay"] == pytest.approx(expected if decays else 0.0, abs=1e-4), (name, step)


def test_without_an_end_weight_decay_is_constant():
    model, args = small_model("jmi"), arguments()
    optimizer = build_optimizer(model, args)
    for step in (0, 17, 199):
        set_schedules(optimizer, plan_of(args), step)
        assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.1}


class Adapted(nn.Module):
    """A filter, a matrix, a norm and biases, and prototypes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 8))
        self.prototypes = nn.Linear(8, 6, bias=False)

    def backward(self):
        for parameter in self.parameters():
            parameter.grad = torch.randn_like(parameter)


def lars_formula(name, weight, gradients, rate, decay, momentum=0.9, trust=1e-3):
    """The weight after these gradients: v ← m v + λ (g + β w), w ← w − γ v, with rate γ, trust η and the local rate
    λ = η ‖w‖ / (‖g‖ + β ‖w‖) of arXiv 1708.03888; LARC's γ λ is at most γ."""
    velocity = torch.zeros_like(weight)
    for gradient in gradients:
        local = trust * weight.norm() / (gradient.norm() + decay * weight.norm())
        if name.endswith("larc"):
            local = (local / rate).clamp(max=1)
        step = local * (gradient + decay * weight)
        velocity = momentum * velocity + step
        weight = weight - rate * (step + momentum * velocity if name.startswith("n") else velocity)
    return weight


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("name", ["lars", "larc", "nlars", "nlarc"])
def test_lars_adapts_at_zero_weight_decay_and_never_norms_or_biases(name, decay):
    model = Adapted().double()
    args = arguments("--optimizer", name, "--weight_decay", decay, "--learning_rate", 0.01)
    optimizer = build_optimizer(model, args)
    before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    gradients = {key: [] for key in before}
    for _ in range(3):
        model.backward()
        for key, parameter in model.named_parameters():
            gradients[key].append(parameter.grad.clone())
        optimizer.step()
    for key, parameter in model.named_parameters():
        adapted = lars_formula(name, before[key], gradients[key], 0.01, decay)
        if parameter.ndim > 1:
            torch.testing.assert_close(parameter, adapted, rtol=1e-7, atol=1e-9, msg=key)
        else:  # SGD
            plain = nn.Parameter(before[key].clone())
            sgd = torch.optim.SGD([plain], lr=0.01, momentum=0.9, nesterov=name.startswith("n"))
            for plain.grad in gradients[key]:
                sgd.step()
            torch.testing.assert_close(parameter, plain, msg=key)
            assert (parameter - adapted).abs().max() > 1e-4, key  # the two are apart


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars", "larc", "lamb"])
def test_prototypes_do_not_move_in_the_epochs_that_freeze_them_and_do_after(name):
    model, args = Adapted(), arguments("--optimizer", name, "--freeze_prototypes_epochs", 0.5)
    optimizer, plan = build_optimizer(model, args), plan_of(args)
    for step in range(6):
        before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
        assert set_schedules(optimizer, plan, step) > 0  # what is logged is the scheduled one
        model.backward()
        optimizer.step()
        for key, parameter in model.named_parameters():
            frozen = "prototypes" in key and step < 5
            assert torch.equal(parameter, before[key]) is frozen, (key, step)


@pytest.mark.parametrize("row", ["dino", "swav"])
def test_the_prototypes_of_a_row_are_found(row):
    model, args = small_model(row), arguments("--freeze_prototypes_epochs", 1)
    optimizer = build_optimizer(model, args)
    set_schedules(optimizer, plan_of(args), step=0)
    found = groups_by_parameter(model, optimizer)
    assert {name for name, group in found.items() if group["lr"] == 0} == {"prototypes.weight"}


def test_prototypes_cannot_be_frozen_where_there_are_none():
    with pytest.raises(UserError, match="no prototypes"):
        build_optimizer(small_model("jmi"), arguments("--freeze_prototypes_epochs", 1))


def test_the_schedules_are_functions_of_the_step_alone():
    def after(*steps):
        args = arguments("--freeze_prototypes_epochs", 1, "--weight_decay_end", 0.4)
        optimizer = build_optimizer(Adapted(), args)
        for step in steps:
            set_schedules(optimizer, plan_of(args), step)
        return [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]

    assert after(*range(13)) == after(12) == after(190, 3, 12)
    assert after(12) != after(9)


def test_an_unknown_optimiser_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'adamw'"):
        build_optimizer(small_model("jmi"), arguments("--optimizer", "adamww"))


@pytest.mark.parametrize(("name", "nesterov"), [("sgd", True), ("momentum", False)])
def test_sgd_is_with_nesterov_and_momentum_without(name, nesterov):
    optimizer = build_optimizer(small_model("jmi"), arguments("--optimizer", name))
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.defaults["nesterov"] is nesterov
    assert optimizer.defaults["momentum"] == 0.9


@pytest.mark.parametrize("name", ["sgd", "SGD", "momentum", "nlars", "sgdw"])
def test_sgd_like_optimisers_run_without_momentum(name):
    layer = nn.Linear(3, 2)
    before = layer.weight.detach().clone()
    optimizer = build_optimizer(layer, arguments("--optimizer", name, "--momentum", 0, "--weight_decay", 0))
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    if name.lower() in ("sgd", "momentum"):
        assert torch.allclose(layer.weight, before - 0.5 * layer.weight.grad)
    assert not torch.equal(layer.weight, before)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("name", ["adamw", "Adam", "sgd", "nesterov", "momentum"])
def test_what_torch_has_is_timms_without_timm(name, momentum, monkeypatch):
    args, models = arguments("--optimizer", name, "--momentum", momentum), (Adapted(), Adapted())
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "timm.optim", None)
        optimizers = [build_optimizer(models[0], args)]
    monkeypatch.setattr(optimization, "_OF_TORCH", {})
    optimizers.append(build_optimizer(models[1], args))
    assert type(optimizers[0]) is type(optimizers[1])
    for _ in range(3):
        models[0].backward()
        for one, other in zip(*(model.parameters() for model in models)):
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert same(*(optimizer.state_dict() for optimizer in optimizers))
    assert same(*(model.state_dict() for model in models))
