"""What happens to SDMI without the marginal term, and what can stand in for it?

    python recipes/experiments/marginal_ablation.py

Predictor × target {reset, ema, gradient} × marginal {none, ladder of order 1, 2, 3, exact}. A panel of its own for the
predictor with a gradient M-step and no marginal term, with what repairs it. Which collapse, how soon, and which gauge
sees it, of these runs and of those of regulariser_weights.py.
"""

import itertools
import sys
from argparse import Namespace
from collections.abc import Sequence

import collapse
import drawing
import regulariser_weights
from ablation_arms import (
    ALONE,
    BY_EMA,
    BY_RESET,
    EXACT_WHITE,
    GRID,
    PANEL,
    PREDICTOR,
    SCALE_FREE,
    WHITE,
    WITH_EXACT,
    arms,
    name_of,
)
from ablation_tables import gauges, grid, label, panel
from collapse import ONLINE, TARGET, collapsed, fewest, spared
from harness import (
    LADDER,
    SLOW,
    TINY,
    Done,
    Job,
    at,
    last,
    main,
    mean,
    replicated,
    replicates,
    train,
    twice,
)
from regulariser_weights import COMMON, TEMPERATURE
from reporting import Claim, Interval, Report, literature, ours, paired, paper
from white_targets import raw_or_seen

NAME = "marginal_ablation"
BARE_NONE = name_of("gradient", False, "none")


def jobs(seeds: Sequence[int], tiny: bool) -> list[Job]:
    some = {arm: arms()[arm] for arm in (*PANEL, BARE_NONE)} if tiny else arms()
    common = COMMON | (TINY if tiny else {})
    own = replicated(NAME, train, some, seeds, **common)
    deciding = {arm: some[arm] for arm in (BARE_NONE, BY_EMA, BY_RESET)}
    own += replicated(NAME, train, deciding, twice(seeds)[len(seeds) :], **common)
    return own + regulariser_weights.jobs(seeds, tiny)


def claims(done: Done) -> list[Claim]:
    def more(first: str, second: str) -> Interval:
        return paired(replicates(done, first, fewest), replicates(done, second, fewest))

    def nats(first: str, second: str) -> Interval:
        return paired(*(replicates(done, arm, last("mi/cos_dv")) for arm in (first, second)))

    none, order_1, order_2, order_3, exact = (name_of("gradient", False, order) for order in LADDER)
    half = {"above": 0.5}
    return [
        paper(
            "SDMI without marginal term and predictor collapses (gradient target): share of runs",
            collapsed(done, none),
            **half,
            primary=True,
        ),
        paper(
            "a predictor in place of the marginal term prevents collapse: reset target",
            spared(done, BY_RESET),
            **half,
            primary=True,
        ),
        paper(
            "a predictor in place of the marginal term prevents collapse: EMA target",
            spared(done, BY_EMA),
            **half,
            primary=True,
        ),
        paper(
            "a predictor prevents collapse: reset target, with batch norm at the projector's end (added)",
            spared(done, name_of("reset", True, "none", norm=True)),
            **half,
        ),
        ours(
            "with a gradient M-step it does not prevent it, and all collapses (cosine; which M-step the paper "
            "ablated is not known)",
            collapsed(done, ALONE),
            **half,
        ),
        ours(
            "with a gradient M-step all collapses under the squared error too",
            collapsed(done, name_of("gradient", True, "none", "mse")),
            **half,
        ),
        ours(
            "whitening the target keeps the target from collapsing (added)",
            spared(done, WHITE, collapse.target),
            **half,
        ),
        ours(
            "without whitening the target would collapse, under the same squared error (added, as its control, when "
            "all had been looked at)",
            collapsed(done, name_of("gradient", True, "none", "mse"), collapse.target),
            **half,
        ),
        ours(
            "whitening the target, with the covariance shrunk by 1e-3, repairs it: neither branch collapses",
            spared(done, WHITE),
            **half,
        ),
        ours(
            "an exactly white target repairs it: neither branch collapses, t raw or as W(t − μ) (added)",
            spared(done, EXACT_WHITE["gradient"], raw_or_seen),
            **half,
        ),
        ours(
            "an exactly white target, over 1,200 steps at 1e-3: neither branch collapses (added)",
            spared(done, f"{EXACT_WHITE['gradient']}, long", raw_or_seen),
            **half,
        ),
        ours(
            "whitening both sides, shrunk too, repairs it",
            spared(done, name_of("gradient", True, "none", "both white")),
            **half,
        ),
        ours(
            "whitening the target, covariance shrunk, over 1,200 steps at 1e-3: neither branch collapses (added)",
            spared(done, f"{WHITE}, long"),
            **half,
        ),
        ours(
            "a target white at any scale, but shrunk, keeps the online branch from collapsing (added)",
            spared(done, SCALE_FREE, collapse.online),
            **half,
        ),
        ours(
            "a target white at any scale, but shrunk, over 1,200 steps at 1e-3: the online branch does not collapse "
            "(added)",
            spared(done, f"{SCALE_FREE}, long", collapse.online),
            **half,
        ),
        ours(
            "a target white at any scale, but shrunk, keeps its own spectrum, unseen by the objective (added)",
            spared(done, SCALE_FREE, collapse.target),
            **half,
        ),
        ours("the exact marginal term repairs it", spared(done, WITH_EXACT), **half),
        ours("order 1 leaves more dimensions than none (gradient target, effective rank)", more(order_1, none)),
        ours("order 2 leaves more dimensions than order 1", more(order_2, order_1)),
        ours("order 2 ends as the exact term does: cos-DV (nats)", nats(order_2, exact), within=0.05),
        ours("order 3 ends with more cos-DV than order 2 (nats)", nats(order_3, order_2)),
        literature(
            "EMA target, no predictor, no marginal term: it collapses",
            collapsed(done, name_of("ema", False, "none")),
            **half,
            cited="2006.07733",
        ),
    ]


