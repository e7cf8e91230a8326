"""Does held-out MI grow without falling, in both paradigms, whatever the order of the steps?

    python recipes/experiments/mi_tracking.py

Gaussian mixtures of 2 to 64 dimensions and pairs of renderings of the embedded corpus, whose MI is known: `sdmi` in
turns (an E-step, an M-step), in blocks of 8 steps, in blocks of an epoch, with both gradients at once and no turns,
and `jmi`. Panels of CIFAR-10 are of the evidence of recipes/reproduce.py, of its matrix cifar10_tracking_cpu.
"""

import itertools
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import drawing
from harness import STEPS, Done, Job, Replicates, last, main, over, replicates, train, truth_of
from reporting import Claim, Interval, Report, mean_interval, paired, share_interval, table
from reproducing.evidence import read_all

NAME, MATRIX = "mi_tracking", "cifar10_tracking_cpu"
EPOCH = 60  # steps of a block that stands for an epoch
TOLERANCE = 0.02  # nats: a fall of no more is noise of the steps; about 1 % of what can be reached
NEAR = 0.9  # the share of steps from which growth is called near-monotone
MARGIN = 0.05  # nats within which two schedules are the same
ARMS = {
    "sdmi_turns": {"method": "sdmi"},
    "jmi": {"method": "jmi"},
    "sdmi_blocks": {"method": "sdmi", "schedule": "blocks", "block": 8, "steps": 2 * STEPS},
    "sdmi_epochs": {"method": "sdmi", "schedule": "blocks", "block": EPOCH, "steps": 2 * STEPS},
    "sdmi_together": {"method": "sdmi", "schedule": "together"},
}
DIMENSIONS = (2, 8, 32, 64)
SCHEDULED = (8, 64)  # where the schedules other than turns are run
IMAGES = {"source": {"name": "shapes"}, "steps": 100, "batch_size": 128, "pool": 4096}
ESTIMATES = ("cos_dv", "cos_dv_calibrated", "info_nce", "jsd")


def jobs(seeds: Sequence[int], tiny: bool) -> list[Job]:
    less = {"steps": 12, "evaluations": 2, "fine": 4, "batch_size": 32, "held": 64} if tiny else {"fine": 30}
    if tiny:
        less |= {"pool": 64}
    found = []
    for dimension, (arm, settings), seed in itertools.product(
        SCHEDULED[:1] if tiny else DIMENSIONS, ARMS.items(), seeds
    ):
        if arm not in ("sdmi_turns", "jmi") and dimension not in SCHEDULED:
            continue
        source = {"name": "mixture", "dimension": dimension}
        arguments = settings | {"source": source, "seed": seed, "measure": ["estimators", "separation"]} | less
        found.append(Job(NAME, f"mixture{dimension}-{arm}-seed{seed}", train, arguments))
    for arm, seed in itertools.product(("sdmi_turns", "jmi"), seeds):
        arguments = ARMS[arm] | IMAGES | {"seed": seed, "measure": ["separation"]} | less
        found.append(Job(NAME, f"shapes-{arm}-seed{seed}", train, arguments))
    return found


def steps_of(result: dict, key: str, fine: bool = False) -> list[float]:
    """The changes of a curve between evaluations."""
    values = result["fine" if fine else "curves"][key]
    return [new - old for old, new in itertools.pairwise(values) if None not in (old, new)]


def share(done: Done, arms: list[str], key: str, tolerance: float, fine: bool = False) -> Interval:
    """Of all steps between evaluations the share that falls by no more than the tolerance; replicates are seeds."""
    hits: dict[int, int] = {}
    totals: dict[int, int] = {}
    for arm in arms:
        for seed, found in replicates(done, arm, lambda result: steps_of(result, key, fine)).items():
            hits[seed] = hits.get(seed, 0) + sum(step >= -tolerance for step in found or ())
            totals[seed] = totals.get(seed, 0) + len(found or ())
    return share_interval(list(hits.values()), list(totals.values()))


def ends(done: Done, arm: str, key: str, places: list[str]) -> Replicates:
    return over([replicates(done, f"{place}-{arm}", last(key)) for place in places])


