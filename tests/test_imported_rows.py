"""The imported row is the publisher's loss, -(J − M) up to a constant, with its momentum and prototypes."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hf_mi_ssl import JMIConfig, SDMIConfig, SDMIForPreTraining
from hf_mi_ssl.methods import METHODS
from hf_mi_ssl.mi import MIObjective
from tests.conftest import small_config
from tests.oracles import barlow_twins, dino, swav, vicreg, w_mse
from tests.publishers import (
    WIDTH,
    barlow,
    imported_from,
    mlp,
    resnet,
    sizes,
    solo_learn,
    solo_row,
    under,
    vicreg_checkpoint,
)


def value_of(row: dict, a, b) -> torch.Tensor:
    config = (JMIConfig if METHODS[row["method"]].paradigm == "jmi" else SDMIConfig).from_method(
        row["method"], **row["set"]
    )
    return MIObjective(config.critic, config.temperature, config.joint, config.marginal)(a, b).value


def embeddings():
    return torch.randn(2, 24, 6, generator=torch.Generator().manual_seed(0)).unbind()


def test_vicreg_of_solo_learn_weighs_the_variance_twice(tmp_path):
    """vturrisi/solo-learn, solo/losses/vicreg.py: the variance term is a sum over the views, not their mean"""
    kwargs = {"sim_loss_weight": 20.0, "var_loss_weight": 15.0, "cov_loss_weight": 2.0}
    row = solo_row(tmp_path, method="vicreg", method_kwargs=kwargs)
    assert row["set"]["marginal"] == {"variance": 30.0, "covariance": 2.0}
    a, b = embeddings()
    variance = sum(F.relu(1 - torch.sqrt(z.var(dim=0) + 1e-4)).mean() for z in (a, b))
    covariance = vicreg.covariance(a) + vicreg.covariance(b)
    loss = 20 * F.mse_loss(a, b) + 15 * variance + 2 * covariance
    torch.testing.assert_close(-value_of(row, a, b), loss)
    assert (row["set"]["projector_hidden_size"], row["set"]["projection_size"]) == (96, 48)


def test_vicreg_of_fair_has_our_convention(tmp_path):
    row = imported_from(tmp_path, vicreg_checkpoint(resnet())).row
    a, b = embeddings()
    torch.testing.assert_close(-value_of(row, a, b), vicreg.loss(a, b, 25.0, 25.0, 1.0))


@pytest.mark.parametrize("early", [False, True])
def test_barlow_twins_of_solo_learn_scales_the_whole_loss(tmp_path, early):
    """vturrisi/solo-learn, solo/losses/barlow.py; before it had sections, hyper-parameters lay beside the method"""
    kwargs = {"lamb": 0.0078, "scale_loss": 0.1}
    row = solo_row(tmp_path, method="barlow_twins", **(kwargs if early else {"method_kwargs": kwargs}))
    a, b = embeddings()
    torch.testing.assert_close(-value_of(row, a, b), 0.1 * barlow_twins.loss(a, b, 0.0078))


def test_barlow_twins_of_fair_has_our_convention(tmp_path):
    row = imported_from(tmp_path, barlow(resnet())).row
    a, b = embeddings()
    torch.testing.assert_close(-value_of(row, a, b), barlow_twins.loss(a, b, 0.0051))


def test_moco_v3_multiplies_by_twice_the_temperature(tmp_path):
    """facebookresearch/moco-v3, moco/builder.py; solo-learn, solo/losses/mocov3.py"""
    row = solo_row(tmp_path, method="mocov3", method_kwargs={"temperature": 0.2})
    a, b = embeddings()
    losses = [
        0.4 * F.cross_entropy(F.normalize(p) @ F.normalize(k).T / 0.2, torch.arange(24)) for p, k in ((a, b), (b, a))
    ]
    ours = (value_of(row, a, b) + value_of(row, b, a)) / 2  # the row averages the orders of the views
    constant = 4 * 0.2 * torch.tensor(24.0).log()
    torch.testing.assert_close(-ours + constant, sum(losses))


def test_w_mse_of_solo_learn_is_our_row(tmp_path):
    """vturrisi/solo-learn, solo/losses/wmse.py; solo/utils/whitening.py at its eps = 1e-3, in one part"""
    kwargs = {"whitening_eps": 1e-3, "whitening_size": 24}
    row = solo_row(tmp_path, method="wmse", method_kwargs=kwargs)
    assert row["set"]["projection_size"] == 48
    a, b = embeddings()
    torch.testing.assert_close(-value_of(row, a, b) + 2, w_mse.loss(a, b, 1e-3))


def prototypes_of(prefix: str, k: int, d: int) -> dict:
    """torch.nn.utils.weight_norm, as both methods use it"""
    return {f"{prefix}.weight_g": torch.ones(k, 1), f"{prefix}.weight_v": torch.randn(k, d)}


def config_of(row) -> SDMIConfig:
    return SDMIConfig.from_method(row["method"], **row["set"])


@pytest.mark.parametrize("given", [{}, {"student_temperature": 0.2, "teacher_temperature": 0.05}])
def test_dino_of_solo_learn(tmp_path, given):
    """vturrisi/solo-learn, solo/methods/dino.py: its head is head.mlp and head.last_layer, without batch norm, and
    the defaults of its temperatures are not the paper's"""
    content = solo_learn(resnet(stem_padding=2))
    head = nn.Sequential(nn.Linear(WIDTH, 96), nn.GELU(), nn.Linear(96, 96), nn.GELU(), nn.Linear(96, 48))
    weights = {name: value for name, value in content["state_dict"].items() if not name.startswith("projector.")}
    for branch in ("head", "momentum_head"):
        weights |= under(f"{branch}.mlp.", head) | prototypes_of(f"{branch}.last_layer", 40, 48)
    weights["dino_loss_func.center"] = torch.zeros(1, 40)
    arguments = {"method": "dino", "method_kwargs": {"num_prototypes": 40} | given}
    arguments["momentum"] = {"base_tau": 0.9995, "final_tau": 1.0, "classifier": False}
    (tmp_path / "args.json").write_text(json.dumps(arguments))
    config = config_of(imported_from(tmp_path, content | {"state_dict": weights}).row)
    assert (config.projector_num_layers, config.projector_hidden_size, config.projection_size) == (3, 96, 48)
    assert (config.projector_hidden_norm, config.projector_activation) == (False, "gelu")
    assert (config.num_prototypes, config.target_momentum, config.target_momentum_end) == (40, 0.9995, 1.0)
    online, target = given.get("student_temperature", 0.1), given.get("teacher_temperature", 0.07)
    assert (config.temperature, config.target_temperature) == (online, target)
    torch.manual_seed(0)
    model = SDMIForPreTraining(small_config("dino", **sizes(config))).eval()
    views = torch.randn(2, 8, 3, 16, 16)
    with torch.no_grad():
        online_scores = [model.prototypes(model.embed(view)) for view in views]
        loss = dino.loss(online_scores, online_scores, torch.zeros(40), online, target)  # the target starts as θ
        torch.testing.assert_close(model(*views).loss, loss)


