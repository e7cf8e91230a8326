"""What happens without the marginal term, and what can stand in for it?

    python recipes/experiments/marginal_ablation.py

SDMI: predictor × target {reset, ema, gradient} × marginal {none, ladder of order 1, 2, 3, exact}. JMI: the marginal of
`jmi`, `barlow_twins` and `vicreg` weighed from 0 to 10 times. And a panel of its own for the predictor with a gradient
M-step and no marginal term, with what repairs it. Which collapse, how soon, and which gauge sees it.
"""

import itertools
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from statistics import median

import drawing
from harness import BARE, Done, Job, last, main, replicates, train
from reporting import Claim, Interval, Report, mean_interval, paired, share_interval, table

from hf_mi_ssl.evaluation.figures import COLOURS

NAME = "marginal_ablation"
COMMON = {"source": {"name": "mixture", "dimension": 32}, "steps": 160, "batch_size": 128, "evaluations": 8}
TEMPERATURE, MOMENTUM, PREDICTOR = 0.5, 0.95, 64
LADDER = {
    "none": {},
    "order 1": {"first_order": 1.0},
    "order 2": {"second_order": 1.0},
    "order 3": {"third_order": 1.0},
    "exact": {"exact": 1.0},
}
TARGETS = ("reset", "ema", "gradient")
LOSSES = {
    "cosine": ("cosine", TEMPERATURE),
    "mse": ("negative_squared_distance", 1.0),
    "white target": ("white_target", 1.0),
    "both white": ("whitened_cosine", TEMPERATURE),
}
FACTORS = (0.0, 0.1, 1.0, 10.0)
VICREG = {"negative_mse": 25.0}, {"variance": 25.0, "covariance": 1.0}
# Below 2.5 dimensions, or in a cone or a point: the thresholds of the package's alarm
RANK, CONE, POINT = 2.5, 0.99, 0.1


def jmi_arms() -> dict[str, tuple[str, dict]]:
    """Row and columns of each arm of JMI, by regulariser and factor."""
    arms = {}
    for factor in FACTORS:
        arms[f"jmi exact ×{factor:g}"] = "jmi", {"temperature": TEMPERATURE, "marginal": {"exact": factor}}
        arms[f"barlow redundancy ×{factor:g}"] = "barlow_twins", {"marginal": {"redundancy": 0.2 * factor}}
        for term in VICREG[1]:
            marginal = VICREG[1] | {term: VICREG[1][term] * factor}
            arms[f"vicreg {term} ×{factor:g}"] = "vicreg", {"joint": VICREG[0], "marginal": marginal}
    arms["vicreg both ×0"] = "vicreg", {"joint": VICREG[0], "marginal": {}}
    return arms


def sdmi_columns(target: str, predictor: bool, loss: str, marginal: dict) -> dict:
    critic, temperature = LOSSES[loss]
    more = {"predictor_hidden_size": PREDICTOR} if predictor else {}
    return more | {
        "target": target,
        "target_momentum": MOMENTUM,
        "target_momentum_end": MOMENTUM,
        "critic": critic,
        "temperature": temperature,
        "marginal": marginal,
    }


def sdmi_arm(target: str, predictor: bool, marginal: str, loss: str = "cosine", norm: bool = False) -> str:
    parts = [target, "predictor" if predictor else "bare", marginal]
    return ", ".join(parts + [loss] * (loss != "cosine") + ["batch norm"] * norm)


def jobs(seeds: Sequence[int], tiny: bool) -> list[Job]:
    arms = {}
    for target, predictor, marginal in itertools.product(TARGETS, (False, True), LADDER):
        columns = sdmi_columns(target, predictor, "cosine", LADDER[marginal])
        arms[sdmi_arm(target, predictor, marginal)] = "sdmi", BARE | columns
    for target, loss in itertools.product(TARGETS, list(LOSSES)[1:]):
        arms[sdmi_arm(target, True, "none", loss)] = "sdmi", BARE | sdmi_columns(target, True, loss, {})
    for target, predictor in (("gradient", False), ("gradient", True), ("reset", False), ("reset", True)):
        norm = {"projector_output_norm": True}
        columns = sdmi_columns(target, predictor, "cosine", {})
        arms[sdmi_arm(target, predictor, "none", norm=True)] = "sdmi", BARE | columns | norm
    arms |= {arm: (method, BARE | columns) for arm, (method, columns) in jmi_arms().items()}
    scale_free = {"critic": "white_target_of_any_scale"}
    arms[SCALE_FREE] = "sdmi", BARE | sdmi_columns("gradient", True, "mse", {}) | scale_free
    lengths = {f"{arm}, long": LONG for arm in LONG_ARMS}
    arms |= {f"{arm}, long": arms[arm] for arm in LONG_ARMS}
    if tiny:
        arms = {arm: arms[arm] for arm in (*PANEL, "jmi exact ×0", sdmi_arm("gradient", False, "none"))}
    less = {"steps": 6, "evaluations": 2, "held": 64} if tiny else {}
    return [
        Job(
            NAME,
            f"{arm}-seed{seed}",
            train,
            COMMON | lengths.get(arm, {}) | less | {"method": method, "columns": columns, "seed": seed},
        )
        for (arm, (method, columns)), seed in itertools.product(arms.items(), seeds)
    ]


