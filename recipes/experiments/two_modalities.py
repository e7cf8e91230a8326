"""Does SDMI hold for two modalities, whose encoders cannot follow one another? And if a side is missing?

    python recipes/experiments/two_modalities.py

Images and texts through two encoders of unequal width and input, or through two towers of one; and pairs whose text is
missing, which are dropped, or are given an empty or a wrong one.
"""

import itertools
import sys
from argparse import Namespace
from collections.abc import Sequence

import drawing
import torch
import torch.nn.functional as F
from collapse import DEFINITION, collapsed, rank_and_kinds, spared
from harness import (
    BARE,
    MEASURES,
    SLOW,
    TINY,
    Done,
    Job,
    arms_table,
    at,
    build,
    cos_bounds,
    embed,
    last,
    main,
    make_source,
    mean,
    means,
    replicated,
    replicates,
    share,
    shares,
    train,
    truth_of,
    twice,
)
from reporting import Claim, Interval, Report, extension, ours, paired
from toy_runs import MISSING_ARE

NAME = "two_modalities"
SOURCE = {"name": "captions"}
SHORT = {"steps": 200, "batch_size": 128, "evaluations": 5}
PREDICTOR = {"predictor_hidden_size": 64, "marginal": {}}
SDMI, JMI = "sdmi f ≠ g, exact", "jmi, two towers"
APART = {  # two encoders
    SDMI: {},
    "sdmi f ≠ g, order 2": {"marginal": {"second_order": 1.0}},
    "sdmi f ≠ g, predictor, no marginal": PREDICTOR,
}
TOGETHER = {  # two towers of one encoder
    JMI: {},
    "sdmi two towers, reset, exact": {"target": "reset", "symmetric": True},
    "sdmi two towers, reset, predictor": PREDICTOR | {"target": "reset", "symmetric": True},
    "sdmi two towers, ema, predictor": PREDICTOR | SLOW | {"target": "ema", "symmetric": True},
}
HALF, MOST = 0.5, 0.9
MISSING = [*((HALF, how) for how in MISSING_ARE), (MOST, "dropped")]
DV, RECALL = at("crossmodal", "cos_dv"), at("crossmodal", "recall")
MARGIN = 0.1


def trained_pair(found: dict[str, torch.Tensor]) -> tuple[str, str]:
    """Of images z or, where there is a predictor, p; of texts the target's own t, where it has a branch, or z."""
    return "p_a" if "p_a" in found else "z_a", "t_b" if "t_b" in found else "z_b"


def crossmodal(model, law, held, initial, seed) -> dict:
    """The share of images whose nearest text has the same content and style, and the gap between the means."""
    found = embed(model, held)
    a, b = (F.normalize(found[one], dim=1) for one in trained_pair(found))
    key = 4 * held.factors["content"] + held.factors["style"]
    recall = (key[(a @ b.T).argmax(1)] == key).double().mean().item()
    return {"recall": recall, "gap": (a.mean(0) - b.mean(0)).norm().item(), **cos_bounds(a, b)}


MEASURES |= {"crossmodal": crossmodal}


