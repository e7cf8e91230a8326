"""What choosing by a measure is worth: its rank correlation with accuracy, and the accuracy that the choice loses."""

from collections.abc import Hashable

import numpy as np
from canonical_vs_established import MEASURES
from harness import spearman
from reporting import Interval, mean_interval

BOTH = "MI and spectrum"
STEP = "step (the last checkpoint)"  # added: what whoever measures nothing takes
Points = dict[Hashable, list[tuple[dict, int, float]]]  # by seed or row: curves, the evaluation, accuracy
Values = dict[Hashable, float | None]


def scores(some: list[tuple[dict, int, float]], measure: str) -> list[float]:
    """The measure of each point; of `BOTH` the mean of the ranks by calibrated cos-DV and by effective rank."""
    from scipy.stats import rankdata

    if measure == STEP:
        return [curves["step"][i] for curves, i, _ in some]
    if measure != BOTH:
        return [MEASURES[measure](curves, i) for curves, i, _ in some]
    parts = [rankdata(scores(some, name)) for name in ("calibrated cos-DV", "effective rank")]
    return list(np.mean(parts, 0))


def ranked(points: Points, measure: str) -> Values:
    """Spearman's correlation of a measure and accuracy."""
    return {key: spearman(scores(some, measure), [value for *_, value in some]) for key, some in points.items()}


def regret(points: Points, measure: str) -> Values:
    """The best accuracy less that of what the measure chooses."""
    found = {}
    for seed, some in points.items():
        accuracies = [accuracy for _, _, accuracy in some]
        found[seed] = max(accuracies) - accuracies[int(np.argmax(scores(some, measure)))]
    return found


def blind(points: Points) -> Values:
    """The same of a choice by chance: the best less the mean."""
    return {seed: max(a for *_, a in some) - float(np.mean([a for *_, a in some])) for seed, some in points.items()}


def correlation(values: Values) -> Interval:
    return mean_interval(values, -1, 1)
