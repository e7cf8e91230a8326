"""The alarm: what is going wrong in a run, the numbers, the likely cause in the row's own columns, and the way out.

A pure function of the log: fed with the records of `metrics.jsonl` in order, it says the same for a run that was
resumed as for one that was not. A rule has to hold in three evaluations in a row, after the first 2 % of the steps;
at the end of a run that had fewer in which it could tell, in all of them.
"""

import math
from collections.abc import Callable, Mapping
from statistics import fmean

from ..configuration import MISSLConfig
from .causes import likely_cause
from .history import OPENING, WINDOW, History, mean_and_error

STOPPING = ("complete_collapse", "dimensional_collapse", "diverging")  # what `--stop_on_collapse` stops
COLLAPSE = ("complete_collapse", "dimensional_collapse", "information_loss")
NOTES = ("cone", "ceiling_reached")  # what to know when reading the numbers; nothing is wrong with the run
_CONSECUTIVE = 3
_LONG = 100  # the largest norm over the median: at most 9 in healthy runs, 34 in a line, 250 and more in runaway ones
_CALIBRATED = "eval/mi/cos_dv_calibrated"
_LOG_PARTITIONS = {"exact", "row_wise", "info_nce", "info_nce_of_targets", "nt_xent", "decoupled", "queue",
                   "prototype_partition"}  # fmt: skip


# Each rule gives the numbers where it holds, "" where it does not, and None where there is too little to tell.


def complete_collapse(h: History) -> str | None:
    std, cosine = h.last("collapse/std"), h.last("collapse/mean_cosine")
    if std < 0.10 or cosine > 0.99:  # RankMe does not tell: it is 1 for a point, and for a line through the origin too
        return f"std {std:.3f} (isotropic: 1), mean cosine {cosine:.3f} (isotropic: 0)"
    return ""


def dimensional_collapse(h: History) -> str | None:
    # One far longer embedding makes the rank of z 1; then that of z/‖z‖ tells. Where z lie in a line through the
    # origin, the directions of short ones are noise, so that it tells less otherwise.
    ranks = h.seen["eval/rank/effective_rank" + ("_of_directions" if outliers(h) else "")]
    # No fraction of D: clusters end at their number less one, whatever D is.
    size = h.config.projection_size
    fewest = min(2.5, 0.6 * size)  # two or three dimensions are few by themselves
    if (ranks[-1] < fewest or ranks[-1] < 0.25 * max(ranks)) and not complete_collapse(h):
        std = h.last("collapse/std")
        return f"effective rank {ranks[-1]:.2f} of {size}, {max(ranks):.2f} at its best, while std is {std:.2f}"
    return ""


def outliers(h: History) -> str | None:
    longest = h.last("collapse/largest_norm")
    return f"the largest norm is {longest:.0f} times the median" if longest > _LONG else ""


def information_loss(h: History) -> str | None:
    values = h.seen[_CALIBRATED]
    best = max(values)
    # Below 0.2 nats there is little to lose: a cosine does not see what a predictor makes of the embeddings.
    if best > 0.2 and values[-1] < 0.6 * best and _shares_less(h):
        return f"calibrated cosine DV {values[-1]:.2f} nats, {best:.2f} at its best"
    return ""


def _shares_less(h: History) -> bool:
    """Whether the calibrated estimate is below its best by three standard errors, or was never made."""
    if not (values := h.seen[_CALIBRATED]):
        return True
    best, errors = max(range(len(values)), key=values.__getitem__), h.errors(_CALIBRATED)[1:]
    return values[best] - values[-1] > 3 * math.hypot(errors[best], errors[-1])


def pinned(h: History) -> str | None:
    weight = sum(w for name, w in h.config.marginal.items() if name in _LOG_PARTITIONS)
    if not weight or not h.fresh:
        return None
    prototypes = getattr(h.config, "num_prototypes", None)
    queue = h.config.queue_size if "queue" in h.config.marginal else None
    candidates = prototypes or queue or h.batch_size
    # Scores that tell nothing make J − M 0, as M is a mean over the candidates; over prototypes it is a sum.
    log_k, mean = math.log(candidates), h.windows[-1][0]
    nothing = -weight * log_k if prototypes else 0.0
    if abs(mean - nothing) < 0.01 * weight * log_k and not _shares_more(h):
        return (
            f"J − M is {mean:.3f}, of scores that tell nothing {nothing:.3f}; K = {candidates:,}, ln K = {log_k:.2f}"
        )
    return ""


def stagnant(h: History) -> str | None:
    if not h.fresh or h.step < max(2 * OPENING, h.steps / 2):
        return None
    # Not above the start: a queue that fills with keys makes the objective fall before it rises.
    early = [h.opening, *(h.early[i - WINDOW : i] for i in range(WINDOW, len(h.early) + 1, WINDOW))]
    (mean, error), (lowest, its_error) = h.windows[-1], min([*map(mean_and_error, early), *h.windows])
    best = max(h.seen[_CALIBRATED])
    learned = mean > lowest + 3 * math.hypot(error, its_error) or _shares_more(h)
    # With a predictor, what the objective is about need not show in the cosine of embeddings.
    blind = getattr(h.config, "predictor_hidden_size", None) is not None
    if not learned or (best <= max(0.01, 3 * max(h.errors(_CALIBRATED))) and not blind):
        first = h.first[_CALIBRATED]
        return f"J − M is {mean:.3f}, was {lowest:.3f}; calibrated cosine DV at most {best:.2f} nats, was {first:.2f}"
    return ""


