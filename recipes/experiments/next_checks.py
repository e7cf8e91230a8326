"""Non-concave critics, the predictor's capacity, and two modalities: what readers of the paper ask for.

    python recipes/experiments/next_checks.py

(a) Gradient ascent with a fixed batch: step size × temperature × critic cos(k ∠), k = 1, 2, 3. (b) A predictor for
the marginal term: its width, raw and white targets, and how far its gradient is from the one it stands for.
(c) Images and texts through two encoders of unequal width and input.
"""

import itertools
import math
import sys
from argparse import Namespace
from collections.abc import Sequence

import drawing
import torch
import torch.nn.functional as F
from harness import (
    BARE,
    MEASURES,
    Done,
    Job,
    build,
    cos_bounds,
    embed,
    last,
    main,
    make_source,
    replicates,
    rounded,
    train,
    truth_of,
)
from reporting import Claim, Interval, Report, mean_interval, paired, share_interval, table
from torch import Tensor, nn

from hf_mi_ssl.mi import CRITICS, MARGINAL_TERMS, Pairs

NAME = "next_checks"
CRITIC_NAMES = ("cosine", "cosine_2", "cosine_3")
TEMPERATURES, FACTORS = (0.2, 0.5, 1.0), (0.25, 1.0, 4.0, 16.0)  # factors are η β
ASCENT_STEPS = 40
WIDTHS = (4, 32, 256)
RAW, WHITE = "negative_squared_distance", "white_target"
MIXTURE = {"name": "mixture", "dimension": 32}
SHORT = {"steps": 200, "batch_size": 128, "evaluations": 5}
NEAR = 0.9


# (a) gradient ascent


def ascend(critic: str, seed: int, steps: int = ASCENT_STEPS, pairs: int = 256) -> dict:
    """Alternating gradient steps of `sdmi` on one fixed batch: the bound after each of them, by temperature and η β.

    β is the largest curvature of L in θ at the start, by power iteration on Hessian–vector products.
    """
    law = make_source(MIXTURE)
    views = law.draw(pairs, torch.Generator().manual_seed(seed + 1))
    found = {}
    for temperature in TEMPERATURES:
        columns = BARE | {
            "critic": critic,
            "temperature": temperature,
            "projection_size": 8,
            "target_init": "independent",
        }
        model = build("sdmi", law.towers, seed, columns)
        beta = curvature(model, views.a, views.b)
        for factor in FACTORS:
            model = build("sdmi", law.towers, seed, columns)
            optimizer = torch.optim.SGD(model.parameters(), factor / beta)
            values = []
            for _, phase in itertools.product(range(steps), ("E", "M")):
                optimizer.zero_grad()
                loss = model(views.a, views.b, phase=phase).loss
                values.append(-loss.item())
                loss.backward()
                optimizer.step()
            values.append(model(views.a, views.b).value.item())
            changes = [new - old for old, new in itertools.pairwise(values)]
            own = embed(model, views)
            cosines = F.cosine_similarity(own["z_a"], own["t_b"], dim=1)
            found[f"{temperature:g}/{factor:g}"] = {
                "rising": sum(change >= -1e-6 for change in changes),  # float32 rounds a bound of a few nats to 1e-6
                "steps": len(changes),
                "gain": values[-1] - values[0],
                "aligned": (cosines > 0.5).double().mean().item(),
                "beta": beta,
            }
    return rounded(found)


def sharpen(seed: int, steps: int = ASCENT_STEPS, pairs: int = 256) -> dict:
    """The curvature after gradient ascent of the cosine critic at η β = ¼, over that at the start, by temperature."""
    law = make_source(MIXTURE)
    views = law.draw(pairs, torch.Generator().manual_seed(seed + 1))
    found = {}
    for temperature in TEMPERATURES:
        columns = BARE | {"temperature": temperature, "projection_size": 8, "target_init": "independent"}
        model = build("sdmi", law.towers, seed, columns)
        start = curvature(model, views.a, views.b)
        optimizer = torch.optim.SGD(model.parameters(), FACTORS[0] / start)
        for _, phase in itertools.product(range(steps), ("E", "M")):
            optimizer.zero_grad()
            model(views.a, views.b, phase=phase).loss.backward()
            optimizer.step()
        found[f"{temperature:g}"] = curvature(model, views.a, views.b) / start
    return rounded(found)