PANEL = [sdmi_arm("gradient", True, "none", loss) for loss in LOSSES] + [
    sdmi_arm("ema", True, "none"),
    sdmi_arm("reset", True, "none"),
    sdmi_arm("gradient", True, "exact"),
]

# Added after the first look: a white target with more time, as our derivation had it, and one that is white at
# any scale; the package's whitening shrinks covariances by 1e-3, and a target that shrinks below that gets away.
SCALE_FREE = "gradient, predictor, none, white target of any scale"
LONG = {"steps": 1200, "learning_rate": 1e-3}
LONG_ARMS = [sdmi_arm("gradient", True, "none", "white target"), sdmi_arm("reset", True, "none", "white target"),
             sdmi_arm("gradient", True, "none"), SCALE_FREE]  # fmt: skip

# A gauge says from the numbers of one evaluation, and from all before it, whether something is wrong.
Gauge = Callable[[dict, int], bool]
GAUGES: dict[str, Gauge] = {
    "std of z/‖z‖ < 0.1": lambda c, i: c["collapse/std"][i] < POINT,
    "mean cosine > 0.99": lambda c, i: c["collapse/mean_cosine"][i] > CONE,
    "effective rank of z < 2.5": lambda c, i: c["rank/effective_rank"][i] < RANK,
    "effective rank of t < 2.5": lambda c, i: c.get("rank/effective_rank_target", c["rank/effective_rank"])[i] < RANK,
    "RankMe of z < 2.5": lambda c, i: c["rank/rankme"][i] < RANK,
    "uniformity > −0.5": lambda c, i: c["collapse/uniformity"][i] > -0.5,
    "cos-DV < 60 % of its best": lambda c, i: c["mi/cos_dv"][i] < 0.6 * max(c["mi/cos_dv"][1 : i + 1]),
    "calibrated < 60 % of its best": lambda c, i: _below_best(c["mi/cos_dv_calibrated"][1 : i + 1]),
}


def _below_best(values: list[float]) -> bool:
    return values[-1] < 0.6 * max(values)


def collapse_of(result: dict) -> str:
    """`point`, `few dimensions` or `none`, of the worse of the two branches, at the end."""
    if "diverged" in result:
        return "diverged"
    curves = result["curves"]
    if curves["collapse/std"][-1] < POINT or curves["collapse/mean_cosine"][-1] > CONE:
        return "point"
    return "few dimensions" if fewest(result) < RANK else "none"


def fewest(result: dict) -> float:
    """The smaller effective rank of the two branches."""
    return min(result["curves"][key][-1] for key in RANKS if key in result["curves"])


RANKS = ("rank/effective_rank", "rank/effective_rank_target")


def collapsed(done: Done, arm: str, judge: Callable[[dict], bool] = lambda r: collapse_of(r) != "none") -> Interval:
    """The share of runs that end collapsed."""
    found = [int(judge(result)) for result in replicates(done, arm, lambda r: r).values()]
    return share_interval(found, [1] * len(found))


def online_collapsed(result: dict) -> bool:
    return result["curves"][RANKS[0]][-1] < RANK


def target_collapsed(result: dict) -> bool:
    return result["curves"][RANKS[1]][-1] < RANK


def spared(done: Done, arm: str, judge: Callable[[dict], bool] = lambda r: collapse_of(r) != "none") -> Interval:
    share = collapsed(done, arm, judge)
    return Interval(1 - share.value, 1 - share.high, 1 - share.low, share.n)