def report(done: Done, args: Namespace) -> Report:
    places = [f"mixture{d}" for d in DIMENSIONS if f"mixture{d}-jmi-seed0" in done]
    scheduled = [place for place in places if int(place.removeprefix("mixture")) in SCHEDULED]
    turns, jmi = ([f"{place}-{arm}" for place in places] for arm in ("sdmi_turns", "jmi"))

    def silhouette(arm: str, where: str) -> Replicates:
        read = [replicates(done, f"{p}-{arm}", lambda r: r["separation"][where]["silhouette"]) for p in places]
        return over(read)

    claims = [
        Claim(
            f"`sdmi` in turns: share of steps in which cos-DV falls by at most {TOLERANCE} nats",
            "paper",
            share(done, turns, "cos_dv", TOLERANCE, fine=True),
            NEAR,
            primary=True,
        ),
        Claim("`jmi`: the same share", "paper", share(done, jmi, "cos_dv", TOLERANCE, fine=True), NEAR, primary=True),
        Claim(
            "`sdmi`: the share that does not fall at all", "paper", share(done, turns, "cos_dv", 0, fine=True), NEAR
        ),
        Claim("`jmi`: the share that does not fall at all", "paper", share(done, jmi, "cos_dv", 0, fine=True), NEAR),
        Claim(
            "`sdmi`: cos-DV of online and target, share within the tolerance",
            "paper",
            share(done, turns, "cos_dv_target", TOLERANCE, fine=True),
            NEAR,
        ),
        Claim(
            "images, `sdmi`: cos-DV within the tolerance (added)",
            "paper",
            share(done, ["shapes-sdmi_turns"], "cos_dv", TOLERANCE, fine=True),
            NEAR,
        ),
        Claim(
            "images, `sdmi`: cos-DV of online and target (added)",
            "paper",
            share(done, ["shapes-sdmi_turns"], "cos_dv_target", TOLERANCE, fine=True),
            NEAR,
        ),
        Claim(
            "images, `jmi`: cos-DV within the tolerance (added)",
            "paper",
            share(done, ["shapes-jmi"], "cos_dv", TOLERANCE, fine=True),
            NEAR,
        ),
    ]
    claims += [
        Claim(f"`{arm}`: {name} within the tolerance", "paper", share(done, of, f"mi/{name}", TOLERANCE), NEAR)
        for name in ESTIMATES[1:]
        for arm, of in (("sdmi", turns), ("jmi", jmi))
    ]
    claims += [
        Claim(
            "`sdmi` ends with more cos-DV than `jmi` (nats)",
            "paper",
            paired(ends(done, "sdmi_turns", "mi/cos_dv", places), ends(done, "jmi", "mi/cos_dv", places)),
            0,
        ),
        Claim(
            "`sdmi` separates the clusters in z: silhouette, less that of z at the start",
            "paper",
            paired(silhouette("sdmi_turns", "z"), silhouette("sdmi_turns", "start")),
            0,
        ),
        Claim(
            "… less that of the input x",
            "paper",
            paired(silhouette("sdmi_turns", "z"), silhouette("sdmi_turns", "x")),
            0,
        ),
        Claim("… less that of `jmi`", "paper", paired(silhouette("sdmi_turns", "z"), silhouette("jmi", "z")), 0),
    ]
    claims += [
        Claim(
            f"`sdmi`, {words}: cos-DV less that in turns (nats)",
            "ours",
            paired(ends(done, arm, "mi/cos_dv", scheduled), ends(done, "sdmi_turns", "mi/cos_dv", scheduled)),
            MARGIN,
            equivalence=True,
        )
        for arm, words in (
            ("sdmi_together", "both gradients at once, no turns"),
            ("sdmi_blocks", "blocks of 8 steps"),
            ("sdmi_epochs", f"blocks of {EPOCH} steps"),
        )
    ]
    claims.append(
        Claim(
            "the bounds of `sdmi` and `jmi` stay below the known MI: MI less the largest bound (nats)",
            "literature",
            mean_interval(list(over([slack(done, arm) for arm in [*turns, *jmi]]).values())),
            0,
        )
    )
    return Report(
        NAME,
        "The paper reports that both prototypes raise the mutual information of the two views nearly monotonically, "
        "that `sdmi` reaches the most of it, and that its clusters separate. Here the views are Gaussian mixtures "
        "whose MI is known, and the held-out pairs stay the same.",
        f"rows as they are but for the sizes of their heads, {STEPS} steps of 256 fresh pairs (blocks: {2 * STEPS}, "
        "as many updates of either branch), Adam at 3e-3, 31 evaluations of cos-DV on 512 pairs, seeds 0 to 4; "
        f"near-monotone is a share above {NEAR} of the steps between evaluations that fall by at most {TOLERANCE} "
        "nats.",
        claims,
        "\n\n".join([tables(done, places), images(done), cifar(args.reproduced)]),
        lambda: draw(done, places, args.reproduced),
    )


def slack(done: Done, arm: str) -> Replicates:
    """The known MI less the largest of the lower bounds at the end."""
    truths = {
        name: truth_of(arguments["source"])
        for name, (arguments, _) in done.items()
        if name == f"{arm}-seed{arguments['seed']}" and arguments["seed"] == 0
    }
    truth = next(iter(truths.values()), None)
    if truth is None:
        return {}
    kinds = ("cos_dv", "cos_dv_calibrated", "row_wise_dv", "info_nce", "nwj", "jsd")
    return replicates(done, arm, lambda result: truth - max(result["estimators"][kind][0] for kind in kinds))


