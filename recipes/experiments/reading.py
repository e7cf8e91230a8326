"""What is read from the results of many runs: numbers by seed, their means with intervals, tables of arms."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from itertools import pairwise
from typing import Any

from reporting import Interval, mean_interval, share_interval, table

Done = dict[str, tuple[dict, dict]]
Replicates = dict[int, float | None]
Read = Callable[[dict], Any]
Cell = Callable[[str], Any]  # of an arm


def at(*keys: str | int) -> Read:
    """Reads what lies below these keys of a result."""
    return lambda result: reduce(lambda value, key: value[key], keys, result)


def last(key: str) -> Read:
    """Reads the end of a curve; a run that diverged has none."""
    return lambda result: _whole(result)["curves"][key][-1]


def _whole(result: dict) -> dict:
    if "diverged" in result:
        raise KeyError("what was measured last is not the end")
    return result


def replicates(done: Done, arm: str, read: Read) -> Replicates:
    """`read` of the result of each replicate of an arm, by seed; None where a run has no such number."""
    found = {}
    for name, (arguments, result) in done.items():
        if name.rsplit("-seed", 1)[0] == arm:
            try:
                found[arguments["seed"]] = read(result)
            except (KeyError, IndexError):
                found[arguments["seed"]] = None
    return found


def over(arms: Sequence[Replicates]) -> Replicates:
    """The mean over arms, seed by seed, of the seeds that all have."""
    seeds = set.intersection(*(set(arm) for arm in arms)) if arms else set()
    found = {seed: [arm[seed] for arm in arms] for seed in sorted(seeds)}
    return {seed: None if None in values else sum(values) / len(values) for seed, values in found.items()}


def over_arms(done: Done, arms: Sequence[str], read: Read) -> Replicates:
    """The mean over the arms that have been run, seed by seed."""
    return over([found for arm in arms if (found := replicates(done, arm, read))])


def mean(done: Done, arm: str, read: Read, least: float = -math.inf, most: float = math.inf) -> Interval:
    """Of a number of an arm, which lies between `least` and `most`, over its replicates."""
    return mean_interval(replicates(done, arm, read), least, most)


def rises(key: str, tolerance: float = 0.0, of: str = "curves") -> Read:
    """Reads of each step between evaluations whether a curve falls by no more than the tolerance."""

    def read(result: dict) -> list[bool]:
        steps = pairwise(result[of][key])
        return [new - old >= -tolerance for old, new in steps if None not in (old, new)]

    return read


def gain(key: str, of: str = "curves") -> Read:
    """Reads what a curve has gained in all: its end less its start. A curve that stays at nothing rises too."""
    return lambda result: _whole(result)[of][key][-1] - result[of][key][0]


def less(first: Replicates, second: Replicates) -> Replicates:
    """The difference, seed by seed, of those that both have."""
    both = {seed: (first[seed], second[seed]) for seed in set(first) & set(second)}
    return {seed: None if None in two else two[0] - two[1] for seed, two in both.items()}


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Their rank correlation; None of fewer than three, or where one does not vary."""
    from scipy.stats import spearmanr

    if len(x) < 3 or len(set(x)) == 1 or len(set(y)) == 1:
        return None
    return float(spearmanr(x, y).statistic)


def share(done: Done, reads: Mapping[str, Read]) -> Interval:
    """Of all trials of these arms the share that is true; replicates are seeds. What is read are a run's trials."""
    trials: dict[int, list[bool]] = {}
    for arm, read in reads.items():
        for seed, found in replicates(done, arm, read).items():
            trials.setdefault(seed, []).extend(found or ())
    return share_interval([sum(own) for own in trials.values()], [len(own) for own in trials.values()])


def means(done: Done, reads: Mapping[str, Read]) -> dict[str, Cell]:
    """Columns of a table: of each arm the mean of what is read."""
    return {name: lambda arm, read=read: mean(done, arm, read) for name, read in reads.items()}


def shares(done: Done, reads: Mapping[str, Read]) -> dict[str, Cell]:
    """The same of what lies between 0 and 1."""
    return {name: lambda arm, read=read: mean(done, arm, read, 0, 1) for name, read in reads.items()}


def arms_table(first: str, arms: Mapping[str, str] | Sequence[str], columns: Mapping[str, Cell]) -> str:
    """A markdown table with a line for each arm, by its label, and a cell of it for each column."""
    labelled = arms if isinstance(arms, Mapping) else {arm: arm for arm in arms}
    rows = [[label, *(cell(arm) for cell in columns.values())] for label, arm in labelled.items()]
    return table([first, *columns], rows)
