"""Do gradient steps raise the bound for critics that are not concave, and from which step size on do they not?

    python recipes/experiments/nonconcave_critics.py

Gradient ascent on a fixed batch: step size × temperature × critic: cos(k ∠) for k = 1, 2, 3, |cos ∠|, and one that
learns.
"""

import itertools
import math
import sys
from argparse import Namespace
from collections.abc import Sequence
from statistics import mean as average

import drawing
from ascents import FACTORS, PAIRS, STEPS, TEMPERATURES, WATCH, ascend, sharpen
from harness import (
    Cell,
    Done,
    Job,
    Read,
    Replicates,
    arms_table,
    at,
    main,
    mean,
    over_arms,
    replicated,
    replicates,
    share,
    twice,
)
from reporting import Claim, Interval, Report, literature, ours, paired

NAME = "nonconcave_critics"
POWERS = ("cosine", "cosine_2", "cosine_3")
CRITICS = (*POWERS, "absolute_cosine", "learned")  # the last two were added when the first had been looked at
SMALL = (0.25, 1.0)
NEAR, MARGIN = 0.9, 0.1


def jobs(seeds: Sequence[int], tiny: bool) -> list[Job]:
    less = {"steps": 1, "pairs": 16} if tiny else {}
    arms = {f"ascent {critic}": {"critic": critic, "steps": STEPS, "watch": WATCH} | less for critic in CRITICS}
    deciding = {arm: arms[arm] for arm in map("ascent {}".format, POWERS)}
    more = replicated(NAME, ascend, deciding, twice(seeds)[len(seeds) :])
    return replicated(NAME, ascend, arms, seeds) + more + replicated(NAME, sharpen, {"sharpen": less}, seeds)


def rising(done: Done, critics: Sequence[str], factors: Sequence[float], temperatures=TEMPERATURES) -> Interval:
    """The share of gradient steps that do not lower the bound."""

    def trials(result: dict) -> list[bool]:
        cells = [result[f"{t:g}/{factor:g}"] for t, factor in itertools.product(temperatures, factors)]
        return [step < cell["rising"] for cell in cells for step in range(cell["steps"])]

    return share(done, {f"ascent {critic}": trials for critic in critics})


def rising_when_small(done: Done, critics: Sequence[str]) -> Interval:
    """The same of the steps whose own η β was at most 1 when last measured, at all rates."""

    def trials(result: dict) -> list[bool]:
        cells = [cell for key, cell in result.items() if "/" in key]
        return [step < cell["small_rising"] for cell in cells for step in range(cell["small"])]

    return share(done, {f"ascent {critic}": trials for critic in critics})


def over_cells(read: Read, factors: Sequence[float]) -> Read:
    """Reads the mean over temperatures and these step sizes."""
    cells = [f"{t:g}/{factor:g}" for t, factor in itertools.product(TEMPERATURES, factors)]
    return lambda result: average(read(result[cell]) for cell in cells)


def fell(done: Done, factors: Sequence[float]) -> Replicates:
    """By seed the share of gradient steps that lower the bound, of cos k ∠."""
    return over_arms(
        done, [f"ascent {c}" for c in POWERS], over_cells(lambda cell: 1 - cell["rising"] / cell["steps"], factors)
    )


def fell_of_own(done: Done, small: bool) -> Replicates:
    """The same of the steps whose own η β was at most 1 when last measured, or of those where it was not."""

    def read(result: dict) -> float | None:
        cells = [cell for key, cell in result.items() if "/" in key]
        steps, rising = (sum(cell[key] for cell in cells) for key in ("small", "small_rising"))
        if not small:
            steps, rising = sum(c["steps"] for c in cells) - steps, sum(c["rising"] for c in cells) - rising
        return 1 - rising / steps if steps else None

    return over_arms(done, [f"ascent {c}" for c in POWERS], read)


def name_of(critic: str) -> str:
    return {"absolute_cosine": "abs(cos ∠)", "learned": "one that learns"}[critic]