def report(done: Done, args: Namespace) -> Report:
    def rank(arm: str):
        return replicates(done, arm, fewest)

    def more(first: str, second: str) -> Interval:
        return paired(rank(first), rank(second))

    def nats(first: str, second: str) -> Interval:
        return paired(*(replicates(done, arm, last("mi/cos_dv")) for arm in (first, second)))

    ladder = [sdmi_arm("gradient", False, order) for order in LADDER]
    claims = [
        Claim(
            "JMI without its marginal term collapses: share of runs",
            "paper",
            collapsed(done, "jmi exact ×0"),
            0.5,
            primary=True,
        ),
        Claim(
            "SDMI without marginal term and predictor collapses (gradient target)",
            "paper",
            collapsed(done, ladder[0]),
            0.5,
            primary=True,
        ),
        Claim(
            "a predictor in place of the marginal term prevents collapse: reset target",
            "paper",
            spared(done, sdmi_arm("reset", True, "none")),
            0.5,
            primary=True,
        ),
        Claim("the same, EMA target", "paper", spared(done, sdmi_arm("ema", True, "none")), 0.5, primary=True),
        Claim(
            "the same, reset target, with batch norm at the projector's end (added)",
            "paper",
            spared(done, sdmi_arm("reset", True, "none", norm=True)),
            0.5,
        ),
        Claim(
            "the same, gradient M-step, which is the paper's M-step",
            "paper",
            spared(done, sdmi_arm("gradient", True, "none")),
            0.5,
        ),
        Claim(
            "predictor, gradient M-step, no marginal term: it collapses (cosine)",
            "ours",
            collapsed(done, sdmi_arm("gradient", True, "none")),
            0.5,
        ),
        Claim(
            "the same with the squared error", "ours", collapsed(done, sdmi_arm("gradient", True, "none", "mse")), 0.5
        ),
        Claim(
            "whitening the target keeps the target from collapsing (added)",
            "ours",
            spared(done, sdmi_arm("gradient", True, "none", "white target"), target_collapsed),
            0.5,
        ),
        Claim(
            "whitening the target repairs it: neither branch collapses",
            "ours",
            spared(done, sdmi_arm("gradient", True, "none", "white target")),
            0.5,
        ),
        Claim(
            "whitening both sides repairs it",
            "ours",
            spared(done, sdmi_arm("gradient", True, "none", "both white")),
            0.5,
        ),
        Claim(
            "the same over 1,200 steps at 1e-3 (added after the first look)",
            "ours",
            spared(done, f"{LONG_ARMS[0]}, long"),
            0.5,
        ),
        Claim(
            "a target white at any scale keeps the online branch from collapsing (added)",
            "ours",
            spared(done, SCALE_FREE, online_collapsed),
            0.5,
        ),
        Claim(
            "the same over 1,200 steps (added)",
            "ours",
            spared(done, f"{SCALE_FREE}, long", online_collapsed),
            0.5,
        ),
        Claim(
            "… and its own raw spectrum, which the objective does not see (added)",
            "ours",
            spared(done, SCALE_FREE, target_collapsed),
            0.5,
        ),
        Claim("the exact marginal term repairs it", "ours", spared(done, sdmi_arm("gradient", True, "exact")), 0.5),
        Claim(
            "order 1 leaves more dimensions than none (gradient target, effective rank)",
            "ours",
            more(ladder[1], ladder[0]),
            0,
        ),
        Claim("order 2 leaves more dimensions than order 1", "ours", more(ladder[2], ladder[1]), 0),
        Claim(
            "order 2 ends as the exact term does: cos-DV (nats)",
            "ours",
            nats(ladder[2], ladder[4]),
            0.05,
            equivalence=True,
        ),
        Claim("order 3 ends with more cos-DV than order 2 (nats)", "literature", nats(ladder[3], ladder[2]), 0),
        Claim(
            "EMA target, no predictor, no marginal term: it collapses",
            "literature",
            collapsed(done, sdmi_arm("ema", False, "none")),
            0.5,
        ),
        Claim("VICReg without its variance term collapses", "literature", collapsed(done, "vicreg variance ×0"), 0.5),
        Claim(
            "VICReg without its covariance term has fewer dimensions",
            "literature",
            more("vicreg covariance ×1", "vicreg covariance ×0"),
            0,
        ),
        Claim(
            "Barlow Twins without its redundancy term has fewer dimensions",
            "literature",
            more("barlow redundancy ×1", "barlow redundancy ×0"),
            0,
        ),
        Claim(
            "ten times the marginal term costs `jmi` cos-DV (nats)", "ours", nats("jmi exact ×1", "jmi exact ×10"), 0
        ),
    ]
    return Report(
        NAME,
        "The paper: without the marginal term both prototypes collapse; in SDMI a predictor can stand in for it. Our "
        "derivation: that depends on the M-step. With a target that takes gradient steps on the joint term alone the "
        "predictor does not help, because the target meets the prediction in a point; a white target cannot.",
        "`sdmi` and the named rows on mixtures of ten clusters in 32 dimensions, heads without batch norm (it "
        f"stands in for a marginal term itself; four arms have it), τ = {TEMPERATURE:g}, {COMMON['steps']} steps of "
        f"{COMMON['batch_size']} pairs, Adam at 3e-3, EMA momentum {MOMENTUM:g}, predictor of {PREDICTOR}, seeds 0 "
        f"to 4. A run has collapsed if either branch ends below {RANK} effective dimensions, or its embeddings in a "
        f"cone (mean cosine above {CONE}) or a point (std below {POINT}): the alarm's thresholds.",
        claims,
        "\n\n".join([grid(done), panel(done), weights(done), gauges(done)]),
        lambda: draw(done),
    )


