"""Bugs that peers have on several processes, each as the test that catches it; the others are in `test_peers_bugs`."""

import copy
import math

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from torch import nn

from hf_mi_ssl.distributed import globalize_batch_norm
from hf_mi_ssl.methods import METHODS
from hf_mi_ssl.training import build_accelerator, parse_arguments
from tests.conftest import forward, small_model
from tests.test_distributed import run_processes

ROWS = ("barlow_twins", "vicreg", "simclr", "simsiam", "byol", "moco_v2", "nnclr", "dino", "swav", "sdmi")


@pytest.fixture(scope="module")
def ddp(tmp_path_factory) -> dict:
    """The settings of DDP that a recipe makes, for each number of phases."""
    settings = {}
    for phases in (1, 2):
        args = parse_arguments(["--output_dir", str(tmp_path_factory.mktemp("run"))], "", method="jmi")
        settings[phases] = build_accelerator(args, branches_take_turns=phases == 2).ddp_handler.to_kwargs()
        AcceleratorState._reset_state(reset_partial_state=True)
        PartialState._reset_state()
    return settings


@pytest.fixture(scope="module")
def batches() -> list:
    """Two batches of two views of 8 images, which differ from process to process."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 8, 3, 16, 16, generator=generator, dtype=torch.float64)
    images[:, 4:] *= 3
    return [tuple(x + 0.3 * torch.randn(x.shape, generator=generator).double() for _ in "ab") for x in images]


def two_steps(rank, world, batches, ddp):
    """Of each row, as its recipe makes them: the losses, the first gradients, and the state at the end."""
    found = {}
    for name in ROWS:
        columns = {"target_init": "independent"} if METHODS[name].paradigm == "sdmi" else {}
        model = globalize_batch_norm(small_model(name, **columns).double())
        phases = model.phases
        network = model
        if world > 1:
            network = nn.parallel.DistributedDataParallel(model, **ddp[len(phases)])
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
        losses, gradients = [], None
        for views in batches:
            for phase in phases:
                mine = [view.chunk(world)[rank] for view in views]
                loss = network(*mine, phase=phase).loss
                loss.backward()
                first = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
                gradients = gradients or first
                optimizer.step()
                optimizer.zero_grad()
                losses.append(loss.detach())
            if hasattr(model, "update_target"):
                model.update_target(0.9)
        found[name] = (torch.stack(losses), gradients, copy.deepcopy(model.state_dict()))
    return found


@pytest.fixture(scope="module")
def one(batches) -> dict:
    return two_steps(0, 1, batches, None)


@pytest.fixture(scope="module")
def two(batches, ddp) -> list:
    return run_processes(2, two_steps, batches, ddp)


def test_barlows_gradient_is_not_divided_by_the_number_of_processes(one, two):
    """An all-reduce of C without gradient does that. LARS hides it for weights, so look at scales and shifts too."""
    scales = 0
    for name, expected in one["barlow_twins"][1].items():
        gradient = two[0]["barlow_twins"][1][name]
        torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")
        scales += expected.ndim == 1 and expected.abs().max() > 1e-3
    assert scales >= 2


@pytest.mark.parametrize("name", ["barlow_twins", "vicreg", "simclr"])
def test_a_collective_whose_result_is_thrown_away_would_leave_the_statistics_of_one_process(name, one, two, batches):
    whole = one[name][0][0]
    locally = [forward(small_model(name).double(), *(v.chunk(2)[rank] for v in batches[0])).loss for rank in (0, 1)]
    assert (sum(locally) / 2 - whole).abs() > 1e-4 * whole.abs()
    for rank in (0, 1):
        torch.testing.assert_close(two[rank][name][0][0], whole, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ROWS)
def test_two_views_through_ddp_do_not_fail_in_backward(name, one, two):
    """Both views go through one forward, and what it writes in place no graph needs. Two steps, so that what the first
    leaves behind is seen by the second."""
    for found in two:
        torch.testing.assert_close(found[name][0], one[name][0], rtol=1e-9, atol=1e-11)
        for key, value in one[name][2].items():
            torch.testing.assert_close(found[name][2][key], value, rtol=1e-7, atol=1e-9, msg=lambda m, k=key: k + m)


def test_buffers_are_not_broadcast_from_the_first_process(ddp):
    """DDP would write into them at each forward; every process computes the same ones."""
    assert all(settings["broadcast_buffers"] is False for settings in ddp.values())


# Embeddings whose loss is known: those of an image agree, those of different images are orthogonal.

CONTRASTIVE = ("jmi", "simclr", "dcl", "sdmi_ema", "moco_v3")


def losses_of_perfect_embeddings(rank, world, n, temperature):
    z = torch.eye(n, 16, dtype=torch.float64).chunk(world)[rank]
    losses = {}
    for name in CONTRASTIVE:
        model = small_model(name, temperature=temperature)
        both = model.config.to_dict().get("symmetric", False)
        left, right = ({"a": z, "b": z}, {"a": z, "b": z}) if both else ({"a": z}, {"b": z})
        losses[name] = model.compare(left, right).loss.detach().item() / sum(METHODS[name].columns["joint"].values())
    return losses


def by_hand(name, n, temperature):
    """−(J − M), of n images, unweighted."""
    positive, negatives = math.exp(1 / temperature), {"simclr": 2 * n - 2, "moco_v3": n - 1}.get(name)
    partition = 1.0 if negatives is None else (positive + negatives) / (1 + negatives)
    return math.log(partition) - 1 / temperature


@pytest.mark.parametrize("world", [2, 4])
def test_a_positive_stands_in_its_place_after_gathering(world):
    """Elsewhere the loss stays at the log of the number of candidates (less what J − M counts of it: at 0)."""
    for losses in run_processes(world, losses_of_perfect_embeddings, 8, 0.05):
        for name in CONTRASTIVE:
            assert losses[name] == pytest.approx(by_hand(name, 8, 0.05), abs=1e-6), name
            assert losses[name] < -0.99 * math.log(8)


def test_negatives_are_those_of_all_processes_without_asking():
    for losses in run_processes(2, losses_of_perfect_embeddings, 8, 1.0):
        for name in ("simclr", "moco_v3"):
            assert losses[name] == pytest.approx(by_hand(name, 8, 1.0), abs=1e-6), name
            assert abs(by_hand(name, 8, 1.0) - by_hand(name, 4, 1.0)) > 0.01