def claims(done: Done) -> list[Claim]:
    def differ(read: Read, factors: Sequence[float], first: str, second: str) -> Interval:
        return paired(*(replicates(done, f"ascent {c}", over_cells(read, factors)) for c in (first, second)))

    def as_often(critic: str) -> Interval:
        return differ(lambda cell: cell["rising"] / cell["steps"], SMALL, critic, "cosine")

    def slope(result: dict) -> float:
        first, *_, last = (math.log(result[f"{t:g}/{FACTORS[0]:g}"]["beta"]) for t in TEMPERATURES)
        return (last - first) / math.log(TEMPERATURES[-1] / TEMPERATURES[0])

    return [
        ours(
            "with η β_θ ≤ 1, β_θ the curvature in θ at the start, the bound does not fall, whatever k of cos k ∠: "
            "share of steps",
            rising(done, POWERS, SMALL),
            above=NEAR,
            primary=True,
        ),
        *(
            ours(
                f"of steps whose own η β, measured on the way in what they move, is at most 1: {words} (added)",
                rising_when_small(done, critics),
                above=NEAR,
            )
            for words, critics in (("cos k ∠", POWERS), *((name_of(c), [c]) for c in CRITICS[len(POWERS) :]))
        ),
        ours("with η β_θ = 16 it falls: share of steps that lower it", -rising(done, POWERS, (16.0,)) + 1, above=0.1),
        ours(
            "with η β_θ = 16 it falls more often than with η β_θ ≤ 1: difference of shares (added, when all had been "
            "looked at)",
            paired(fell(done, (16.0,)), fell(done, SMALL)),
        ),
        ours(
            "steps whose own η β is above 1 lower the bound more often than those of at most 1: difference of shares, "
            "cos k ∠ (added, when all had been looked at)",
            paired(fell_of_own(done, False), fell_of_own(done, True)),
        ),
        ours(
            "non-concave critics rise as often as the cosine at η β_θ ≤ 1: cos 2∠, difference of shares",
            as_often("cosine_2"),
            within=MARGIN,
        ),
        ours("the same, cos 3∠", as_often("cosine_3"), within=MARGIN),
        ours("the same, abs(cos ∠) (added, before its first run)", as_often("absolute_cosine"), within=MARGIN),
        ours("the same, a critic that learns (added, before its first run)", as_often("learned"), within=MARGIN),
        ours(
            "a critic that learns does not fall with η β_θ ≤ 1: share of steps (added, before its first run)",
            rising(done, ["learned"], SMALL),
            above=NEAR,
        ),
        ours(
            "the curvature goes as 1/τ²: slope of log β on log τ, plus 2",
            mean(done, "ascent cosine", slope) + 2,
            within=0.5,
        ),
        literature(
            "curvature grows on the way, so that β at the start is no guide: log of their ratio, cosine (added after "
            "the first look)",
            mean(done, "sharpen", lambda r: average(math.log(r[f"{t:g}"]) for t in TEMPERATURES if r[f"{t:g}"] > 0)),
            cited="2103.00065",
        ),
        ours(
            "what changes is where it goes: pairs with cosine above ½, cosine less cos 3∠",
            differ(at("aligned"), (1.0,), "cosine", "cosine_3"),
        ),
        ours(
            "the same, cosine less abs(cos ∠) (added, before its first run)",
            differ(at("aligned"), (1.0,), "cosine", "absolute_cosine"),
        ),
        ours(
            "a critic that learns gains more of its bound at η β_θ = 1 than the cosine of its own (nats; added, "
            "before its first run)",
            differ(at("gain"), (1.0,), "learned", "cosine"),
        ),
    ]


def report(done: Done, args: Namespace) -> Report:
    return Report(
        NAME,
        "Our derivation says that steps fail where η β > 2, β ∝ 1/τ² the curvature, whatever the critic; the paper's "
        "proposition asks for concavity, which none has here in what a step moves: the cosine is the mildest.",
        f"`sdmi` on {PAIRS} fixed pairs of a mixture, D = 8, {STEPS} alternations of plain gradient steps, β by power "
        "iteration; a step rises if L falls by less than 1e-6, so that one that stands still does. Rates η are set by "
        "β_θ, the curvature in θ at the "
        f"start; M-steps take the same rate. What was added measures β of what a step moves, every {WATCH} "
        "alternations. The critic that learns is a network of one hidden layer of 16, moved by each step; its β is "
        "that of encoder and critic together. Seeds 0 to 4, of cos k ∠ 0 to 9 (changed: five could not tell).",
        claims(done),
        ascents(done),
        lambda: draw(done),
    )


def ascents(done: Done) -> str:
    rows = {f"{critic}, τ = {t:g}": (critic, t) for critic, t in itertools.product(CRITICS, TEMPERATURES)}

    def of_cell(*keys: str | int) -> Cell:
        return lambda row: mean(done, f"ascent {rows[row][0]}", at(f"{rows[row][1]:g}/1", *keys))

    def rising_at(factor: float) -> Cell:
        return lambda row: rising(done, [rows[row][0]], (factor,), (rows[row][1],))

    columns = {"β_θ": of_cell("beta"), "β_ξ": of_cell("betas", "M", 0)} | {
        f"rising, η β_θ = {factor:g}": rising_at(factor) for factor in FACTORS
    }
    columns |= {"aligned at η β_θ = 1": of_cell("aligned"), "gain at η β_θ = 1": of_cell("gain")}
    columns |= {
        "gain at η β_θ = 16": lambda row: mean(done, f"ascent {rows[row][0]}", at(f"{rows[row][1]:g}/16", "gain"))
    }
    return (
        "## Step size, temperature, critic\n\nShare of gradient steps that do not lower the bound; pairs with cosine "
        f"above ½ at the end; nats that the bound on the batch has gained.\n\n"
        f"{arms_table('critic', list(rows), columns)}"
    )


def draw(done: Done):
    figure, axes = drawing.panels(1, len(TEMPERATURES), 4.0, 4.0, sharey="row")
    for axis, t in zip(axes[0], TEMPERATURES, strict=True):
        for i, critic in enumerate(CRITICS):
            places = [factor * 1.1 ** (i - 2) for factor in FACTORS]  # side by side
            drawing.bars(axis, places, [rising(done, [critic], (f,), (t,)) for f in FACTORS], i, critic)
        axis.axvline(2, color="grey", linewidth=1)
        axis.set(xscale="log", xticks=FACTORS, xticklabels=FACTORS, xlabel="η β_θ at the start (grey: 2)")
        axis.set_title(f"share of steps that do not\nlower the bound, τ = {t:g}")
    drawing.legend(figure, axes)
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
