"""What an experiment needs, in one place: runs on toy sources, what is measured of them, many of them, what they say.

A job is a function and its arguments; its result is one JSON file, written whole, and a job whose file is there with
the same arguments is not run again. Replicates are seeds: of weights, of training data and of held-out pairs.
"""

from measures import MEASURES, cos_bounds, embed, rounded
from reading import (
    Cell,
    Done,
    Read,
    Replicates,
    arms_table,
    at,
    gain,
    last,
    less,
    mean,
    means,
    over,
    over_arms,
    replicates,
    rises,
    share,
    shares,
    spearman,
)
from running import Job, main, parser_of, replicated, result_of, run_all, run_experiments, twice
from toy_runs import BARE, LADDER, SLOW, STEPS, TINY, build, make_source, phases_of, train, truth_of

__all__ = [
    "BARE",
    "LADDER",
    "MEASURES",
    "SLOW",
    "STEPS",
    "TINY",
    "Cell",
    "Done",
    "Job",
    "Read",
    "Replicates",
    "arms_table",
    "at",
    "build",
    "cos_bounds",
    "embed",
    "gain",
    "last",
    "less",
    "main",
    "make_source",
    "mean",
    "means",
    "over",
    "over_arms",
    "parser_of",
    "phases_of",
    "replicated",
    "replicates",
    "result_of",
    "rises",
    "rounded",
    "run_all",
    "run_experiments",
    "share",
    "shares",
    "spearman",
    "train",
    "truth_of",
    "twice",
]