def test_swav_of_solo_learn(tmp_path):
    """vturrisi/solo-learn, solo/methods/swav.py: 3000 prototypes and ε = 0.05 unless given"""
    content = solo_learn(resnet(stem_padding=2), projector=mlp(WIDTH, 96, 48, bias=True))
    content["state_dict"] |= prototypes_of("prototypes", 3000, 48)
    (tmp_path / "args.json").write_text(json.dumps({"method": "swav", "method_kwargs": {"temperature": 0.2}}))
    config = config_of(imported_from(tmp_path, content).row)
    assert (config.temperature, config.target_temperature, config.num_prototypes) == (0.2, 0.05, 3000)
    assert (config.projector_num_layers, config.projector_hidden_norm, config.projection_size) == (2, True, 48)
    assert config.target == "reset"
    kwargs = {"temperature": 0.1, "sk_epsilon": 0.03, "num_prototypes": 40}
    config = config_of(solo_row(tmp_path, method="swav", method_kwargs=kwargs))
    torch.manual_seed(0)
    model = SDMIForPreTraining(small_config("swav", **sizes(config))).eval()
    views = torch.randn(2, 8, 3, 16, 16)
    with torch.no_grad():
        z = [model.embed(view) for view in views]
        weight = model.prototypes(torch.eye(model.config.projection_size))
        loss = swav.loss(*z, weight.T, 0.1, 0.03, 3)
        torch.testing.assert_close(model(*views).loss, loss)


@pytest.mark.parametrize(
    ("method", "row"), [("byol", "byol"), ("mocov2plus", "moco_v2"), ("mocov3", "moco_v3"), ("dino", "dino")]
)
def test_the_momentum_of_the_target_is_solo_learns(tmp_path, method, row):
    """vturrisi/solo-learn, solo/methods/base.py: momentum.base_tau, 0.99 unless given, and final_tau, 1"""
    sections = {"method_kwargs": {"temperature": 0.2}, "momentum": {"base_tau": 0.97, "final_tau": 0.999}}
    for arguments, expected in (
        (sections, (0.97, 0.999)),
        ({"method_kwargs": {"temperature": 0.2}}, (0.99, 1.0)),
        ({"temperature": 0.2, "base_tau_momentum": 0.9, "final_tau_momentum": 0.95}, (0.9, 0.95)),
    ):
        found = solo_row(tmp_path, method=method, **arguments)
        assert found["method"] == row
        config = config_of(found)
        assert (config.target_momentum, config.target_momentum_end) == expected
