"""Gradient ascent of `sdmi` on a fixed batch, with any critic, and the curvature of what is ascended on the way."""

import itertools
import math

import torch
import torch.nn.functional as F
from critics import LearnedCritic
from harness import BARE, build, embed, make_source, rounded
from torch import nn
from views import Views

TEMPERATURES, FACTORS = (0.2, 0.5, 1.0), (0.25, 1.0, 4.0, 16.0)  # factors are η β_θ, at the start
STEPS, PAIRS = 40, 256
WATCH = 10  # alternations between measurements of the curvature
COLUMNS = BARE | {"projection_size": 8, "target_init": "independent"}
Blocks = dict[str, list[nn.Parameter]]


def start(critic: str, temperature: float, seed: int, pairs: int) -> tuple[nn.Module, Blocks, Views]:
    """`sdmi` with that critic, the parameters that each phase moves, which a learning critic joins, and a batch."""
    law = make_source({"name": "mixture", "dimension": 32})
    views = law.draw(pairs, torch.Generator().manual_seed(seed + 1))
    columns = COLUMNS | {"critic": "cosine" if critic == "learned" else critic, "temperature": temperature}
    model = build("sdmi", law.towers, seed, columns)
    learned = []
    if critic == "learned":
        model.objective.critic = LearnedCritic(COLUMNS["projection_size"], seed)
        learned = [*model.objective.critic.parameters()]
    branches = {"E": model.online, "M": model.branches["target"]}
    return model, {phase: [p for m in own for p in m.parameters()] + learned for phase, own in branches.items()}, views


def steps_of(
    model: nn.Module, blocks: Blocks, views: Views, rate: float, steps: int, watch: int = 0
) -> tuple[list[float], list[float]]:
    """The bound before, between and after alternating plain gradient steps; and, measured every so many alternations,
    the curvature in what each step moves. A critic that learns moves in each."""
    parameters = {id(p): p for p in [*model.parameters(), *itertools.chain(*blocks.values())]}
    optimizer, values, betas, latest = torch.optim.SGD(parameters.values(), rate), [], [], {}
    for step, phase in itertools.product(range(steps), blocks):
        if watch and step % watch == 0:
            latest[phase] = curvature(model, blocks, views, phase)
        betas.append(latest.get(phase, math.nan))
        optimizer.zero_grad()
        loss = model(views.a, views.b, phase=phase).loss
        values.append(-loss.item())
        loss.backward()
        optimizer.step()
    return [*values, model(views.a, views.b).value.item()], betas


def ascend(critic: str, seed: int, steps: int = STEPS, pairs: int = PAIRS, watch: int = WATCH) -> dict:
    """What gradient ascent does, by temperature and η β_θ; β_θ is the largest curvature of L in θ at the start.

    A step is small by its own measure if η times the latest curvature in what it moves is at most 1.
    """
    found = {}
    for temperature in TEMPERATURES:
        beta = curvature(*start(critic, temperature, seed, pairs))
        for factor in FACTORS:
            model, blocks, views = start(critic, temperature, seed, pairs)
            values, betas = steps_of(model, blocks, views, factor / beta, steps, watch)
            rising = [new - old >= -1e-6 for old, new in itertools.pairwise(values)]  # float32 rounds so
            small = [factor / beta * own <= 1 for own in betas]
            own = embed(model, views)
            cosines = F.cosine_similarity(own["z_a"], own["t_b"], dim=1)
            found[f"{temperature:g}/{factor:g}"] = {
                "rising": sum(rising),
                "steps": len(rising),
                "small": sum(small),
                "small_rising": sum(r and s for r, s in zip(rising, small, strict=True)),
                "gain": values[-1] - values[0],
                "aligned": (cosines > 0.5).double().mean().item(),
                "beta": beta,
                "betas": {phase: betas[i :: 2 * watch] for i, phase in enumerate(blocks)} if watch else {},
            }
    return rounded(found)


def sharpen(seed: int, steps: int = STEPS, pairs: int = PAIRS) -> dict:
    """The curvature in θ after gradient ascent of the cosine critic at η β_θ = ¼, over that at the start."""
    found = {}
    for temperature in TEMPERATURES:
        run = start("cosine", temperature, seed, pairs)
        before = curvature(*run)
        steps_of(*run, FACTORS[0] / before, steps)
        found[f"{temperature:g}"] = curvature(*run) / before
    return rounded(found)


def curvature(model: nn.Module, blocks: Blocks, views: Views, phase: str = "E", iterations: int = 12) -> float:
    """The largest |eigenvalue| of the Hessian of L in one block, by power iteration on Hessian–vector products."""
    moved = blocks[phase]
    gradient = torch.autograd.grad(model(views.a, views.b, phase=phase).loss, moved, create_graph=True)
    generator = torch.Generator().manual_seed(0)
    vector = [torch.randn(p.shape, generator=generator) for p in moved]
    size = 0.0
    for _ in range(iterations):
        norm = math.sqrt(sum(v.square().sum().item() for v in vector))
        vector = [v / norm for v in vector]
        vector = torch.autograd.grad(gradient, moved, vector, retain_graph=True)
        size = math.sqrt(sum(v.square().sum().item() for v in vector))
    return size
