"""A run: a row of the package on a toy source, trained and measured."""

import json
import math
from collections.abc import Sequence
from functools import cache

import critics  # noqa: F401  (registers them)
import torch
from measures import DATA, MEASURES, Curves, accuracies, cheap, embed, follow, rounded
from sources import SOURCES
from torch import nn
from towers import ToyConfig
from transformers import ResNetConfig
from views import Source, Views

from hf_mi_ssl import JMIConfig, JMIForPreTraining, SDMIConfig, SDMIForPreTraining
from hf_mi_ssl.encoders import build_encoder, representation_size
from hf_mi_ssl.evaluation import Alarm
from hf_mi_ssl.methods import METHODS
from hf_mi_ssl.nn.heads import Projector

# The protocol of every toy run, fixed before any verdict was computed; an experiment says where it departs from it.
BATCH, STEPS, LEARNING_RATE, EVALUATIONS = 256, 300, 3e-3, 10
HELD = 512  # held-out pairs; the probe learns from twice as many views
SIZES = {"projector_hidden_size": 64, "projection_size": 16}
# Nothing but the terms may keep embeddings apart: no batch norm, in place of the marginal term, at the projector's end
BARE = {"projector_hidden_norm": False, "projector_output_norm": False}
SLOW = {"target_momentum": 0.95, "target_momentum_end": 0.95}  # of a target that follows, in so few steps
LADDER = {
    "none": {},
    "order 1": {"first_order": 1.0},
    "order 2": {"second_order": 1.0},
    "order 3": {"third_order": 1.0},
    "exact": {"exact": 1.0},
}
TINY = {"steps": 6, "batch_size": 64, "evaluations": 2, "held": 128}  # to try the code
# An E-step for each M-step; blocks of steps in one phase; both gradients at one point, then one step
SCHEDULES = ("turns", "blocks", "together")
MISSING_ARE = ("dropped", "empty", "wrong")