def _cell(done: Done, arm: str) -> str:
    found = replicates(done, arm, fewest)
    if not found:
        return "–"
    kinds = list(replicates(done, arm, collapse_of).values())
    words = ", ".join(
        f"{kinds.count(kind)} {kind}" for kind in ("point", "few dimensions", "diverged") if kind in kinds
    )
    return f"{mean_interval(list(found.values()))}" + (f"; {words}" if words else "")


def grid(done: Done) -> str:
    rows = [
        [
            f"{target}, {'predictor' if predictor else 'no predictor'}",
            *(_cell(done, sdmi_arm(target, predictor, m)) for m in LADDER),
        ]
        for predictor, target in itertools.product((False, True), TARGETS)
    ]
    text = table(["SDMI", *LADDER], rows)
    normed = [
        [arm, _cell(done, arm)]
        for target, predictor in itertools.product(("gradient", "reset"), (False, True))
        if (arm := sdmi_arm(target, predictor, "none", norm=True))
    ]
    return (
        "## The grid\n\nEffective rank (of 16) at the end, of the branch that has less, and how many of the runs "
        f"collapsed to what.\n\n{text}\n\nWith batch norm at the projector's end:\n\n{table(['arm', 'rank'], normed)}"
    )


def panel(done: Done) -> str:
    rows = []
    for arm in [*PANEL, SCALE_FREE, *(f"{arm}, long" for arm in LONG_ARMS)]:
        keys = ("rank/effective_rank", "rank/effective_rank_target", "mi/cos_dv", "mi_predicted/cos_dv")
        cells = []
        for key in keys:
            values = list(replicates(done, arm, last(key)).values())
            cells.append("–" if None in values or not values else mean_interval(values))
        cells.append(mean_interval(list(replicates(done, arm, lambda r: r["end"]["linear_z"]).values())))
        rows.append([arm, *cells, _first(done, arm)])
    header = [
        "arm",
        "rank of z",
        "rank of target t",
        "cos-DV (z, z′)",
        "cos-DV (prediction, t)",
        "linear accuracy of z",
        "first step in collapse",
    ]
    return "## The predictor without a marginal term\n\n" + table(header, rows)


def _first(done: Done, arm: str) -> str:
    """The median step of the first evaluation in which either branch has collapsed, and in how many runs."""
    steps = []
    for result in replicates(done, arm, lambda r: r).values():
        curves = result["curves"]
        for i, step in enumerate(curves["step"]):
            hit = any(GAUGES[name](curves, i) for name in list(GAUGES)[:4])
            if step and hit and collapse_of(result) != "none":
                steps.append(step)
                break
    return f"{median(steps):g} ({len(steps)} runs)" if steps else "never"