def curvature(model: nn.Module, a: Tensor, b: Tensor, iterations: int = 12) -> float:
    """The largest |eigenvalue| of the Hessian of L in θ."""
    parameters = [p for module in model.online for p in module.parameters()]
    gradient = torch.autograd.grad(model(a, b, phase="E").loss, parameters, create_graph=True)
    generator = torch.Generator().manual_seed(0)
    vector = [torch.randn(p.shape, generator=generator) for p in parameters]
    size = 0.0
    for _ in range(iterations):
        norm = math.sqrt(sum(v.square().sum().item() for v in vector))
        vector = [v / norm for v in vector]
        vector = torch.autograd.grad(gradient, parameters, vector, retain_graph=True)
        size = math.sqrt(sum(v.square().sum().item() for v in vector))
    return size


# (b) the predictor as a surrogate of the marginal term


def surrogate(model, law, held, initial, seed) -> dict:
    """Of T = pᵀy, y the target as the critic sees it: the gradient by p of ½ E|p|², the regression's,
    beside that of the second-order and of the exact marginal term: cosine and ratio of norms; and ‖Σ_y − I‖/√D."""
    found = embed(model, held)
    t = found.get("t_b", found["z_b"]).double()
    y = CRITICS["white_target"](t, t)[1][:, : t.shape[1]] if model.config.critic == WHITE else t
    pairs = Pairs(found["p_a"].double().requires_grad_(), y, CRITICS["bilinear"])
    own = torch.autograd.grad(pairs.a.square().sum(1).mean() / 2, pairs.a)[0]
    numbers = {}
    for name in ("second_order", "exact"):
        other = torch.autograd.grad(MARGINAL_TERMS[name](pairs), pairs.a, retain_graph=True)[0]
        numbers[f"{name}/cosine"] = F.cosine_similarity(own.flatten(), other.flatten(), dim=0).item()
        numbers[f"{name}/norm"] = (own.norm() / other.norm()).item()
    rest = torch.cov(y.T) - torch.eye(y.shape[1], dtype=y.dtype)
    return numbers | {"whiteness": rest.norm().item() / y.shape[1] ** 0.5}


# (c) two modalities


def crossmodal(model, law, held, initial, seed) -> dict:
    """The share of images whose nearest text has the same content and style, and the gap between the means."""
    found = embed(model, held)
    a, b = F.normalize(found["z_a"], dim=1), F.normalize(found.get("t_b", found["z_b"]), dim=1)
    key = 4 * held.factors["content"] + held.factors["style"]
    recall = (key[(a @ b.T).argmax(1)] == key).double().mean().item()
    return {"recall": recall, "gap": (a.mean(0) - b.mean(0)).norm().item(), **cos_bounds(a, b)}


MEASURES |= {"surrogate": surrogate, "crossmodal": crossmodal}

PREDICTOR = {"predictor_hidden_size": 64, "marginal": {}}
MODALITIES = {
    "sdmi f ≠ g, exact": ("sdmi", True, {}),
    "sdmi f ≠ g, order 2": ("sdmi", True, {"marginal": {"second_order": 1.0}}),
    "sdmi f ≠ g, predictor, no marginal": ("sdmi", True, PREDICTOR),
    "jmi, two towers": ("jmi", False, {}),
    "sdmi two towers, reset, exact": ("sdmi", False, {"target": "reset", "symmetric": True}),
    "sdmi two towers, reset, predictor": ("sdmi", False, PREDICTOR | {"target": "reset", "symmetric": True}),
    "sdmi two towers, ema, predictor": (
        "sdmi",
        False,
        PREDICTOR | {"target": "ema", "symmetric": True, "target_momentum": 0.95, "target_momentum_end": 0.95},
    ),
}


