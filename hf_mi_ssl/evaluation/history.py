"""What the alarm knows of a run: its log, as it comes."""

import math
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from ..configuration import MISSLConfig
from .growth import standard_error

_WARM_UP = 0.02
WINDOW, _FEWEST = 100, 10  # steps of the objective that stand for an evaluation, at most and at least
OPENING = 20  # steps that stand for its start


class History:
    """What the log holds so far: evaluations by key, and the objective J − M before each of them."""

    def __init__(self, config: MISSLConfig, steps: int, batch_size: int):
        self.config, self.steps, self.batch_size = config, steps, batch_size
        self.step = 0
        self.first: dict[str, float] = {}  # by key, of the first evaluation of all
        self.seen: dict[str, list[float]] = defaultdict(list)  # by key, of evaluations after the warm-up
        self.early: list[float] = []  # the objective of each step up to the first of these evaluations
        self.latest: deque[float] = deque(maxlen=WINDOW)
        self.windows: list[tuple[float, float]] = []  # its mean before an evaluation, and the standard error
        self.fresh = False  # whether the last window is of the last evaluation

    def add(self, record: Mapping) -> None:
        """Take in a record, of a step or of an evaluation."""
        if "loss" in record:
            if record["value"] is not None:  # of a step that was not skipped
                self.latest.append(record["value"])
                self.early += [record["value"]] * (not self.windows)
            return
        numbers = {key: value for key, value in record.items() if isinstance(value, int | float)}
        self.first = numbers | self.first
        self.step = record["step"]
        if self.step >= max(1, _WARM_UP * self.steps):
            for key, value in numbers.items():
                self.seen[key].append(value)
            self.fresh = len(self.latest) >= _FEWEST
            if self.fresh:
                self.windows.append(mean_and_error(self.latest))
                self.latest.clear()

    @property
    def opening(self) -> list[float]:
        """The objective of the first steps."""
        return self.early[:OPENING]

    def last(self, name: str) -> float:
        """The latest value of an evaluation, NaN if there is none: logs of earlier versions lack some."""
        return self.seen[f"eval/{name}"][-1] if self.seen[f"eval/{name}"] else math.nan

    def errors(self, key: str) -> list[float]:
        """The standard errors of an estimate, from its intervals: the first of all, then those after the warm-up."""
        found = ([self.first[f"{key}{end}"], *self.seen[f"{key}{end}"]] for end in ("", "/low", "/high"))
        return [standard_error(*one) for one in zip(*found)]


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    return fmean(values), stdev(values) / math.sqrt(len(values))
