"""What experiments that follow MI along a run share: the order of its steps, what is claimed, the table, a panel."""

import itertools
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import drawing
from harness import (
    BARE,
    Cell,
    Done,
    Read,
    Replicates,
    at,
    gain,
    last,
    means,
    over_arms,
    replicates,
    rises,
    share,
)
from reporting import Claim, Interval, extension, mean_interval, ours, paired, paper

TOLERANCE = 0.02  # nats: a fall of no more is noise of the steps; about 1 % of what can be reached
NEAR = 0.9  # the share of steps from which growth is called near-monotone
MARGIN = 0.05  # nats within which two schedules are the same
FAR = 0.1  # nats that are a fall worth the name
SPACING = (
    "A share depends on how often one looks, the largest fall below the best so far does less; how often the paper "
    "looked is not known. In blocks the online branch rests in M-steps, and cannot fall."
)
SHORT, EPOCH = 10, 60  # steps of a block: a few, and, on images, an epoch; runs are of whole E- and M-blocks
BOTH = {"sdmi": "sdmi_turns", "jmi": "jmi"}
CONTROL = "jmi_without"  # collapses: a share of steps that do not fall cannot tell that from growth
SCHEDULES = {
    "sdmi_together": "both gradients at once, no turns",
    "sdmi_blocks": f"blocks of {SHORT} steps",
    "sdmi_epochs": f"blocks of {EPOCH} steps",
}
LABELS = {
    "sdmi_turns": "sdmi, in turns",
    "jmi": "jmi",
    **{arm: f"sdmi, {words.removesuffix(', no turns')}" for arm, words in SCHEDULES.items()},
    CONTROL: "jmi without marginal term",
}
ESTIMATES = {"cos-DV": "cos_dv", "calibrated cos-DV": "cos_dv_calibrated", "InfoNCE": "info_nce", "JSD": "jsd"}
OF_ARM = "{place}-{arm}"


def arms(steps: int) -> dict[str, dict]:
    """The arguments of each arm; with blocks, twice the steps make as many updates of either branch."""
    return {
        "sdmi_turns": {"method": "sdmi", "steps": steps},
        "jmi": {"method": "jmi", "steps": steps},
        CONTROL: {"method": "jmi", "steps": steps, "columns": BARE | {"marginal": {}}},
        "sdmi_together": {"method": "sdmi", "steps": steps, "schedule": "together"},
        "sdmi_blocks": {"method": "sdmi", "steps": 2 * steps, "schedule": "blocks", "block": SHORT},
        "sdmi_epochs": {"method": "sdmi", "steps": 2 * steps, "schedule": "blocks", "block": EPOCH},
    }