def follow_across(seed: int) -> dict:
    """Whether a target of another modality can follow the online branch."""
    law = make_source({"name": "captions"})
    model = build("sdmi", law.towers, seed, BARE | {"target": "ema"}, asymmetric=True)
    try:
        model.update_target(0.9)
    except (RuntimeError, ValueError) as error:
        return {"refused": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
    return {"refused": ""}


def reset(seed: int, trials: int = 400, size: int = 8) -> dict:
    """One step of power iteration, ξ → Kξ/|Kξ|, is the reset of a linear critic: in how many it lowers ξᵀKξ."""
    generator = torch.Generator().manual_seed(seed)
    falls = {"psd": 0, "indefinite": 0}
    for _ in range(trials):
        root = torch.randn(size, size, generator=generator, dtype=torch.float64)
        start = F.normalize(torch.randn(size, generator=generator, dtype=torch.float64), dim=0)
        for kind, k in (("psd", root @ root.T), ("indefinite", (root + root.T) / 2)):
            xi, falling = start, False
            for _ in range(3):
                new = F.normalize(k @ xi, dim=0)
                falling |= bool(new @ k @ new < xi @ k @ xi - 1e-12)
                xi = new
            falls[kind] += falling
    return {"trials": trials, **falls}


def jobs(seeds: Sequence[int], tiny: bool) -> list[Job]:
    found = []
    for critic, seed in itertools.product(CRITIC_NAMES, seeds):
        arguments = {"critic": critic, "seed": seed, "steps": ASCENT_STEPS}
        arguments |= {"steps": 1, "pairs": 16} if tiny else {}
        found.append(Job(NAME, f"ascent {critic}-seed{seed}", ascend, arguments))
    for seed in seeds:
        found.append(
            Job(NAME, f"sharpen-seed{seed}", sharpen, {"seed": seed} | ({"steps": 1, "pairs": 16} if tiny else {}))
        )
    short = {"steps": 6, "batch_size": 64, "evaluations": 2, "held": 64} if tiny else SHORT
    arms = {
        f"predictor {width}, {words}": {"predictor_hidden_size": width, "critic": critic}
        for width, (words, critic) in itertools.product(
            WIDTHS[1:2] if tiny else WIDTHS, (("raw", RAW), ("white", WHITE))
        )
    }
    if not tiny:
        arms["predictor 32, raw, EMA"] = arms["predictor 32, raw"] | {"target": "ema"}
        arms["predictor 32, white, EMA"] = arms["predictor 32, white"] | {"target": "ema"}
    for (arm, columns), seed in itertools.product(arms.items(), seeds):
        columns = (
            BARE
            | {
                "target": "reset",
                "temperature": 1.0,
                "marginal": {},
                "target_momentum": 0.95,
                "target_momentum_end": 0.95,
            }
            | columns
        )
        settings = {"source": MIXTURE, "method": "sdmi", "columns": columns, "seed": seed, "measure": ["surrogate"]}
        found.append(Job(NAME, f"{arm}-seed{seed}", train, short | settings))
    for (arm, (method, asymmetric, columns)), seed in itertools.product(MODALITIES.items(), seeds):
        settings = {"source": {"name": "captions"}, "method": method, "seed": seed, "asymmetric": asymmetric}
        settings |= {"columns": BARE | columns, "measure": ["crossmodal"]}
        found.append(Job(NAME, f"{arm}-seed{seed}", train, short | settings))
    found += [Job(NAME, f"follow across-seed{seed}", follow_across, {"seed": seed}) for seed in seeds]
    return found + [Job(NAME, f"reset-seed{seed}", reset, {"seed": seed}) for seed in seeds]


def rising(
    done: Done, critics: Sequence[str], factors: Sequence[float], temperatures: Sequence[float] = TEMPERATURES
) -> Interval:
    """The share of gradient steps that do not lower the bound; replicates are seeds."""
    per_seed: dict[int, list[int]] = {}
    for critic in critics:
        for seed, found in replicates(done, f"ascent {critic}", lambda r: r).items():
            cells = [found[f"{t:g}/{factor:g}"] for t, factor in itertools.product(temperatures, factors)]
            hits, total = per_seed.get(seed, [0, 0])
            per_seed[seed] = [
                hits + sum(cell["rising"] for cell in cells),
                total + sum(cell["steps"] for cell in cells),
            ]
    return share_interval([hits for hits, _ in per_seed.values()], [total for _, total in per_seed.values()])


def rising_by_seed(done: Done, critic: str, factors: Sequence[float]) -> dict[int, float]:
    def share(result: dict) -> float:
        cells = [result[f"{t:g}/{factor:g}"] for t, factor in itertools.product(TEMPERATURES, factors)]
        return sum(cell["rising"] for cell in cells) / sum(cell["steps"] for cell in cells)

    return replicates(done, f"ascent {critic}", share)


def slope(done: Done) -> Interval:
    """Of log β against log τ, for the cosine: −2 if β ∝ 1/τ²."""

    def of(result: dict) -> float:
        betas = [math.log(result[f"{t:g}/{FACTORS[0]:g}"]["beta"]) for t in (TEMPERATURES[0], TEMPERATURES[-1])]
        return (betas[1] - betas[0]) / math.log(TEMPERATURES[-1] / TEMPERATURES[0])

    found = mean_interval([of(r) for r in replicates(done, "ascent cosine", lambda r: r).values()])
    return Interval(found.value + 2, found.low + 2, found.high + 2, found.n)


def report(done: Done, args: Namespace) -> Report:
    def of(arm: str, name: str, measure: str = "surrogate"):
        return replicates(done, arm, lambda r: r[measure][name])

    def aligned(critic: str):
        return replicates(
            done, f"ascent {critic}", lambda r: sum(r[f"{t:g}/1"]["aligned"] for t in TEMPERATURES) / len(TEMPERATURES)
        )

    def dv(arm: str):
        return of(arm, "cos_dv", "crossmodal")

    resets = list(replicates(done, "reset", lambda r: r).values())
    refused = [bool(r["refused"]) for r in replicates(done, "follow across", lambda r: r).values()]
    wide, narrow = f"predictor {WIDTHS[-1]}, raw", f"predictor {WIDTHS[0]}, raw"
    at_once = paired(
        _minus(of("predictor 32, white", "second_order/cosine"), of("predictor 32, raw", "second_order/cosine")),
        _minus(of(wide, "second_order/cosine"), of(narrow, "second_order/cosine")),
    )
    sharper = [
        [r[f"{t:g}"] for t in TEMPERATURES if r[f"{t:g}"] > 0]
        for r in replicates(done, "sharpen", lambda r: r).values()
    ]
    over_two = rising(done, CRITIC_NAMES, (16.0,))
    claims = [
        Claim(
            "(a) with η β ≤ 1 the bound does not fall, whatever the critic: share of steps",
            "ours",
            rising(done, CRITIC_NAMES, (0.25, 1.0)),
            NEAR,
            primary=True,
        ),
        Claim(
            "(a) with η β = 16 it falls: share of steps that lower it",
            "ours",
            Interval(1 - over_two.value, 1 - over_two.high, 1 - over_two.low, over_two.n),
            0.1,
        ),
        Claim(
            "(a) non-concave critics rise as often as the cosine at η β ≤ 1: cos 2∠, difference of shares",
            "ours",
            paired(rising_by_seed(done, "cosine_2", (0.25, 1.0)), rising_by_seed(done, "cosine", (0.25, 1.0))),
            0.1,
            equivalence=True,
        ),
        Claim(
            "(a) the same, cos 3∠",
            "ours",
            paired(rising_by_seed(done, "cosine_3", (0.25, 1.0)), rising_by_seed(done, "cosine", (0.25, 1.0))),
            0.1,
            equivalence=True,
        ),
        Claim(
            "(a) the curvature goes as 1/τ²: slope of log β on log τ, plus 2",
            "ours",
            slope(done),
            0.5,
            equivalence=True,
        ),
        Claim(
            "(a) curvature grows on the way, so that β at the start is no guide: log of their ratio, cosine (added "
            "after the first look)",
            "literature",
            mean_interval([sum(map(math.log, one)) / len(one) for one in sharper]),
            0,
        ),
        Claim(
            "(a) what changes is where it goes: pairs with cosine above ½, cosine less cos 3∠",
            "ours",
            paired(aligned("cosine"), aligned("cosine_3")),
            0,
        ),
        Claim(
            "(b) a white target makes the predictor's gradient that of the second-order term: cosine, white less raw "
            "(width 32)",
            "ours",
            paired(of("predictor 32, white", "second_order/cosine"), of("predictor 32, raw", "second_order/cosine")),
            0,
            primary=True,
        ),
        Claim(
            "(b) the same against the exact term",
            "ours",
            paired(of("predictor 32, white", "exact/cosine"), of("predictor 32, raw", "exact/cosine")),
            0,
        ),
        Claim(f"(b) whitening does more for it than width {WIDTHS[0]} → {WIDTHS[-1]} does", "ours", at_once, 0),
        Claim(
            "(b) a white target leaves more dimensions (effective rank of z)",
            "ours",
            paired(
                *(replicates(done, f"predictor 32, {kind}", last("rank/effective_rank")) for kind in ("white", "raw"))
            ),
            0,
        ),
        Claim(
            "(b) a wide predictor leaves more dimensions than a narrow one (raw target)",
            "paper",
            paired(
                replicates(done, wide, last("rank/effective_rank")),
                replicates(done, narrow, last("rank/effective_rank")),
            ),
            0,
        ),
        Claim(
            "(c) SDMI with encoders of two modalities: texts found by images, share right (chance 0.03)",
            "paper",
            mean_interval(list(of("sdmi f ≠ g, exact", "recall", "crossmodal").values())),
            0.1,
            primary=True,
        ),
        Claim(
            "(c) it ends as `jmi` with two towers does: cos-DV (nats)",
            "ours",
            paired(dv("sdmi f ≠ g, exact"), dv("jmi, two towers")),
            0.1,
            equivalence=True,
        ),
        Claim(
            "(c) order 2 ends as the exact term does: cos-DV (nats)",
            "ours",
            paired(dv("sdmi f ≠ g, order 2"), dv("sdmi f ≠ g, exact")),
            0.1,
            equivalence=True,
        ),
        Claim(
            "(c) predictor and gradient M-step without marginal term lose what the exact term keeps: cos-DV, exact "
            "less it",
            "ours",
            paired(dv("sdmi f ≠ g, exact"), dv("sdmi f ≠ g, predictor, no marginal")),
            0,
        ),
        Claim(
            "(c) a target of the other modality cannot follow the online branch: share of tries refused",
            "ours",
            share_interval([int(one) for one in refused], [1] * len(refused)),
            0.5,
        ),
        Claim(
            "(c) the reset never lowers ξᵀKξ for a positive semi-definite K: share of trials in which it does not",
            "ours",
            share_interval([r["trials"] - r["psd"] for r in resets], [r["trials"] for r in resets]),
            0.99,
        ),
        Claim(
            "(c) for an indefinite K, which f ≠ g allows, it does in most trials",
            "ours",
            share_interval([r["indefinite"] for r in resets], [r["trials"] for r in resets]),
            0.5,
        ),
    ]
    return Report(
        NAME,
        "Our derivation says that steps fail where η β > 2, β ∝ 1/τ² the curvature, for concave and other critics "
        "alike; that a predictor stands for the second-order marginal term exactly if its target is white, so that "
        "whitening matters more than width; and that two modalities need a marginal term, since a target cannot "
        "follow an encoder of another shape and a reset may go downhill.",
        f"(a) `sdmi` on 256 fixed pairs of a mixture, D = 8, {ASCENT_STEPS} alternations of plain gradient steps, β "
        "by power iteration at the start; a step rises if L falls by less than 1e-6. (b) `sdmi` with a predictor, "
        "squared error to a raw or whitened target, reset, no marginal term. (c) images of blobs and texts on 32 "
        f"topics. (b) and (c): {SHORT['steps']} steps of {SHORT['batch_size']} pairs, Adam at 3e-3, heads without "
        "batch norm. Seeds 0 to 4.",
        claims,
        "\n\n".join([ascents(done), predictors(done), modalities(done)]),
        lambda: draw(done),
    )


def _minus(first: dict, second: dict) -> dict:
    return {seed: first[seed] - second[seed] for seed in set(first) & set(second)}


def ascents(done: Done) -> str:
    rows = []
    for critic, t in itertools.product(CRITIC_NAMES, TEMPERATURES):
        cells = [rising(done, [critic], (factor,), (t,)) for factor in FACTORS]
        beta = mean_interval(
            [r[f"{t:g}/1"]["beta"] for r in replicates(done, f"ascent {critic}", lambda r: r).values()]
        )
        aligned = mean_interval(
            [r[f"{t:g}/1"]["aligned"] for r in replicates(done, f"ascent {critic}", lambda r: r).values()]
        )
        rows.append([f"{critic}, τ = {t:g}", beta, *cells, aligned])
    header = ["critic", "β", *(f"rising, η β = {factor:g}" for factor in FACTORS), "aligned at η β = 1"]
    return "## (a) Step size, temperature, critic\n\nShare of gradient steps that do not lower the bound.\n\n" + table(
        header, rows
    )


def predictors(done: Done) -> str:
    arms = [f"predictor {w}, {kind}" for kind in ("raw", "white") for w in WIDTHS] + [
        f"predictor 32, {kind}, EMA" for kind in ("raw", "white")
    ]
    names = ("second_order/cosine", "second_order/norm", "exact/cosine", "exact/norm", "whiteness")
    rows = []
    for arm in arms:
        cells = [
            mean_interval(list(replicates(done, arm, lambda r, n=name: r["surrogate"][n]).values())) for name in names
        ]
        cells += [
            mean_interval(list(replicates(done, arm, last(key)).values()))
            for key in ("rank/effective_rank", "mi/cos_dv")
        ]
        rows.append([arm, *cells])
    header = [
        "arm",
        "cosine to order 2",
        "norm ratio",
        "cosine to exact",
        "norm ratio",
        "‖Σ − I‖/√D of the target",
        "rank of z",
        "cos-DV",
    ]
    return "## (b) How far the predictor's gradient is from the marginal term's\n\n" + table(header, rows)


def modalities(done: Done) -> str:
    truth = truth_of({"name": "captions"})
    rows = []
    for arm in MODALITIES:
        cells = [
            mean_interval(list(replicates(done, arm, lambda r, n=n: r["crossmodal"][n]).values()))
            for n in ("cos_dv", "info_nce", "recall", "gap")
        ]
        cells.append(mean_interval(list(replicates(done, arm, last("rank/effective_rank")).values())))
        rows.append([arm, *cells])
    header = ["arm", "cos-DV", "InfoNCE", "texts found", "gap of the means", "rank of z"]
    said = next(iter(replicates(done, "follow across", lambda r: r["refused"]).values()), "")
    return (
        f"## (c) Images and texts\n\nThe MI of image and text is {truth:.2f} nats.\n\n{table(header, rows)}\n\nAn EMA "
        f"target of the other modality: `{said}`. With two towers in one encoder each modality has an EMA of its own, "
        "and that works."
    )


def draw(done: Done):
    figure, axes = drawing.panels(1, 3, 4.4, 4.0)
    left, middle, right = axes[0]
    for i, (critic, t) in enumerate(itertools.product(CRITIC_NAMES, (TEMPERATURES[0], TEMPERATURES[-1]))):
        shares = [rising(done, [critic], (factor,), (t,)).value for factor in FACTORS]
        left.plot(
            FACTORS,
            shares,
            drawing.MARKERS[i % 2] + ("-", "--", ":")[i // 2],
            color=drawing.COLOURS[i // 2],
            label=f"{critic}, τ = {t:g}",
        )
    left.axvline(2, color="grey", linewidth=1)
    left.set(xscale="log", xlabel="η β (grey: 2)", title="(a) share of steps\nthat do not lower the bound")
    for i, kind in enumerate(("raw", "white")):
        for j, name in enumerate(("second_order", "exact")):
            values = [
                mean_interval(
                    list(
                        replicates(
                            done, f"predictor {w}, {kind}", lambda r, n=name: r["surrogate"][f"{n}/cosine"]
                        ).values()
                    )
                )
                for w in WIDTHS
            ]
            middle.errorbar(
                WIDTHS,
                [v.value for v in values],
                [[max(0, v.value - v.low) for v in values], [max(0, v.high - v.value) for v in values]],
                fmt=drawing.MARKERS[j] + ("-", "--")[j],
                color=drawing.COLOURS[3 + i],
                capsize=3,
                label=f"{kind} target, {name.replace('_', ' ')}",
            )
    middle.set(
        xscale="log", xlabel="width of the predictor", title="(b) cosine of its gradient\nand the marginal term's"
    )
    found = {
        arm: mean_interval(list(replicates(done, arm, lambda r: r["crossmodal"]["cos_dv"]).values()))
        for arm in MODALITIES
    }
    drawing.points(right, {arm.replace(", ", ",\n", 1): value for arm, value in found.items()})
    right.set(title="(c) cos-DV of image and text", xlabel="nats")
    drawing.legend(figure, [left, middle])
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
