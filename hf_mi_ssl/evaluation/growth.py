"""Did mutual information grow? A verdict from the tracked curves, which a run that died does not pass.

A curve, from the start on, grew if 95 % of its steps fall by no more than a tolerance of two standard errors, it
gained more than three, it ends within three (or 5 %) of its best and above 0 by three of its own, and nothing
collapsed. The standard error is that of the difference between the trained and the initial model on the same pairs;
models that are nearer to one another differ by less; that of the end is larger, and its own. At the start batch norm
has statistics of training images: what a run gains by learning them is no growth.
"""

import itertools
import math
from collections.abc import Iterable, Mapping
from statistics import stdev

from torch import Tensor

from ..estimators import track
from ..estimators.result import Z95

CURVES = ("cos_dv", "cos_dv_calibrated")
_BLOCKS = 16

Pairs = tuple[Tensor, Tensor]


def paired_errors(before: Pairs, after: Pairs) -> dict[str, float]:
    """Standard error of each estimate's difference, in nats, between two models on the same pairs (N, D), (N, D).

    From the differences in blocks of at least 64 pairs: what the models agree on cancels. Without what cannot be told:
    of fewer than 512 pairs, and of estimates near the ceiling of a block.
    """
    count = min(_BLOCKS, len(before[0]) // 64)
    if count < 8:
        return {}
    # Strided, so that images sorted by class are spread over all blocks
    blocks = [[tuple(z[block::count] for z in pair) for pair in (before, after)] for block in range(count)]
    found = [[track(*pair, "block") for pair in block] for block in blocks]
    errors = {}
    for name in CURVES:
        estimates = [(old[name], new[name]) for old, new in found]
        if all(estimate.value < 0.9 * estimate.ceiling for both in estimates for estimate in both):
            errors[name] = stdev(new.value - old.value for old, new in estimates) / math.sqrt(count)
    return errors


def growth_verdicts(records: Iterable[Mapping], errors: Mapping[str, float], collapsed: bool) -> dict[str, dict]:
    """The verdict on each tracked curve, by its name (`mi/cos_dv`, …), from the records of `metrics.jsonl`.

    Args:
        errors: of the gain since the start, by the curve's name, from `paired_errors`; without one, that of
            two independent samples is used, which is larger.
        collapsed: whether the alarm holds at the end.
    """
    verdicts = {}
    evaluations = [record for record in records if "loss" not in record]
    for name in (f"{space}/{curve}" for space in ("mi", "mi_h", "mi_target") for curve in CURVES):
        key = f"eval/{name}"
        values = [r[key] for r in evaluations if key in r]
        if len(values) > 1:
            ends = [standard_error(r[key], r[f"{key}/low"], r[f"{key}/high"]) for r in evaluations if key in r]
            error = errors.get(name, math.hypot(ends[0], ends[-1]))
            verdicts[name] = _verdict(values, error, ends[-1], name in errors, collapsed)
    return verdicts


def standard_error(value: float, low: float, high: float) -> float:
    """Of an estimate, in nats, from its 95 % interval, one side of which may be cut (at 0, at log n)."""
    return max(high - value, value - low) / Z95


def _verdict(values: list[float], error: float, of_end: float, paired: bool, collapsed: bool) -> dict:
    steps = [new - old for old, new in itertools.pairwise(values)]
    tolerance = 2 * error
    gain, drawdown = values[-1] - values[0], max(values) - values[-1]
    monotone = sum(step >= -tolerance for step in steps) / len(steps)
    failures = {
        f"it rises or stays in {monotone:.0%} of the steps only": monotone < 0.95,
        f"the gain of {gain:.3f} is not above three standard errors": gain <= 3 * error,
        f"it ends {drawdown:.3f} below its best": drawdown > max(3 * error, 0.05 * max(values)),
        f"it ends at {values[-1]:.3f}, not above 0 by three standard errors": values[-1] <= 3 * of_end,
        "the embeddings have collapsed": collapsed,
    }
    return {
        "grew": not any(failures.values()),
        "because": [failure for failure, holds in failures.items() if holds],
        "gain": gain,
        "standard_error": error,
        "paired": paired,
        "tolerance": tolerance,
        "monotone_share": monotone,
        "drawdown": drawdown,
        "evaluations": len(values),
    }
