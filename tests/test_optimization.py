"""Who decays, whose learning rate stays, and that a run's optimiser is timm's."""

import pytest
import torch

from hf_mi_ssl.errors import UserError
from hf_mi_ssl.training import build_optimizer, parse_arguments, set_learning_rate
from tests.conftest import small_model


def arguments(*argv):
    return parse_arguments(["--weight_decay", "0.1", "--learning_rate", "0.5", *argv], "", method="simsiam")


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


def test_the_learning_rate_of_the_predictor_stays_while_the_rest_follows_the_schedule():
    model = small_model("simsiam")
    optimizer = build_optimizer(model, arguments("--optimizer", "sgd"))
    assert set_learning_rate(optimizer, 0.5, factor=0.1) == pytest.approx(0.05)
    for name, group in groups_by_parameter(model, optimizer).items():
        assert group["lr"] == pytest.approx(0.5 if name.startswith("predictor.") else 0.05), name


def test_an_unknown_optimiser_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'adamw'"):
        build_optimizer(small_model("jmi"), arguments("--optimizer", "adamww"))


@pytest.mark.parametrize(("name", "nesterov"), [("sgd", True), ("momentum", False)])
def test_sgd_is_with_nesterov_and_momentum_without(name, nesterov):
    optimizer = build_optimizer(small_model("jmi"), arguments("--optimizer", name))
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.defaults["nesterov"] is nesterov
    assert optimizer.defaults["momentum"] == 0.9
