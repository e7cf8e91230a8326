"""Every row is its paper: equal to the pseudo-code in value, up to a documented constant, and in every gradient."""

import copy
from functools import cached_property

import pytest
import torch

from hf_mi_ssl.methods import METHODS
from tests.conftest import forward, small_model
from tests.oracles import (
    align_uniform,
    barlow_twins,
    byol,
    corinfomax,
    dcl,
    dino,
    dv,
    lejepa,
    moco_v2,
    moco_v3,
    nnclr,
    simclr,
    simsiam,
    spectral,
    swav,
    vicreg,
    w_mse,
)

N = 12


class Sides:
    """What a paper's pseudo-code starts from: embeddings, predictions, targets and scores of both views."""

    def __init__(self, model, views, local=()):
        self.model, self.views, self.local = model, views, local

    @cached_property
    def z(self):
        return [self.model.embed(view) for view in (*self.views, *self.local)]

    @cached_property
    def p(self):
        return [self.model.predictor(z) for z in self.z]

    @cached_property
    def t(self):
        return [self.model.target(view) for view in self.views]

    @cached_property
    def scores(self):
        return [self.model.prototypes(z) for z in self.z]

    @property
    def queue(self):
        return self.model.queue.embeddings


def sdmi_prototype(s):
    return dv.loss(s.z[0], s.t[1].detach(), 0.2)


def sdmi_ema(s):
    return (dv.loss(s.z[0], s.t[1].detach(), 0.2) + dv.loss(s.z[1], s.t[0].detach(), 0.2)) / 2


# The paper's loss of each row, plus what ours differs from it by.
ORACLES = {
    "sdmi": sdmi_prototype,
    "sdmi_ema": sdmi_ema,
    "simsiam": lambda s: simsiam.loss(*s.p, *s.z),
    "byol": lambda s: byol.loss(*s.p, *s.t),
    "moco_v2": lambda s: moco_v2.loss(s.z[0], s.t[1], s.queue, 0.2) + moco_v2.constant(len(s.queue)),
    "moco_v3": lambda s: moco_v3.loss(*s.p, *s.t, 1.0) + moco_v3.constant(N, 1.0),
    "nnclr": lambda s: nnclr.loss(*s.p, *s.z, s.queue, 0.1) + nnclr.constant(N),
    "dino": lambda s: dino.loss(s.scores, s.t, s.model.assignment.centre, 0.1, 0.04),
    "swav": lambda s: swav.loss(*s.z[:2], s.model.prototypes.weight, 0.1, 0.05, 3, s.z[2:]),
    "jmi": lambda s: dv.loss(*s.z, 0.2),
    "simclr": lambda s: simclr.loss(*s.z, 0.5) + simclr.constant(N),
    "dcl": lambda s: dcl.loss(*s.z, 0.1) + dcl.constant(N),
    "spectral": lambda s: spectral.loss(*s.z, 1.0),
    "align_uniform": lambda s: align_uniform.loss(*s.z),
    "barlow_twins": lambda s: barlow_twins.loss(*s.z, 0.0051),
    "vicreg": lambda s: vicreg.loss(*s.z, 25, 25, 1),
    "w_mse": lambda s: w_mse.loss(*s.z, 1e-3) + w_mse.constant(),
    "corinfomax": lambda s: corinfomax.loss(*s.z, 250.0, 0.0, 1e-8),
    "lejepa": lambda s: lejepa.loss(*s.z, directions(s.z[0].shape[1], draw=0), 0.02),
}
OF_OUR_OWN = {"jmi_taylor"}  # no other paper's: `test_theory` holds it against its derivation
COLUMNS = {"moco_v2": {"batch_norm_group_size": None, "target_shuffle": False}}  # its split batch norm is tested apart


def directions(dimension, draw):
    """The random directions of that draw, by their definition: torch's normal numbers of that seed."""
    return torch.randn(dimension, 256, generator=torch.Generator().manual_seed(draw), dtype=torch.float64)


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_equals_oracle(model, views, oracle, phase="E", local=()):
    twin = copy.deepcopy(model)  # batch norm, queue and centre move: each side needs its own
    more = {"local_views": local} if local else {}
    loss = model(*views, phase=phase, **more).loss
    loss.backward()
    expected = oracle(Sides(twin, views, local))
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-8, atol=1e-8, check_dtype=False)
    ours, theirs = gradients(model), gradients(twin)
    assert set(ours) == set(theirs)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}")