def follow_across(seed: int) -> dict:
    """Whether a target of another modality can follow the online branch."""
    law = make_source(SOURCE)
    model = build("sdmi", law.towers, seed, BARE | {"target": "ema"}, asymmetric=True)
    try:
        model.update_target(0.9)
    except (RuntimeError, ValueError) as error:
        return {"refused": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
    return {"refused": ""}


def reset(seed: int, trials: int = 400, size: int = 8) -> dict:
    """Power iteration, ξ → Kξ/|Kξ|, is the reset of a linear critic: in how many trials one of three lowers ξᵀKξ."""
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


def arms() -> dict[str, dict]:
    return {
        arm: {"method": arm.split()[0].strip(","), "asymmetric": arm in APART, "columns": BARE | columns}
        for arm, columns in (APART | TOGETHER).items()
    }


def lacking(arm: str, missing: float, how: str) -> str:
    return f"{arm}, {missing:.0%} of texts missing, {how}"


def jobs(seeds: Sequence[int], tiny: bool) -> list[Job]:
    found = arms()
    for arm, (missing, how) in itertools.product((SDMI, JMI), MISSING):
        found[lacking(arm, missing, how)] = found[arm] | {"missing": missing, "missing_are": how}
    common = {"source": SOURCE, "measure": ["crossmodal"]} | (TINY if tiny else SHORT)
    across = [Job(NAME, f"follow across-seed{seed}", follow_across, {"seed": seed}) for seed in seeds]
    resets = [Job(NAME, f"reset-seed{seed}", reset, {"seed": seed}) for seed in seeds]
    deciding = {arm: found[arm] for arm in (SDMI, JMI)}
    more = replicated(NAME, train, deciding, twice(seeds)[len(seeds) :], **common)
    return replicated(NAME, train, found, seeds, **common) + more + across + resets


def claims(done: Done) -> list[Claim]:
    def dv(first: str, second: str) -> Interval:
        return paired(replicates(done, first, DV), replicates(done, second, DV))

    def resets(kind: str, falls: bool) -> Interval:
        return share(done, {"reset": lambda r: [(trial < r[kind]) == falls for trial in range(r["trials"])]})

    found = [
        extension(
            "SDMI with encoders of two modalities: texts found by images, share right (chance 0.03)",
            mean(done, SDMI, RECALL, 0, 1),
            above=0.1,
            primary=True,
        ),
        extension(
            "… and it does not collapse: share of runs (changed: primary, since the first asks for little)",
            spared(done, SDMI),
            above=0.5,
            primary=True,
        ),
        ours("it ends as `jmi` with two towers does: cos-DV (nats)", dv(SDMI, JMI), within=MARGIN),
        ours("order 2 ends as the exact term does: cos-DV (nats)", dv("sdmi f ≠ g, order 2", SDMI), within=MARGIN),
        ours(
            "predictor and gradient M-step without marginal term lose what the exact term keeps: cos-DV, exact less "
            "it",
            dv(SDMI, "sdmi f ≠ g, predictor, no marginal"),
        ),
        ours(
            "three resets never lower ξᵀKξ for a positive semi-definite K, a theorem: share of trials in which they "
            "do not",
            resets("psd", falls=False),
            above=0.99,
        ),
        ours(
            "for an indefinite K, which f ≠ g allows, they do in most trials",
            resets("indefinite", falls=True),
            above=0.5,
        ),
    ]
    added = "(added, before its first run)"
    for arm, name in ((JMI, "`jmi`"), (SDMI, "`sdmi`")):
        dropped, empty, wrong = (lacking(arm, HALF, how) for how in MISSING_ARE)
        found += [
            ours(
                f"{name}, half of the texts missing, their images dropped: cos-DV less that of all pairs {added}",
                dv(dropped, arm),
                within=MARGIN,
            ),
            ours(f"{name}: to drop is better than an empty text: cos-DV, difference {added}", dv(dropped, empty)),
            ours(f"{name}: to drop is better than a wrong text: cos-DV, difference {added}", dv(dropped, wrong)),
            ours(
                f"{name}, nine of ten missing and dropped: texts found by images {added}",
                mean(done, lacking(arm, MOST, "dropped"), RECALL, 0, 1),
                above=0.1,
            ),
        ]
    return found


def report(done: Done, args: Namespace) -> Report:
    return Report(
        NAME,
        "Our derivation says that two modalities need a marginal term, since a target cannot follow an encoder of "
        "another shape and a reset may go downhill; and pairs without a second side say nothing about the joint law.",
        f"images of blobs and texts on 32 topics; {SHORT['steps']} steps of {SHORT['batch_size']} pairs, Adam at "
        "3e-3, heads without batch norm; of pairs that are dropped the others are seen more often, so that all take "
        "as many steps; what is measured are complete pairs, of prediction and target where there is a predictor "
        "(changed: z was read). Seeds 0 to 4, of `sdmi` f ≠ g exact and `jmi` 0 to 9 (changed: five could not tell). "
        f"{DEFINITION}",
        claims(done),
        tables(done),
        lambda: draw(done),
    )


def tables(done: Done) -> str:
    reads = {"cos-DV": DV, "InfoNCE": at("crossmodal", "info_nce"), "gap of the means": at("crossmodal", "gap")}
    columns = means(done, reads | {"rank of z": last("rank/effective_rank")}) | shares(done, {"texts found": RECALL})
    columns |= {"lesser branch, collapsed runs": lambda arm: rank_and_kinds(done, arm)}
    lack = [lacking(arm, *rest) for arm, rest in itertools.product((SDMI, JMI), MISSING)]
    said = next(iter(replicates(done, "follow across", at("refused")).values()), "")
    return (
        f"## Images and texts\n\nThe MI of image and text is {truth_of(SOURCE):.2f} nats.\n\n"
        f"{arms_table('arm', list(arms()), columns)}\n\nAn EMA target of the other modality: `{said}`. "
        "With two towers in one encoder each modality has an EMA of its own: it can be built; without a marginal term "
        f"this share of runs collapses: {collapsed(done, 'sdmi two towers, ema, predictor')}.\n\n"
        f"## A side is missing\n\n{arms_table('arm', lack, columns)}"
    )


def draw(done: Done):
    figure, axes = drawing.panels(1, 2, 4.8, 4.2)
    left, right = axes[0]
    drawing.points(left, {arm.replace(", ", ",\n", 1): mean(done, arm, DV) for arm in arms()})
    left.set(title="cos-DV of image and text", xlabel="nats")
    labels = ["all pairs", *(f"{missing:.0%} missing, {how}" for missing, how in MISSING)]
    for i, arm in enumerate((JMI, SDMI)):
        found = [mean(done, one, DV) for one in (arm, *(lacking(arm, *rest) for rest in MISSING))]
        drawing.points(right, dict(zip(labels, found, strict=True)), i, arm, 0.2 * i - 0.1)
    right.set(title="the same, where texts are missing", xlabel="nats")
    drawing.legend(figure, [right])
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
