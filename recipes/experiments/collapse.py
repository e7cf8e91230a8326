"""Collapse: what is called one, the share of runs that end in one, and which gauge sees it."""

from collections.abc import Callable
from functools import partial
from statistics import median

from harness import Done, mean, replicates, share
from reporting import Interval, table

# Below 2.5 dimensions, or in a cone or a point: the thresholds of the package's alarm
RANK, CONE, POINT = 2.5, 0.99, 0.1
ONLINE, TARGET = "rank/effective_rank", "rank/effective_rank_target"
DEFINITION = (
    f"A run has collapsed if either branch ends below {RANK} effective dimensions, or the online one in a cone (mean "
    f"cosine above {CONE}) or a point (std below {POINT}): the alarm's thresholds."
)
Judge = Callable[[dict], bool]

# A gauge says from the numbers of one evaluation, and from all before it, whether something is wrong; the first four
# define collapse.
GAUGES: dict[str, Callable[[dict, int], bool]] = {
    "std of z/‖z‖ < 0.1": lambda c, i: c["collapse/std"][i] < POINT,
    "mean cosine > 0.99": lambda c, i: c["collapse/mean_cosine"][i] > CONE,
    "effective rank of z < 2.5": lambda c, i: c[ONLINE][i] < RANK,
    "effective rank of t < 2.5": lambda c, i: c.get(TARGET, c[ONLINE])[i] < RANK,
    "RankMe of z < 2.5": lambda c, i: c["rank/rankme"][i] < RANK,
    "uniformity > −0.5": lambda c, i: c["collapse/uniformity"][i] > -0.5,
    "cos-DV < 60 % of its best": lambda c, i: _below_best(c["mi/cos_dv"][1 : i + 1]),
    "calibrated < 60 % of its best": lambda c, i: _below_best(c["mi/cos_dv_calibrated"][1 : i + 1]),
}
ALARM = "the package's alarm (three in a row, online branch)"


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
    return min(result["curves"][key][-1] for key in (ONLINE, TARGET) if key in result["curves"])


def either(result: dict) -> bool:
    return collapse_of(result) != "none"


def online(result: dict) -> bool:
    return result["curves"][ONLINE][-1] < RANK


def target(result: dict) -> bool:
    return result["curves"][TARGET][-1] < RANK


def collapsed(done: Done, arm: str, judge: Judge = either) -> Interval:
    """The share of runs that end collapsed."""
    return share(done, {arm: lambda result: [judge(result)]})


def spared(done: Done, arm: str, judge: Judge = either) -> Interval:
    return share(done, {arm: lambda result: [not judge(result)]})


def rank_and_kinds(done: Done, arm: str) -> str:
    """The effective rank of the lesser branch, and how many runs collapsed to what, first seen at which step."""
    kinds = list(replicates(done, arm, collapse_of).values())
    words = [f"{kinds.count(kind)} {kind}" for kind in ("point", "few dimensions", "diverged") if kind in kinds]
    if seen := first_steps(done, arm):
        words.append(f"from step {median(seen):g}")
    return "; ".join([str(mean(done, arm, fewest)), *[", ".join(words)] * bool(words)])


def first_steps(done: Done, arm: str) -> list[int]:
    """Of each run that ends collapsed the step of the first evaluation in which either branch has."""
    runs = [result for result in replicates(done, arm, dict).values() if either(result)]
    return _seen([_first(run, lambda c, i: any(GAUGES[name](c, i) for name in list(GAUGES)[:4])) for run in runs])


def first_step(done: Done, arm: str) -> str:
    """Their median, and of how many runs."""
    seen = first_steps(done, arm)
    return f"{median(seen):g} ({len(seen)} runs)" if seen else "never"


def _first(result: dict, gauge: Callable[[dict, int], bool]) -> int | None:
    curves = result["curves"]
    return next((step for i, step in enumerate(curves["step"]) if i and gauge(curves, i)), None)


def _seen(steps: list[int | None]) -> list[int]:
    return [step for step in steps if step is not None]


def gauges_table(done: Done) -> str:
    """Of all runs: which gauge sees how many of the collapsed ones, when, and how often it is wrong, at any step."""
    results = [result for _, result in done.values() if "diverged" not in result]
    bad, good = ([result for result in results if either(result) == kind] for kind in (True, False))
    rows = []
    for name, read in (*((name, partial(_first, gauge=gauge)) for name, gauge in GAUGES.items()), (ALARM, _raised)):
        hits, false = (_seen([read(run) for run in some]) for some in (bad, good))
        when = f"{median(hits):g}" if hits else "–"
        rows.append([name, f"{len(hits)} of {len(bad)}", when, f"{len(false)} of {len(good)}"])
    header = ["gauge", "sees of the runs that end collapsed", "median first step", "of the runs that do not"]
    return table(header, rows)


def _raised(result: dict) -> int | None:
    """When the package's alarm first spoke of collapse or of lost information."""
    steps = (step for kind, step in result["alarm"].items() if "collapse" in kind or kind == "information_loss")
    return min(steps, default=None)