def weights(done: Done) -> str:
    kinds = ("jmi exact", "barlow redundancy", "vicreg variance", "vicreg covariance")
    rows = [[kind, *(_cell(done, f"{kind} ×{factor:g}") for factor in FACTORS)] for kind in kinds]
    rows.append(["vicreg without both", _cell(done, "vicreg both ×0"), *["–"] * (len(FACTORS) - 1)])
    nats = [
        [kind, *(mean_interval(list(replicates(done, f"{kind} ×{f:g}", last("mi/cos_dv")).values())) for f in FACTORS)]
        for kind in kinds
    ]
    header = ["regulariser", *(f"×{factor:g}" for factor in FACTORS)]
    text = f"Effective rank:\n\n{table(header, rows)}\n\ncos-DV:\n\n{table(header, nats)}"
    return f"## JMI: the weight of each regulariser\n\n{text}"


def gauges(done: Done) -> str:
    results = [result for _, result in done.values() if "diverged" not in result]
    bad = [result for result in results if collapse_of(result) != "none"]
    rows = []
    for name, gauge in GAUGES.items():
        first = [
            next((s for i, s in enumerate(r["curves"]["step"]) if i and gauge(r["curves"], i)), None) for r in bad
        ]
        false = sum(gauge(r["curves"], len(r["curves"]["step"]) - 1) for r in results if r not in bad)
        seen = [step for step in first if step is not None]
        rows.append(
            [
                name,
                f"{len(seen)} of {len(bad)}",
                f"{median(seen):g}" if seen else "–",
                f"{false} of {len(results) - len(bad)}",
            ]
        )
    said = [
        min((s for kind, s in r["alarm"].items() if "collapse" in kind or kind == "information_loss"), default=None)
        for r in bad
    ]
    false = sum(any("collapse" in kind for kind in r["alarm"]) for r in results if r not in bad)
    seen = [step for step in said if step is not None]
    rows.append(
        [
            "the package's alarm (three in a row, online branch)",
            f"{len(seen)} of {len(bad)}",
            f"{median(seen):g}" if seen else "–",
            f"{false} of {len(results) - len(bad)}",
        ]
    )
    return (
        "## Which gauge sees it\n\nOf all runs here; the first four define collapse, at the end of a run. A gauge of "
        "z alone cannot see a target that has collapsed.\n\n"
        + table(
            ["gauge", "sees of the collapsed runs", "median first step", "at the end, of runs that had not collapsed"],
            rows,
        )
    )


def draw(done: Done):
    figure, axes = drawing.panels(1, 3, 4.6, 4.4)
    left, middle, right = axes[0]
    rows = list(itertools.product((False, True), TARGETS))
    values = [[_mean(done, sdmi_arm(target, predictor, m)) for m in LADDER] for predictor, target in rows]
    left.imshow(values, cmap="cividis", vmin=1, vmax=10, aspect="auto")
    for (i, line), j in itertools.product(enumerate(values), range(len(LADDER))):
        left.text(j, i, f"{line[j]:.1f}", ha="center", va="center", color="black" if line[j] > 5.5 else "white")
    left.set_xticks(range(len(LADDER)), list(LADDER), fontsize=8)
    left.set_yticks(
        range(len(rows)), [f"{target}{', predictor' if predictor else ''}" for predictor, target in rows], fontsize=8
    )
    left.set_title("effective rank at the end\n(the lesser branch)")
    left.grid(False)
    for i, arm in enumerate(PANEL):
        found = [result["curves"] for name, (_, result) in done.items() if name.rsplit("-seed", 1)[0] == arm]
        if found:
            label = arm.replace(", none", "").replace(", predictor", "")
            drawing.curve(middle, found[0]["step"], [c.get(RANKS[1], c[RANKS[0]]) for c in found], i, label)
    middle.set(title="predictor, no marginal term:\neffective rank of the target", xlabel="step")
    for i, kind in enumerate(("jmi exact", "barlow redundancy", "vicreg variance", "vicreg covariance")):
        means = [_mean(done, f"{kind} ×{factor:g}") for factor in FACTORS]
        right.plot(range(len(FACTORS)), means, drawing.MARKERS[i] + "-", color=COLOURS[i], label=kind)
    right.set_xticks(range(len(FACTORS)), [f"{factor:g}" for factor in FACTORS])
    right.set(title="JMI: effective rank against\nthe weight of a regulariser", xlabel="times its weight")
    drawing.legend(figure, axes)
    return figure


def _mean(done: Done, arm: str) -> float:
    return mean_interval(list(replicates(done, arm, fewest).values())).value


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
