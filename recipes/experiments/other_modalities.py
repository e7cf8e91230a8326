"""Do paradigms, ladder and collapse carry over from images to texts, sounds and pairs of modalities?

    python recipes/experiments/other_modalities.py

Token sequences, waveforms and two renderings of one latent, through one interface of two views whose MI is known; and
views of one text, of which words are deleted, and of one sound, which is cropped and masked.
"""

import itertools
import math
import sys
from argparse import Namespace
from collections.abc import Sequence

import drawing
from collapse import RANK, either, fewest
from harness import (
    BARE,
    TINY,
    Done,
    Job,
    Read,
    Replicates,
    at,
    gain,
    main,
    mean,
    over,
    over_arms,
    replicated,
    replicates,
    rises,
    share,
    train,
    twice,
)
from modality_arms import ARMS, AUGMENTED, MODALITIES, ranks_accuracy, table, trained_pair
from reporting import Claim, Interval, Report, extension, mean_interval, ours, paired
from tracking import NEAR, TOLERANCE

NAME = "other_modalities"
COMMON = {"steps": 150, "batch_size": 128, "evaluations": 5, "fine": 30, "pool": 6400}
DECIDING = ("jmi exact", "jmi none", "sdmi exact")  # the primary claims


def jobs(seeds: Sequence[int], tiny: bool) -> list[Job]:
    arms = {
        f"{modality}, {arm}": {"source": {"name": modality}, "method": arm.split()[0], "columns": BARE | columns}
        for modality, (arm, columns) in itertools.product(
            MODALITIES[:1] if tiny else (*MODALITIES, *AUGMENTED), ARMS.items()
        )
    }
    if not tiny:  # of two modalities both towers of the online branch have to learn, if a target is to follow them
        arms["renderings, sdmi predictor, EMA"]["columns"] |= {"symmetric": True}
    common = COMMON | (TINY | {"pool": 640} if tiny else {})
    deciding = {name: settings for name, settings in arms.items() if name.split(", ", 1)[1] in DECIDING}
    more = replicated(NAME, train, deciding, twice(seeds)[len(seeds) :], **common)
    return replicated(NAME, train, arms, seeds, **common) + more