def _shares_more(h: History) -> bool:
    """Whether the calibrated estimate has ever been above an earlier value by one standard error: pairs stay the same,
    so that a difference is known much better than that. The evaluation at the very start is no such value: in logs
    of earlier versions batch norm had no statistics there."""
    lowest, its_error = math.inf, 0.0
    for value, error in zip(h.seen[_CALIBRATED], h.errors(_CALIBRATED)[1:] if h.seen[_CALIBRATED] else ()):
        if value > lowest + math.hypot(error, its_error):
            return True
        lowest, its_error = min((lowest, its_error), (value, error))
    return False


def diverging(h: History) -> str | None:
    if not h.fresh or len(h.windows) < 2:
        return None
    before, (mean, _) = fmean(value for value, _ in h.windows[:-1]), h.windows[-1]
    worst, spread = min(h.opening), max(h.opening) - min(h.opening)
    if mean < before and mean < worst - max(spread, abs(worst) / 2, 0.5):
        return f"J − M is {mean:.4g}, {before:.4g} on average before and at least {worst:.4g} in the first steps"
    return ""


def cone(h: History) -> str | None:
    cosine, rank = h.last("collapse/mean_cosine"), h.last("rank/effective_rank")
    if cosine > 0.8 and not complete_collapse(h) and not dimensional_collapse(h):
        return f"mean cosine {cosine:.2f}, effective rank {rank:.1f}"
    return ""


def ceiling_reached(h: History) -> str | None:
    value, ceiling = h.seen[_CALIBRATED][-1], h.seen[f"{_CALIBRATED}/ceiling"][-1]
    return f"calibrated cosine DV is {value:.2f} of at most {ceiling:.2f} nats" if value > 0.9 * ceiling else ""


VERDICTS: dict[str, tuple[str, str, Callable[[History], str | None]]] = {
    # kind: (what is happening, the key of an evaluation that it needs, the rule)
    "complete_collapse": ("embeddings are almost one point", "eval/collapse/std", complete_collapse),
    "dimensional_collapse": ("embeddings lie in a few directions", "eval/rank/effective_rank", dimensional_collapse),
    "outliers": ("a few embeddings are far longer than the rest", "eval/collapse/largest_norm", outliers),
    "information_loss": ("the two views share less than before", _CALIBRATED, information_loss),
    "pinned": ("the loss stays at ln K: positives score like negatives", "step", pinned),
    "stagnant": ("the views share no more than at the start", _CALIBRATED, stagnant),
    "diverging": ("the objective falls below its start", "step", diverging),
    "cone": ("embeddings point one way, and differ around it", "eval/collapse/mean_cosine", cone),
    "ceiling_reached": ("the estimate cannot grow any more", _CALIBRATED, ceiling_reached),
}


class Alarm:
    """`alarm(record)` -> {kind: message} of what an evaluation has to say for the first time; each kind once.

    Args:
        config: the row, whose columns tell the likely cause.
        steps: of the whole run.
        batch_size: N, the images that one loss compares.
    """

    def __init__(self, config: MISSLConfig, steps: int, batch_size: int):
        self.history = History(config, steps, batch_size)
        self.streaks: dict[str, int] = dict.fromkeys(VERDICTS, 0)
        self.judged: dict[str, int] = dict.fromkeys(VERDICTS, 0)  # evaluations in which there was enough to tell
        self.raised: dict[str, str] = {}

    def __call__(self, record: Mapping) -> dict[str, str]:
        self.history.add(record)
        if "loss" in record:
            return {}
        new = {}
        for kind, (happening, key, rule) in VERDICTS.items():
            if key not in record or not self.history.seen[key]:
                continue
            numbers = rule(self.history)
            if numbers is None:
                continue
            self.streaks[kind] = self.streaks[kind] + 1 if numbers else 0
            self.judged[kind] += 1
            enough = _CONSECUTIVE
            if self.history.step >= self.history.steps:
                enough = min(enough, self.judged[kind])
            if self.streaks[kind] >= enough and kind not in self.raised:
                cause = likely_cause(kind, self.history.config, self.history.steps)
                new[kind] = f"{happening} ({numbers}). {'' if kind in NOTES else 'Likely cause: '}{cause}"
        self.raised |= new
        return new

    @property
    def collapsed(self) -> bool:
        """Whether the last evaluation looks collapsed, or has lost its information."""
        return any(self.streaks[kind] for kind in COLLAPSE)

    @property
    def stops(self) -> str:
        """The first message for which a run is stopped, empty if there is none. Few directions are no reason while the
        views share as much as ever: a few kinds of images need no more."""
        stopping = [kind for kind in self.raised if kind in STOPPING]
        if not _shares_less(self.history):
            stopping = [kind for kind in stopping if kind != "dimensional_collapse"]
        return next((self.raised[kind] for kind in stopping), "")
