"""Does held-out MI grow without falling, in both paradigms, whatever the order of the steps?

    python recipes/experiments/mi_tracking.py

Gaussian mixtures of 2 to 64 dimensions and pairs of renderings of the embedded corpus, whose MI is known: `sdmi` in
turns (an E-step, an M-step), in blocks of 8 steps, in blocks of an epoch, with both gradients at once and no turns,
and `jmi`. Panels of CIFAR-10 are of the evidence of recipes/reproduce.py, of its matrix
cifar10_ten_epochs.
"""

import itertools
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import drawing
import regulariser_weights
from harness import (
    STEPS,
    Cell,
    Done,
    Job,
    Replicates,
    arms_table,
    at,
    gain,
    last,
    main,
    mean,
    means,
    over_arms,
    replicated,
    rises,
    share,
    train,
    truth_of,
)
from reporting import Claim, Interval, Report, literature, mean_interval, ours, paired, paper
from tracked_runs import cifar, cifar_runs

NAME = "mi_tracking"
EPOCH = 60  # steps of a block that stands for an epoch
TOLERANCE = 0.02  # nats: a fall of no more is noise of the steps; about 1 % of what can be reached
NEAR = 0.9  # the share of steps from which growth is called near-monotone
MARGIN = 0.05  # nats within which two schedules are the same
BOTH = {"sdmi": "sdmi_turns", "jmi": "jmi"}
SCHEDULES = {
    "sdmi_blocks": {"method": "sdmi", "schedule": "blocks", "block": 8, "steps": 2 * STEPS},
    "sdmi_epochs": {"method": "sdmi", "schedule": "blocks", "block": EPOCH, "steps": 2 * STEPS},
    "sdmi_together": {"method": "sdmi", "schedule": "together"},
}
ARMS = {arm: {"method": method} for method, arm in BOTH.items()} | SCHEDULES
DIMENSIONS, SCHEDULED = (2, 8, 32, 64), (8, 64)  # where the schedules other than turns are run
IMAGES = {"source": {"name": "shapes"}, "steps": 100, "batch_size": 128, "pool": 4096, "measure": ["separation"]}
ESTIMATES = {"cos-DV": "cos_dv", "calibrated": "cos_dv_calibrated", "InfoNCE": "info_nce", "JSD": "jsd"}
CONTROL = "jmi exact ×0"  # of regulariser_weights.py: without its marginal term `jmi` collapses
BOUNDS = ("cos_dv", "cos_dv_calibrated", "row_wise_dv", "info_nce", "nwj", "jsd")
NO_BOUNDS = ("smile", "density_ratio", "gaussian", "gaussian_copula")


def source_of(dimension: int) -> dict:
    return {"name": "mixture", "dimension": dimension}


def name_of(dimension: int, arm: str) -> str:
    return f"mixture{dimension}-{arm}"


def where(arm: str) -> tuple[int, ...]:
    return SCHEDULED if arm in SCHEDULES else DIMENSIONS


def jobs(seeds: Sequence[int], tiny: bool) -> list[Job]:
    less = (
        {"steps": 12, "evaluations": 2, "fine": 4, "batch_size": 32, "held": 64, "pool": 64} if tiny else {"fine": 30}
    )
    mixtures = {
        name_of(dimension, arm): settings
        | {"source": source_of(dimension), "measure": ["estimators", "separation"]}
        | less
        for arm, settings in ARMS.items()
        for dimension in (SCHEDULED[:1] if tiny else where(arm))
    }
    shapes = {f"shapes-{arm}": ARMS[arm] | IMAGES | less for arm in BOTH.values()}
    control = [job for job in regulariser_weights.jobs(seeds, tiny) if job.name.startswith(CONTROL)]
    return replicated(NAME, train, mixtures | shapes, seeds) + control


def fine_share(done: Done, arms: Sequence[str], key: str = "cos_dv", tolerance: float = TOLERANCE) -> Interval:
    """Of the steps between the frequent evaluations, the share that falls by no more than the tolerance."""
    return share(done, dict.fromkeys(arms, rises(key, tolerance, of="fine")))


