"""Does held-out MI grow without falling, in both paradigms, whatever the order of the steps?

    python recipes/experiments/mi_tracking.py

Gaussian mixtures of 2 to 64 dimensions and pairs of renderings of the embedded corpus, whose MI is known: `sdmi` in
turns (an E-step, an M-step), in blocks of some steps, in blocks of an epoch, with both gradients at once and no turns,
`jmi`, and `jmi` without its marginal term, the control. The same of photographs is cifar10_tracking.py; the panel of
whole runs of CIFAR-10 is of the evidence of recipes/reproduce.py, of its matrix cifar10_ten_epochs.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import drawing
from harness import STEPS, Done, Job, arms_table, at, main, mean, replicated, shares, train, truth_of
from reporting import Claim, Interval, Report, extension, literature, mean_interval
from tracked_runs import cifar, cifar_runs
from tracking import BOTH, EPOCH, ESTIMATES, LABELS, NEAR, OF_ARM, SPACING, TOLERANCE, Places, arms, columns_of, panel

NAME = "mi_tracking"
DIMENSIONS = (2, 8, 32, 64)
IMAGES = {"source": {"name": "shapes"}, "batch_size": 128, "pool": EPOCH * 128, "measure": ["separation"]}
IMAGE_STEPS = 2 * EPOCH
BOUNDS = ("cos_dv", "cos_dv_calibrated", "row_wise_dv", "info_nce", "nwj", "jsd")
NO_BOUNDS = ("smile", "density_ratio", "gaussian", "gaussian_copula")


def source_of(dimension: int) -> dict:
    return {"name": "mixture", "dimension": dimension}


def name_of(dimension: int, arm: str) -> str:
    return OF_ARM.format(place=f"mixture{dimension}", arm=arm)


def jobs(seeds: Sequence[int], tiny: bool) -> list[Job]:
    less = {"evaluations": 2, "fine": 4, "batch_size": 32, "held": 64, "pool": 64} if tiny else {"fine": 30}
    mixtures = {
        name_of(dimension, arm): settings | {"source": source_of(dimension), "measure": ["estimators", "separation"]}
        for arm, settings in arms(12 if tiny else STEPS).items()
        for dimension in (DIMENSIONS[1:2] if tiny else DIMENSIONS)
    }
    shapes = {f"shapes-{arm}": IMAGES | settings for arm, settings in arms(12 if tiny else IMAGE_STEPS).items()}
    runs = {arm: settings | less for arm, settings in (mixtures | shapes).items()}
    return replicated(NAME, train, runs, seeds)


def claims(done: Done) -> list[Claim]:
    mixtures = Places(done, [f"mixture{d}" for d in DIMENSIONS], "mixtures")
    images = Places(done, ["shapes"], "images", " (added)")
    found = mixtures.growth(primary=True)
    for method, arm in BOTH.items():
        text = f"mixtures, `{method}`: the share that does not fall at all"
        found.append(extension(text, mixtures.share(arm, tolerance=0), above=NEAR))
    found += [mixtures.falls(), *mixtures.bounds(extension), mixtures.most(), mixtures.most_trained()]
    found += [*mixtures.separation(), *mixtures.schedules()]
    text = "the bounds of `sdmi` and `jmi` stay below the known MI: MI less the largest bound "
    text += "(nats), of the mixture where that is least (changed: the mean over mixtures was read first)"
    found.append(literature(text, slack(done), cited="1905.06922"))
    found += [
        *images.growth(extension, primary=True),
        images.falls(),
        *images.bounds(extension),
        images.most(extension),
    ]
    return [*found, images.most_trained(), *images.separation(extension), *images.schedules()]


def slack(done: Done) -> Interval:
    """The known MI less the largest of the lower bounds at the end, of the mixture where that is least."""
    per_seed: dict[int, list[float]] = {}
    for name, (arguments, result) in done.items():
        if name.rsplit("-", 1)[0].endswith(tuple(f"-{arm}" for arm in BOTH.values())) and "estimators" in result:
            largest = max(result["estimators"][kind][0] for kind in BOUNDS)
            per_seed.setdefault(arguments["seed"], []).append(truth_of(arguments["source"]) - largest)
    return mean_interval({seed: min(found) for seed, found in per_seed.items()})


def report(done: Done, args: Namespace) -> Report:
    return Report(
        NAME,
        "The paper reports that both prototypes raise the mutual information of the two views nearly monotonically, "
        "that `sdmi` reaches the most of it, and that its clusters separate. Here the views are Gaussian mixtures "
        "and pairs of renderings of the embedded corpus, whose MI is known, and the held-out pairs stay the same.",
        f"rows as they are but for the sizes of their heads, {STEPS} steps of 256 fresh pairs (in blocks {2 * STEPS}, "
        "so that either branch takes as many), Adam at 3e-3, 31 evaluations of cos-DV on 512 pairs, seeds 0 to 4; "
        f"near-monotone is a share above {NEAR} of the steps between evaluations that do not fall by more than "
        f"{TOLERANCE} nats. {SPACING} The control is `jmi` without marginal term and without batch norm in its heads: "
        "a share cannot tell its collapse from growth, a gain can (changed: gains are primary, and what images show).",
        claims(done),
        "\n\n".join([tables(done), images(done), cifar(args.reproduced, ESTIMATES, TOLERANCE)]),
        lambda: draw(done, args.reproduced),
    )


def tables(done: Done) -> str:
    rows = {f"mixture{d}, {label}": name_of(d, arm) for d in DIMENSIONS for arm, label in LABELS.items()}
    both = {
        f"mixture{d}, {LABELS[arm]} ({truth_of(source_of(d)):.2f} nats)": name_of(d, arm)
        for d in DIMENSIONS
        for arm in BOTH.values()
    }
    every = {
        kind: lambda arm, kind=kind: f"{mean(done, arm, at('estimators', kind, 0)).value:.2f}"
        for kind in (*BOUNDS, *NO_BOUNDS)
    }
    return (
        f"## Where the runs end\n\n{arms_table('source, arm', rows, columns_of(done))}\n\nEvery estimate of the two "
        "views' z at the end, on 1,024 pairs, beside the MI of the views themselves (z can hold no more; the last "
        f"four are no bounds):\n\n{arms_table('run (MI of the views)', both, every)}"
    )


def images(done: Done) -> str:
    rows = {label: f"shapes-{arm}" for arm, label in LABELS.items()}
    columns = {**columns_of(done), **shares(done, {"linear accuracy of h": at("end", "linear_h")})}
    return (
        "## Images: pairs of renderings of the embedded corpus\n\nThey share content and style, log 64 = 4.16 nats, "
        f"at 32 pixels; a small ResNet, {IMAGE_STEPS} steps of 128 of {EPOCH * 128:,} pairs (in blocks "
        "twice as many)."
        f"\n\n{arms_table('arm', rows, columns)}"
    )


def draw(done: Done, reproduced: Path):
    runs = cifar_runs(reproduced)
    figure, axes = drawing.panels(2, 3, 3.8, 3.0)
    for axis, place in zip(axes.flat, [*(f"mixture{d}" for d in DIMENSIONS), "shapes"]):
        panel(axis, done, place)
    rest = axes.flat[-1]
    for row, arm in BOTH.items():
        if row in runs:
            values = [values for _, values in runs[row]]
            drawing.curve(rest, runs[row][0][0], values, [*LABELS].index(arm), LABELS[arm])
    rest.set(title="CIFAR-10, whole runs", xlabel="step") if runs else rest.set_axis_off()
    drawing.legend(figure, axes)
    figure.suptitle("cos-DV of held-out views, a lower bound: mean of seeds and 95 % band (three seeds: each)")
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