def report(done: Done, args: Namespace) -> Report:
    return Report(
        NAME,
        "The paper: without the marginal term SDMI collapses; a predictor can stand in for it. Our derivation: that "
        "depends on the M-step. With a target that takes gradient steps on the joint term alone the predictor does "
        "not help, the target collapses, and whitening the target repairs that.",
        "`sdmi` on mixtures of ten clusters in 32 dimensions, heads without batch norm (it stands in for a marginal "
        f"term itself; four arms have it), τ = {TEMPERATURE:g}, {COMMON['steps']} steps of {COMMON['batch_size']} "
        f"pairs, Adam at 3e-3 (long arms: 1,200 at 1e-3), EMA momentum {SLOW['target_momentum']:g}, predictor of "
        f"{PREDICTOR}, seeds 0 to 4; of arms of primary claims 0 to 9 (changed: five could not tell). "
        f"{collapse.DEFINITION}",
        claims(done),
        "\n\n".join([grid(done), panel(done), gauges(done)]),
        lambda: draw(done),
    )


def draw(done: Done):
    figure, axes = drawing.panels(1, 3, 4.6, 4.4)
    left, *branches = axes[0]
    values = [[mean(done, name_of(target, predictor, m), fewest).value for m in LADDER] for predictor, target in GRID]
    left.imshow(values, cmap="cividis", vmin=1, vmax=10, aspect="auto")
    for (i, line), j in itertools.product(enumerate(values), range(len(LADDER))):
        left.text(j, i, f"{line[j]:.1f}", ha="center", va="center", color="black" if line[j] > 5.5 else "white")
    left.set_xticks(range(len(LADDER)), list(LADDER), fontsize=8)
    left.set_yticks(range(len(GRID)), [label(*row, without="") for row in GRID], fontsize=8)
    left.set_title("effective rank at the end\n(the lesser branch)")
    left.grid(False)
    reads = {"the target": lambda curves: curves.get(TARGET, curves[ONLINE]), "the online branch": at(ONLINE)}
    words = {arm: arm.replace(", none", "").replace(", predictor", "") for arm in (*PANEL, EXACT_WHITE["gradient"])}
    words[WITH_EXACT] += " marginal term"
    for axis, (name, read) in zip(branches, reads.items(), strict=True):
        for i, (arm, said) in enumerate(words.items()):
            drawing.runs(axis, done, arm, read, i, said)
        axis.set(title=f"with a predictor, no marginal term\nunless named: rank of {name}", xlabel="step")
    drawing.legend(figure, axes)
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