@pytest.fixture
def wide_views(views):
    return tuple(view.double() for view in views)


def test_every_row_has_an_oracle():
    assert set(ORACLES) | OF_OUR_OWN == set(METHODS)


def model_of(name):
    independent = {"target_init": "independent"} if METHODS[name].columns.get("target") in ("ema", "gradient") else {}
    model = small_model(name, **(independent | COLUMNS.get(name, {}))).double()
    if name == "dino":
        model.assignment.centre.copy_(torch.linspace(-0.1, 0.1, 10))
    return model


@pytest.mark.parametrize("name", ORACLES)
def test_the_row_is_its_paper(name, wide_views):
    assert_equals_oracle(model_of(name), wide_views, ORACLES[name])


@pytest.mark.parametrize("name", ["dino", "swav"])
def test_the_row_is_its_paper_with_local_views(name, wide_views):
    local = [view[:, :, 2:10, 4:12] for view in wide_views]
    assert_equals_oracle(model_of(name), wide_views, ORACLES[name], local=local)


@pytest.mark.parametrize(("phase", "fixed"), [("E", "target"), ("M", "online")])
def test_sdmi_is_the_bound_of_two_encoders_with_one_of_them_fixed(wide_views, phase, fixed):
    def oracle(s):
        z, t = s.z[0], s.t[1]
        return dv.loss(*((z, t.detach()) if fixed == "target" else (z.detach(), t)), 0.2)

    assert_equals_oracle(model_of("sdmi"), wide_views, oracle, phase)


# What a step leaves behind


def test_dino_moves_its_centre_as_its_paper_says(wide_views):
    model = model_of("dino")
    scores = copy.deepcopy(model)
    expected = dino.next_centre(model.assignment.centre.clone(), [scores.target(view) for view in wide_views], 0.9)
    forward(model, *wide_views)
    torch.testing.assert_close(model.assignment.centre, expected)


def test_the_keys_of_a_batch_join_the_queue_after_the_loss_and_push_the_oldest_out(wide_views):
    model = model_of("moco_v2")
    before, keys = model.queue.embeddings.clone(), copy.deepcopy(model).target(wide_views[1])
    forward(model, *wide_views)
    assert torch.equal(model.queue.embeddings[:12], keys)
    assert torch.equal(model.queue.embeddings[12:], before[12:])
    keys = copy.deepcopy(model).target(wide_views[1])
    forward(model, *wide_views)  # 12 more into 20: the last 4 go round
    torch.testing.assert_close(model.queue.embeddings[12:], keys[:8])
    torch.testing.assert_close(model.queue.embeddings[:4], keys[8:])
    assert model.queue.position == 4
    assert model.eval()(*wide_views).loss.isfinite()
    assert model.queue.position == 4  # evaluation leaves it alone


def test_codes_of_sinkhorn_use_all_prototypes_alike_even_at_scores_that_overflow():
    from hf_mi_ssl.nn.assignment import Sinkhorn

    scores = torch.randn(64, 8, generator=torch.Generator().manual_seed(0)) * 100
    codes = Sinkhorn(0.05)(scores)
    assert codes.isfinite().all()
    torch.testing.assert_close(codes.sum(1), torch.ones(64))
    skewed = scores / 100 + torch.linspace(0, 2, 8)
    spread = lambda assignments: (assignments.sum(0) - 8).abs().max()  # noqa: E731  # 64 / 8 images each
    assert spread(Sinkhorn(0.5)(skewed)) < spread((skewed / 0.5).softmax(1)) / 5


def test_terms_that_draw_at_random_draw_anew_in_each_step_and_the_same_after_a_resume(wide_views):
    model = model_of("lejepa")
    first, second = (model(*wide_views).loss for _ in range(2))
    assert first != second
    again = model_of("lejepa")
    again.load_state_dict(model.state_dict())
    assert again.draws == 2
    assert torch.equal(again(*wide_views).loss, model(*wide_views).loss)
