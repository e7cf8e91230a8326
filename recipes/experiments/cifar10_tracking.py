"""Does held-out MI grow on photographs, whatever the order of the steps, and do the classes separate?

    python recipes/experiments/cifar10_tracking.py

The arms of mi_tracking.py on CIFAR-10, from the Hub or, with `--data_files train=train.parquet test=test.parquet`,
from files. Apart from all.py, which takes up its page: ten minutes on two cores; the same command goes on.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence

import drawing
from harness import Done, Job, arms_table, at, main, replicated, shares, train
from reporting import Claim, Report, extension
from tracking import EPOCH, LABELS, NEAR, OF_ARM, SCHEDULES, SPACING, TOLERANCE, Places, arms, columns_of, panel

NAME = "cifar10_tracking"
PLACE = "cifar10"
BATCH, EPOCHS = 128, 4
COMMON = {"source": {"name": PLACE, "images": EPOCH * BATCH}, "batch_size": BATCH, "evaluations": 8, "fine": 32,
          "measure": ["separation"], "probes": True}  # fmt: skip
SMALL = {"source": {"name": PLACE, "images": 32}, "batch_size": 16, "held": 32, "evaluations": 2, "fine": 2}


def jobs(seeds: Sequence[int], tiny: bool) -> list[Job]:
    found = {
        OF_ARM.format(place=PLACE, arm=arm): settings | COMMON | (SMALL if tiny else {})
        for arm, settings in arms(2 if tiny else EPOCHS * EPOCH).items()
    }
    return replicated(NAME, train, found, seeds)


def claims(done: Done) -> list[Claim]:
    photographs = Places(done, [PLACE], "CIFAR-10")
    found = photographs.growth(primary=True)
    found += [photographs.falls(), *photographs.bounds(extension), photographs.most(), photographs.most_trained()]
    return [*found, *photographs.separation(extension), *photographs.schedules()]


def report(done: Done, args: Namespace) -> Report:
    return Report(
        NAME,
        "The paper reports near-monotone growth of MI, the most of it for `sdmi`, on real images too. Here are the "
        "first epochs of CIFAR-10, followed closely, with every order of the steps.",
        f"two random views of {EPOCH * BATCH:,} images of train, `moco`'s recipe at 32 pixels, a small ResNet, "
        f"{EPOCHS} epochs of {EPOCH} steps of {BATCH} (in blocks twice as many, so that either branch takes as many), "
        "Adam at 3e-3, 33 evaluations of cos-DV on views of 512 images of test, rows as they are but for the sizes of "
        f"their heads, seeds 0 to 4; near-monotone is a share above {NEAR} of the steps between evaluations that do "
        f"not fall by more than {TOLERANCE} nats. {SPACING} The control is `jmi` without marginal term and batch norm "
        "in its heads. (Run once with batches of the same composition in every epoch; changed.)",
        claims(done),
        table(done),
        lambda: draw(done),
    )


def table(done: Done) -> str:
    rows = {label: OF_ARM.format(place=PLACE, arm=arm) for arm, label in LABELS.items()}
    more = {"linear accuracy of h": at("end", "linear_h"), "kNN of h": at("end", "knn_h")}
    found = arms_table("arm", rows, {**columns_of(done), **shares(done, more)})
    return (
        f"## Where the runs end\n\n{found}\n\nThe same share of whole runs of ten epochs, looked at once an epoch, "
        "is in [mi tracking](mi_tracking.md)."
    )


def draw(done: Done):
    figure, axes = drawing.panels(1, 2, 4.4, 3.8)
    left, right = axes[0]
    panel(left, done, PLACE)
    for i, (arm, label) in enumerate(LABELS.items()):
        if arm in SCHEDULES:
            continue
        drawing.runs(right, done, OF_ARM.format(place=PLACE, arm=arm), at("knn_h"), i, label, share=True)
    left.set(title="held-out cos-DV (nats)", ylabel="")
    right.set(title="kNN accuracy of h, of views", xlabel="share of the run")
    drawing.legend(figure, axes)
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