class Places:
    """The runs of every arm at some sources, as one: shares over all their steps, means over sources, seed by seed."""

    def __init__(self, done: Done, places: Sequence[str], where: str, note: str = ""):
        self.done, self.places, self.where, self.note = done, places, where, note

    def names(self, arm: str) -> list[str]:
        return [OF_ARM.format(place=place, arm=arm) for place in self.places]

    def read(self, arm: str, read: Read) -> Replicates:
        return over_arms(self.done, self.names(arm), read)

    def share(self, arm: str, key: str = "cos_dv", tolerance: float = TOLERANCE, of: str = "fine") -> Interval:
        """Of the steps between evaluations, the share that falls by no more than the tolerance."""
        return share(self.done, dict.fromkeys(self.names(arm), rises(key, tolerance, of=of)))

    def bounds(self, claim: Any) -> list[Claim]:
        """The share of other bounds, and of cos-DV where the costly ones are measured, which is less often."""
        found = []
        often, seldom = (
            {"InfoNCE": "info_nce"},
            {name: f"mi/{ESTIMATES[name]}" for name in ESTIMATES if name != "InfoNCE"},
        )
        for of, keys in (("fine", often), ("curves", seldom)):
            for (name, key), (method, arm) in itertools.product(keys.items(), BOTH.items()):
                text = (
                    f"{self.where}, `{method}`: share of {self.steps(of)} steps in which {name} does not fall by more "
                )
                text += f"than {TOLERANCE} nats{self.note}"
                found.append(claim(text, self.share(arm, key, of=of), above=NEAR))
        return found

    def steps(self, of: str) -> int:
        """Between evaluations of a run."""
        return next((len(result[of]["step"]) - 1 for _, result in self.done.values() if of in result), 0)

    def growth(self, claim: Any = paper, primary: bool = False) -> list[Claim]:
        """That cos-DV grows, and nearly without falling: the share of steps, and the gain; and the control's."""
        found, near = [], {"above": NEAR}
        gained = {arm: self.read(arm, gain("cos_dv", of="fine")) for arm in (*BOTH.values(), CONTROL)}
        for method, arm in BOTH.items():
            text = (
                f"{self.where}, `{method}`: share of {self.steps('fine')} steps between evaluations in which cos-DV "
            )
            text += f"does not fall by more than {TOLERANCE} nats{self.note}"
            found.append(claim(text, self.share(arm), **near, primary=primary))
        for method, arm in BOTH.items():
            text = f"{self.where}, `{method}`: cos-DV at the end less at the start (nats){self.note}"
            found.append(claim(text, mean_interval(gained[arm]), primary=primary))
        online = f"{self.where}, `sdmi`: share of {self.steps('fine')} steps in which cos-DV of online and target, "
        online += f"the pair that it trains, does not fall by more than {TOLERANCE} nats{self.note}"
        found.append(claim(online, self.share("sdmi_turns", "cos_dv_target"), **near))
        text = f"{self.where}, the control, which collapses: its share of cos-DV, no sign of growth (added)"
        found.append(ours(text, self.share(CONTROL), **near))
        text = f"{self.where}, the control does not gain: cos-DV at the start less at the end (nats; added)"
        found.append(ours(text, -mean_interval(gained[CONTROL]), above=-MARGIN))
        turns, together = (self.shares(arm) for arm in ("sdmi_turns", "sdmi_together"))
        text = f"{self.where}, `sdmi`: the share of cos-DV in turns, less with both gradients at once (added)"
        return [*found, extension(text, paired(turns, together))]

    def shares(self, arm: str) -> Replicates:
        """`share`, seed by seed."""
        return self.read(arm, lambda result: mean(rises("cos_dv", TOLERANCE, of="fine")(result)))

    def separation(self, claim: Any = paper) -> list[Claim]:
        def silhouette(arm: str, place: str) -> Replicates:
            return self.read(arm, at("separation", place, "silhouette"))

        mine = silhouette("sdmi_turns", "z")
        others = {
            "that of z at the start": silhouette("sdmi_turns", "start"),
            "that of the input x": silhouette("sdmi_turns", "x"),
            "that of `jmi`": silhouette("jmi", "z"),
        }
        return [
            claim(
                f"{self.where}, `sdmi`: classes overlap less in z: silhouette, less {words}{self.note}",
                paired(mine, other),
            )
            for words, other in others.items()
        ]

    def most(self, claim: Any = paper) -> Claim:
        ends = (self.read(arm, last("mi/cos_dv")) for arm in BOTH.values())
        return claim(f"{self.where}, `sdmi` ends with more cos-DV than `jmi` (nats){self.note}", paired(*ends))

    def most_trained(self) -> Claim:
        ends = self.read("sdmi_turns", at("fine", "cos_dv_target", -1)), self.read("jmi", at("fine", "cos_dv", -1))
        text = f"{self.where}, `sdmi` ends with more cos-DV of online and target, the pair that it trains, than `jmi` "
        text += "of its views (nats; added)"
        return extension(text, paired(*ends))

    def falls(self) -> Claim:
        """The largest fall below the best so far depends less on how often one looks than a share does."""
        found = self.read("sdmi_turns", lambda result: largest_fall(result["fine"]["cos_dv"]))
        text = f"{self.where}, `sdmi`: the largest fall of cos-DV below its best so far is small (nats; added)"
        return extension(text, mean_interval(found, 0), within=FAR)

    def schedules(self) -> list[Claim]:
        """Our derivation (theory of block-coordinate ascent): the order of the steps changes little."""
        turns = self.read("sdmi_turns", last("mi/cos_dv"))
        return [
            ours(
                f"{self.where}, `sdmi`, {words}: cos-DV less that in turns (nats){self.note}",
                paired(self.read(arm, last("mi/cos_dv")), turns),
                within=MARGIN,
            )
            for arm, words in SCHEDULES.items()
        ]


def largest_fall(values: Sequence[float]) -> float:
    """Below the best so far."""
    return max(best - value for best, value in zip(itertools.accumulate(values, max), values))


def columns_of(done: Done) -> Mapping[str, Cell]:
    """Where runs end, and how they got there."""
    reads = {name: last(f"mi/{key}") for name, key in ESTIMATES.items()}
    reads |= {
        f"{words} of z": at("separation", "z", words.split()[0].lower()) for words in ("silhouette", "Fisher ratio")
    }
    reads |= {"effective rank of z": last("rank/effective_rank")}

    def fine(tolerance: float) -> Cell:
        return lambda arm: share(done, {arm: rises("cos_dv", tolerance, of="fine")})

    def fall(arm: str) -> Interval:
        return mean_interval(replicates(done, arm, lambda result: largest_fall(result["fine"]["cos_dv"])), 0)

    return (
        means(done, reads)
        | {"largest fall below the best": fall}
        | {f"share, no fall > {TOLERANCE}": fine(TOLERANCE), "share, no fall": fine(0)}
    )


def panel(axis: Any, done: Done, place: str) -> None:
    """cos-DV of every arm at a source, along the share of its run."""
    for i, (arm, label) in enumerate(LABELS.items()):
        name = OF_ARM.format(place=place, arm=arm)
        drawing.runs(axis, done, name, at("cos_dv"), i, label, of="fine", share=True)
    axis.set(
        title={"shapes": "images (shapes)"}.get(place, place),
        xlabel="share of the run",
        ylabel="held-out cos-DV (nats)",
    )