def build(
    method: str,
    towers: list,
    seed: int,
    columns: dict,
    asymmetric: bool = False,
    hidden: int = 64,
    predictor_depth: int = 2,
) -> SDMIForPreTraining | JMIForPreTraining:
    """The model of that row, of the package, with a small encoder; without towers it is one of images.

    With `asymmetric` the online branch has the first tower only and the target the second, in half the width. The
    package's predictor has two layers; of another depth it has more hidden ones of the same kind, or is linear.
    """
    torch.manual_seed(seed)
    config_class, model_class = (
        (SDMIConfig, SDMIForPreTraining) if METHODS[method].paradigm == "sdmi" else (JMIConfig, JMIForPreTraining)
    )
    encoder = ToyConfig(towers=towers[:1] if asymmetric else towers, hidden_size=hidden)
    if not towers:
        encoder = ResNetConfig(depths=[1, 1], hidden_sizes=[16, 32], embedding_size=16, layer_type="basic")
    model = model_class(config_class.from_method(method, encoder_config=encoder, **(SIZES | columns)))
    if asymmetric:
        other = ToyConfig(towers=towers[1:], hidden_size=hidden // 2)
        model.target.encoder = build_encoder(other)
        c = model.config
        model.target.projector = Projector(
            representation_size(other),
            c.projector_hidden_size,
            c.projection_size,
            c.projector_num_layers,
            c.projector_output_norm,
            c.projector_hidden_norm,
            c.projector_activation,
        )
    if predictor_depth != 2:
        size, width, layers = model.config.projection_size, model.config.predictor_hidden_size, []
        for _ in range(predictor_depth - 1):
            inputs = width if layers else size
            layers += [nn.Linear(inputs, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
        model.predictor = nn.Sequential(*layers, nn.Linear(width if layers else size, size))
    return model.train()


def train(
    source: dict,
    method: str,
    seed: int,
    columns: dict | None = None,
    steps: int = STEPS,
    batch_size: int = BATCH,
    learning_rate: float = LEARNING_RATE,
    schedule: str = "turns",
    block: int = 1,
    evaluations: int | Sequence[int] = EVALUATIONS,
    fine: int = 0,
    pool: int | None = None,
    held: int = HELD,
    asymmetric: bool = False,
    predictor_depth: int = 2,
    predictor_rate: float = 1.0,
    missing: float = 0.0,
    missing_are: str = "dropped",
    probes: bool = False,
    measure: Sequence[str] = (),
    along: Sequence[str] = (),
) -> dict:
    """Train a row and measure it: curves by name with their steps, the end, and what the alarm said when.

    Args:
        source: the name in `SOURCES` under "name", and its arguments.
        schedule, block: one of `SCHEDULES`, and the steps of a block.
        evaluations: how many, or after which steps.
        fine: how often cos-DV and InfoNCE alone are followed between; they cost little.
        held: held-out pairs; the probe learns from twice as many views.
        pool: training pairs drawn in all; by default none comes twice.
        predictor_rate: times the learning rate, that of the predictor.
        missing, missing_are: the share of training pairs without b, and what becomes of them, one of `MISSING_ARE`.
        probes: whether accuracies are followed; they are always measured at the end.
        measure: names in `MEASURES`, what else is measured at the end.
        along: the same, at each evaluation: a list of them, as long as curves.
    """
    law = make_source(source)
    model = build(method, law.towers, seed, columns or {}, asymmetric, predictor_depth=predictor_depth)
    generator = torch.Generator().manual_seed(seed + DATA)
    pairs, labelled = law.held_out(held, generator), law.draw(2 * held, generator)
    data = law.draw(pool or steps * batch_size, generator)
    a, b = without_some(data, missing, missing_are, generator) if missing else (data.a, data.b)
    optimizer = torch.optim.Adam(parameter_groups(model, learning_rate, predictor_rate), learning_rate, fused=True)
    alarm, curves, finer = Alarm(model.config, steps, batch_size), Curves(), Curves()
    initial = embed(model, pairs)
    found = {name: [] for name in along}

    def evaluate(step: int) -> None:
        curves.add(step, follow(model, pairs, labelled, law, probes))
        for name in along:
            found[name].append(MEASURES[name](model, law, pairs, initial, seed))

    evaluate(0)
    finer.add(0, cheap(model, pairs))
    alarm(curves.record(0))
    every, often = (steps_of(number, steps) for number in (evaluations, fine))
    for step in range(steps):
        rows = torch.arange(step * batch_size, (step + 1) * batch_size) % len(a)
        batch = a[rows], b[rows]
        outputs = []
        for phase in phases_of(model, schedule, step, block):
            outputs.append(model(*batch, phase=phase))
            outputs[-1].loss.backward()
            if schedule != "together":
                optimizer.step()
                optimizer.zero_grad()
        if schedule == "together":
            optimizer.step()
            optimizer.zero_grad()
        if isinstance(model, SDMIForPreTraining):
            model.update_target()
        loss = outputs[0].loss.item()
        alarm({"step": step + 1, "loss": loss, "value": -loss if math.isfinite(loss) else None})
        if step + 1 in often:
            finer.add(step + 1, cheap(model, pairs))
        if step + 1 in every:
            if not all(parameter.isfinite().all() for parameter in model.parameters()):
                return rounded({"diverged": step + 1, "curves": curves.kept(), "alarm": {"diverged": step + 1}})
            evaluate(step + 1)
            curves.raised |= dict.fromkeys(alarm(curves.record(step + 1)), step + 1)
    found |= {"curves": curves.kept(), "alarm": curves.raised, "collapsed": bool(alarm.collapsed)}
    if fine:
        found["fine"] = finer.values
    found["end"] = accuracies(model, pairs, labelled, law)
    for name in measure:
        found[name] = MEASURES[name](model, law, pairs, initial, seed)
    return rounded(found)


def steps_of(evaluations: int | Sequence[int], steps: int) -> set[int]:
    if isinstance(evaluations, int):
        return {round(steps * (i + 1) / evaluations) for i in range(evaluations)}
    return {*evaluations, steps}


def phases_of(model: nn.Module, schedule: str, step: int, block: int) -> tuple[str, ...]:
    """The phases of a step: with `blocks` one of them, so that twice the steps make as many updates."""
    return model.phases[(step // block) % 2 :][:1] if schedule == "blocks" else model.phases


def parameter_groups(model: nn.Module, learning_rate: float, predictor_rate: float) -> list[dict]:
    own = [*model.predictor.parameters()] if predictor_rate != 1 else []
    others = [p for p in model.parameters() if all(p is not other for other in own)]
    return [{"params": others}] + [{"params": own, "lr": predictor_rate * learning_rate}] * bool(own)


def without_some(data: Views, share: float, how: str, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """The views, of which that share of b is missing: such pairs are dropped, or an empty or another b stands in."""
    absent = torch.rand(len(data.a), generator=generator) < share
    if how == "dropped":
        return data.a[~absent], data.b[~absent]
    b = data.b.clone()
    b[absent] = torch.zeros_like(b[absent]) if how == "empty" else b[absent].roll(1, 0)
    return data.a, b


def make_source(source: dict) -> Source:
    arguments = dict(source)
    return SOURCES[arguments.pop("name")](**arguments)


def truth_of(source: dict) -> float:
    """The MI of the source's two views, in nats; integrated once in a process."""
    return _truth(json.dumps(source, sort_keys=True))


@cache
def _truth(source: str) -> float:
    return make_source(json.loads(source)).truth()