def tables(done: Done, places: list[str]) -> str:
    rows = []
    for place in places:
        for arm in ARMS:
            of = f"{place}-{arm}"
            if f"{of}-seed0" not in done:
                continue
            cells = [mean_interval(list(replicates(done, of, last(f"mi/{name}")).values())) for name in ESTIMATES]
            cells += [
                mean_interval(list(replicates(done, of, lambda r, k=k: r["separation"]["z"][k]).values()))
                for k in ("silhouette", "fisher")
            ]
            cells += [share(done, [of], "cos_dv", TOLERANCE, fine=True), share(done, [of], "cos_dv", 0, fine=True)]
            rows.append([place, f"`{arm}`", *cells])
    header = [
        "source",
        "arm",
        "cos-DV",
        "calibrated",
        "InfoNCE",
        "JSD",
        "silhouette of z",
        "Fisher ratio of z",
        f"share, fall ≤ {TOLERANCE}",
        "share, no fall",
    ]
    kinds = [
        "cos_dv",
        "cos_dv_calibrated",
        "row_wise_dv",
        "info_nce",
        "nwj",
        "jsd",
        "smile",
        "density_ratio",
        "gaussian",
        "gaussian_copula",
    ]
    every = []
    for place in places:
        for arm in ("sdmi_turns", "jmi"):
            found = [
                mean_interval(list(replicates(done, f"{place}-{arm}", lambda r, k=k: r["estimators"][k][0]).values()))
                for k in kinds
            ]
            truth = truth_of({"name": "mixture", "dimension": int(place.removeprefix("mixture"))})
            every.append([f"{place}, `{arm}`", f"{truth:.2f}", *(f"{one.value:.2f}" for one in found)])
    return (
        "## Where the runs end\n\n"
        + table(header, rows)
        + "\n\nEvery estimate of the two views' z at the end, on 1,024 "
        "pairs, beside the MI of the views themselves (of which z can hold at most as much; the last four are no "
        "bounds; "
        "no estimate of n pairs goes beyond log n):\n\n" + table(["run", "MI of the views", *kinds], every)
    )


def images(done: Done) -> str:
    rows = []
    for arm in ("sdmi_turns", "jmi"):
        of = f"shapes-{arm}"
        cells = [
            mean_interval(list(replicates(done, of, last(key)).values()))
            for key in ("mi/cos_dv", "rank/effective_rank")
        ]
        cells.append(mean_interval(list(replicates(done, of, lambda r: r["end"]["linear_h"]).values())))
        rows.append([f"`{arm}`", *cells, share(done, [of], "cos_dv", TOLERANCE, fine=True)])
    return (
        "## Images: pairs of renderings of the embedded corpus\n\nThey share content and style, log 64 = 4.16 nats, "
        "at 32 pixels; a small ResNet, 100 steps of 128 of 4,096 pairs.\n\n"
        + table(["arm", "cos-DV", "effective rank of z", "linear accuracy of h", f"share, fall ≤ {TOLERANCE}"], rows)
    )


def cifar_runs(directory: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and cos-DV of each run of the matrix that recipes/reproduce.py has left evidence of."""
    found = {run.name.split("/")[-1]: run.curve("eval/mi/cos_dv") for run in read_all(directory / MATRIX)}
    return {name: curve for name, curve in found.items() if len(curve[0]) > 2}


def cifar(directory: Path) -> str:
    command = f"python recipes/reproduce.py --matrix recipes/reproduce/{MATRIX}.yaml"
    runs = cifar_runs(directory)
    if not runs:
        return (
            f"## CIFAR-10\n\nNot among these runs. `{command}` makes them (an hour on two cores; it resumes), and "
            "their evidence is taken up here."
        )
    rows = []
    for name, (_, values) in runs.items():
        changes = [new - old for old, new in itertools.pairwise(values)]
        found = share_interval([sum(change >= -TOLERANCE for change in changes)], [len(changes)])
        rows.append([f"`{name}`", f"{values[-1]:.3f}", f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"])
    text = table(["run", "cos-DV at the end", f"share, fall ≤ {TOLERANCE}"], rows)
    return f"## CIFAR-10\n\nOf the runs of `{command}`.\n\n{text}"


def draw(done: Done, places: list[str], reproduced):
    runs = cifar_runs(reproduced)
    sources = [*places, "shapes", *(["CIFAR-10"] if runs else [])]
    figure, axes = drawing.panels(2, -(-len(sources) // 2), 3.8, 3.0)
    for axis, place in zip(axes.flat, sources):
        if place == "CIFAR-10":
            for i, (name, (steps, values)) in enumerate(runs.items()):
                drawing.curve(axis, steps, [values], i, name)
            axis.set_title(place)
            continue
        for i, arm in enumerate(ARMS):
            found = [result for name, (_, result) in done.items() if name.rsplit("-seed", 1)[0] == f"{place}-{arm}"]
            curves = [result["fine"]["cos_dv"] for result in found if "fine" in result]
            if curves:
                updates = [step / found[0]["fine"]["step"][-1] for step in found[0]["fine"]["step"]]
                drawing.curve(axis, updates, curves, i, arm)
        axis.set_title(place)
    for axis in axes.flat[len(sources) :]:
        axis.set_axis_off()
    for row in axes:
        row[0].set_ylabel("held-out cos-DV (nats)")
    for axis in axes[-1]:
        axis.set_xlabel("share of the run")
    drawing.legend(figure, axes)
    figure.suptitle("held-out MI of the online branch, mean of seeds and 95 % band")
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