def claims(done: Done) -> list[Claim]:
    def of(arm: str, read: Read) -> Replicates:
        return over_arms(done, everywhere(arm), read)

    def ranks(first: str, second: str) -> tuple[Replicates, Replicates]:
        return of(first, fewest), of(second, fewest)

    def everywhere(arm: str, modalities: Sequence[str] = MODALITIES) -> list[str]:
        return [f"{modality}, {arm}" for modality in modalities]

    def rising(arm: str, modalities: Sequence[str] = MODALITIES) -> Interval:
        return share(
            done, {one: rises(trained_pair(one), TOLERANCE, of="fine") for one in everywhere(arm, modalities)}
        )

    def gained(arm: str) -> Replicates:
        found = [replicates(done, one, gain(trained_pair(one), of="fine")) for one in everywhere(arm)]
        return over([one for one in found if one])

    def ratio_of_logs(first: Replicates, second: Replicates) -> Interval:
        return mean_interval({s: math.log(first[s]) / math.log(second[s]) for s in first if second.get(s, 0) > 1})

    return [
        extension(
            f"share of steps between evaluations in which cos-DV of `jmi` does not fall by more than {TOLERANCE} "
            "nats, of tokens, waveforms and renderings together",
            rising("jmi exact"),
            above=NEAR,
            primary=True,
        ),
        extension("the same share of those three for `sdmi`", rising("sdmi exact"), above=NEAR, primary=True),
        *(
            extension(
                f"that share of {modality} alone, `{method}` (added)",
                rising(f"{method} exact", [modality]),
                above=NEAR,
            )
            for method, modality in itertools.product(("jmi", "sdmi"), (*MODALITIES, *AUGMENTED))
        ),
        *(
            extension(
                f"cos-DV of `{method}` on {modality} at the end less at the start (nats; added)",
                mean(done, f"{modality}, {method} exact", gain(trained_pair(f"{method} exact"), of="fine")),
            )
            for method, modality in itertools.product(("jmi", "sdmi"), AUGMENTED)
        ),
        *(
            extension(
                f"cos-DV of `{method}` at the end less at the start, mean of those three (nats; changed: primary, "
                "because the share cannot tell growth from collapse)",
                mean_interval(gained(f"{method} exact")),
                primary=True,
            )
            for method in ("jmi", "sdmi")
        ),
        ours(
            "`jmi` without its marginal term, which collapses: that share of those three (added)",
            rising("jmi none"),
            NEAR,
        ),
        ours(
            "`jmi` without its marginal term does not gain: cos-DV at the start less at the end (nats; added)",
            -mean_interval(gained("jmi none")),
            -0.05,
        ),
        extension(
            "without its marginal term `jmi` keeps fewer dimensions than with it (effective rank)",
            paired(*ranks("jmi exact", "jmi none")),
            primary=True,
        ),
        *(
            extension(
                f"{words} does not collapse (more than {RANK} dimensions in either branch, no cone, no point): share "
                "of runs on tokens, waveforms and renderings (added, when all had been looked at)",
                share(done, {f"{modality}, {arm}": lambda result: [not either(result)] for modality in MODALITIES}),
                above=0.5,
            )
            for words, arm in (
                ("`sdmi` with its marginal term", "sdmi exact"),
                ("`sdmi` with a predictor in its place and an EMA target", "sdmi predictor, EMA"),
            )
        ),
        ours(
            "order 2 ends as the exact term does: effective rank, ratio of logs less 1 (changed: of one τ, 0.5)",
            ratio_of_logs(*ranks("jmi order 2", "jmi exact, τ of order 2")) + -1,
            within=0.25,
        ),
        ours(
            "predictor without marginal term: EMA target keeps more dimensions than a gradient M-step (changed: of "
            "renderings both towers learn)",
            paired(*ranks("sdmi predictor, EMA", "sdmi predictor, gradient")),
        ),
        extension(
            "content can be read off h after `jmi`, less after `jmi` without its marginal term (linear accuracy)",
            paired(*(of(arm, at("end", "linear_h")) for arm in ("jmi exact", "jmi none"))),
        ),
        extension(
            "cos-DV ranks the seven arms by linear accuracy of h: Spearman's correlation, mean of those three (added)",
            mean_interval(ranks_accuracy(done), -1, 1),
            above=0.5,
        ),
    ]


def report(done: Done, args: Namespace) -> Report:
    return Report(
        NAME,
        "The paper leaves open whether its account holds beyond images.",
        "pairs of texts, of sounds and of renderings of one Gaussian latent, and (added) pairs of views of one text "
        f"and of one sound, seven arms, heads without batch norm, {COMMON['steps']} steps of {COMMON['batch_size']} "
        f"of {COMMON['pool']:,} pairs, Adam at 3e-3, seeds 0 to 4, of `jmi` exact and none and `sdmi` exact 0 to 9 "
        f"(changed: five could not tell). {COMMON['fine'] + 1} evaluations of cos-DV (changed: there were 6). Sizes "
        "of sources and encoders were set on seed 99 until `jmi` learned at all: that favours `jmi`. What was added "
        "later has claims of its own, not in those of the three.",
        claims(done),
        table(done),
        lambda: draw(done),
    )


def draw(done: Done):
    figure, axes = drawing.panels(2, 3, 4.0, 3.2)
    axes[1, 2].set_axis_off()
    for axis, modality in zip(axes.flat, (*MODALITIES, *AUGMENTED)):
        for i, arm in sorted(enumerate(ARMS), key=lambda one: one[1] == "jmi none"):  # drawn last, or it is not seen
            of = f"{modality}, {arm}"
            drawing.runs(axis, done, of, at(trained_pair(of)), i, arm, of="fine")
        axis.set(title=f"{modality}: cos-DV (nats)", xlabel="step")
    drawing.legend(figure, axes)
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
