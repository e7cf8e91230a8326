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

from torch import Tensor

from ..estimators.fixed import ESTIMATORS
from ..estimators.fixed_critic import influences
from ..estimators.result import Z95

CURVES = ("cos_dv", "cos_dv_calibrated")
_FEWEST = 64  # pairs of which a difference is told

Pairs = tuple[Tensor, Tensor]


def paired_errors(before: Pairs, after: Pairs) -> dict[str, float]:
    """Standard error of each estimate's difference, in nats, between two models on the same pairs (N, D), (N, D).

    From the difference of each pair's influences: what the models agree on cancels. Nothing of fewer than 64 pairs.
    """
    n = len(before[0])
    if n < _FEWEST:
        return {}
    old, new = (influences({name: ESTIMATORS[name]() for name in CURVES}, *pairs) for pairs in (before, after))
    return {name: (new[name] - old[name]).std().item() / math.sqrt(n) for name in CURVES}


def growth_verdicts(records: Iterable[Mapping], errors: Mapping[str, float], collapsed: bool) -> dict[str, dict]:
    """The verdict on each tracked curve, by its name (`mi/cos_dv`, …), from the records of `metrics.jsonl`.

    Args:
        errors: of the gain since the start, by the curve's name, from `paired_errors`; without one, that of
            two independent samples is used, mostly larger.
        collapsed: whether the alarm holds at the end.
    """
    verdicts = {}
    evaluations = [record for record in records if "loss" not in record]
    for name in (f"{space}/{curve}" for space in ("mi", "mi_h", "mi_target") for curve in CURVES):
        key = f"eval/{name}"
        values = [r[key] for r in evaluations if key in r]
        if len(values) > 1:
            ends = [standard_error(r[key], r[f"{key}/low"], r[f"{key}/high"]) for r in evaluations if key in r]
            error = min(errors.get(name, math.inf), math.hypot(ends[0], ends[-1]))
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