def claims(done: Done) -> list[Claim]:
    everywhere = {method: [name_of(d, arm) for d in DIMENSIONS] for method, arm in BOTH.items()}
    sdmi, jmi = everywhere.values()
    pictures = ["shapes-sdmi_turns"]
    near = {"above": NEAR}

    def end(arm: str, dimensions: Sequence[int] = SCHEDULED) -> Replicates:
        return over_arms(done, [name_of(d, arm) for d in dimensions], last("mi/cos_dv"))

    def silhouette(arms: Sequence[str], place: str) -> Replicates:
        return over_arms(done, arms, at("separation", place, "silhouette"))

    separated = silhouette(sdmi, "z")
    found = [
        paper(
            f"`sdmi` in turns, on mixtures: share of steps in which cos-DV falls by at most {TOLERANCE} nats",
            fine_share(done, sdmi),
            **near,
            primary=True,
        ),
        paper("`jmi`, on mixtures: the same share", fine_share(done, jmi), **near, primary=True),
        paper("`sdmi`: the share that does not fall at all", fine_share(done, sdmi, tolerance=0), **near),
        paper("`jmi`: the share that does not fall at all", fine_share(done, jmi, tolerance=0), **near),
        paper(
            "`sdmi`: cos-DV of online and target, share within the tolerance",
            fine_share(done, sdmi, "cos_dv_target"),
            **near,
        ),
        paper("images, `sdmi`: cos-DV within the tolerance (added)", fine_share(done, pictures), **near),
        paper("images, `sdmi`: online and target (added)", fine_share(done, pictures, "cos_dv_target"), **near),
        paper("images, `jmi`: cos-DV within the tolerance (added)", fine_share(done, ["shapes-jmi"]), **near),
    ]
    gains = {f"mixtures, `{method}`": arms for method, arms in everywhere.items()}
    gains |= {f"images, `{method}`": [f"shapes-{arm}"] for method, arm in BOTH.items()}
    for method, arms in gains.items():
        gained = mean_interval(over_arms(done, arms, gain("cos_dv", of="fine")))
        found.append(paper(f"{method}: cos-DV at the end less at the start (nats; added)", gained))
    for key, (method, arms) in itertools.product(list(ESTIMATES.values())[1:], everywhere.items()):
        within = share(done, dict.fromkeys(arms, rises(f"mi/{key}", TOLERANCE)))
        found.append(paper(f"`{method}`: {key} within the tolerance", within, **near))
    found += [
        paper(
            "`sdmi` ends with more cos-DV than `jmi` (nats)",
            paired(end("sdmi_turns", DIMENSIONS), end("jmi", DIMENSIONS)),
        ),
        paper(
            "`sdmi` separates the clusters in z: silhouette, less that of z at the start",
            paired(separated, silhouette(sdmi, "start")),
        ),
        paper("… less that of the input x", paired(separated, silhouette(sdmi, "x"))),
        paper("… less that of `jmi`", paired(separated, silhouette(jmi, "z"))),
    ]
    schedules = {
        "sdmi_together": "both gradients at once, no turns",
        "sdmi_blocks": "blocks of 8 steps",
        "sdmi_epochs": f"blocks of {EPOCH} steps",
    }
    for arm, words in schedules.items():
        text = f"`sdmi`, {words}: cos-DV less that in turns (nats)"
        found.append(ours(text, paired(end(arm), end("sdmi_turns")), within=MARGIN))
    text = "the bounds of `sdmi` and `jmi` stay below the known MI: MI less the largest bound (nats), of the mixture "
    text += "where that is least (changed: the mean over mixtures was read first)"
    return [*found, literature(text, slack(done))]


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
        "whose MI is known, and the held-out pairs stay the same.",
        f"rows as they are but for the sizes of their heads, {STEPS} steps of 256 fresh pairs (blocks: {2 * STEPS}, "
        "as many updates of either branch), Adam at 3e-3, 31 evaluations of cos-DV on 512 pairs, seeds 0 to 4; "
        f"near-monotone is a share above {NEAR} of the steps between evaluations that fall by at most {TOLERANCE} "
        "nats.",
        claims(done),
        "\n\n".join([tables(done), images(done), cifar(args.reproduced, ESTIMATES, TOLERANCE)]),
        lambda: draw(done, args.reproduced),
    )


def columns_of(done: Done) -> dict[str, Cell]:
    """Where runs end, and how they got there."""
    reads = {name: last(f"mi/{key}") for name, key in ESTIMATES.items()}
    reads |= {
        f"{words} of z": at("separation", "z", words.split()[0].lower()) for words in ("silhouette", "Fisher ratio")
    }
    return means(done, reads) | {
        f"share, fall ≤ {TOLERANCE}": lambda arm: fine_share(done, [arm]),
        "share, no fall": lambda arm: fine_share(done, [arm], tolerance=0),
    }


def tables(done: Done) -> str:
    rows = {f"mixture{d}, `{arm}`": name_of(d, arm) for d in DIMENSIONS for arm in ARMS if d in where(arm)}
    both = {
        f"mixture{d}, `{arm}` ({truth_of(source_of(d)):.2f} nats)": name_of(d, arm)
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
        "four are no bounds):\n\n"
        f"{arms_table('run (MI of the views)', both, every)}\n\nA share cannot tell growth from collapse, a gain can. "
        "The control is `jmi` without its marginal term, which collapses (the runs of [regulariser weights]"
        f"(regulariser_weights.md), {regulariser_weights.COMMON['evaluations']} evaluations): "
        f"{share(done, {CONTROL: rises('mi/cos_dv', TOLERANCE)})} of its steps fall by at most {TOLERANCE} nats, and "
        f"its cos-DV at the end less at the start is {mean(done, CONTROL, gain('mi/cos_dv'))} nats."
    )


def images(done: Done) -> str:
    rows = {f"`{arm}`": f"shapes-{arm}" for arm in BOTH.values()}
    columns = columns_of(done) | means(
        done, {"effective rank of z": last("rank/effective_rank"), "linear accuracy of h": at("end", "linear_h")}
    )
    return (
        "## Images: pairs of renderings of the embedded corpus\n\nThey share content and style, log 64 = 4.16 nats, "
        f"at 32 pixels; a small ResNet, 100 steps of 128 of 4,096 pairs.\n\n{arms_table('arm', rows, columns)}"
    )


def draw(done: Done, reproduced: Path):
    runs = cifar_runs(reproduced)
    places = [*(f"mixture{d}" for d in DIMENSIONS), "shapes"]
    figure, axes = drawing.panels(2, 3, 3.8, 3.0)
    for axis, place in zip(axes.flat, places):
        for i, arm in enumerate(ARMS):
            drawing.runs(axis, done, f"{place}-{arm}", at("cos_dv"), i, arm, of="fine", share=True)
        axis.set(title=place, xlabel="share of the run", ylabel="held-out cos-DV (nats)")
    rest = axes.flat[-1]
    for i, (name, curves) in enumerate(runs.items()):
        drawing.curve(rest, curves[0][0], [values for _, values in curves], i if i < 2 else i + 3, name)
    rest.set(title="CIFAR-10", xlabel="step") if runs else rest.set_axis_off()
    drawing.legend(figure, axes)
    figure.suptitle("held-out MI of the online branch, mean of seeds and 95 % band")
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
