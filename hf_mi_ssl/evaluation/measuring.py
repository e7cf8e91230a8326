"""What estimators say of pairs: of tasks whose mutual information is known, and of embeddings."""

import math
import sys
import time
from dataclasses import asdict

from accelerate.utils import tqdm
from torch import Tensor

from ..errors import UserError
from ..estimators import ESTIMATORS, TASKS
from ..estimators.fixed import ESTIMATORS as FIXED
from ..estimators.fixed_critic import hold_out_all

_SLOW = {"trained", "mended_gaussian"}  # modules of the estimators that train a network


def is_fast(name: str) -> bool:
    make = ESTIMATORS[name]
    return getattr(make, "func", make).__module__.split(".")[-1] not in _SLOW


def measure(name: str, z_a: Tensor, z_b: Tensor, split: str) -> dict:
    """What an estimator says of the pairs, or why it refuses them."""
    began, estimator = time.process_time(), ESTIMATORS[name]()
    known = 3 * len(z_a) // 4 if getattr(estimator, "fits", True) else 0
    try:
        if known:
            estimator.fit(z_a[:known], z_b[:known])
        found = asdict(estimator.estimate(z_a[known:], z_b[known:], split))
    except UserError as error:
        return {"estimator": name, "refused": str(error)}
    found["ceiling"] = found["ceiling"] if math.isfinite(found["ceiling"]) else None  # JSON knows no infinity
    return {"estimator": name, **found, "seconds": round(time.process_time() - began, 2)}


def measure_fixed(names: list[str], z_a: Tensor, z_b: Tensor, split: str) -> dict[str, dict]:
    """What those with a fixed critic say, which share their passes over the pairings and, evenly, the seconds."""
    began = time.process_time()
    found = hold_out_all({name: FIXED[name]() for name in names}, z_a, z_b, 3 * len(z_a) // 4, split)
    seconds = round((time.process_time() - began) / max(1, len(names)), 2)
    return {name: {"estimator": name, **asdict(one), "seconds": seconds} for name, one in found.items()}


def measure_tasks(tasks: list[str], estimators: list[str], n: int, seed: int) -> list[dict]:
    rows = []
    for task in tqdm(tasks, disable=not sys.stderr.isatty()):
        truth, pairs = TASKS[task].mutual_information(), TASKS[task].sample(n, seed)
        split = f"{task}, seed {seed}"
        found = measure_fixed([name for name in estimators if name in FIXED], *pairs, split)
        for name in estimators:
            row = {"task": task, "truth": truth} | (found.get(name) or measure(name, *pairs, split))
            rows.append(row | {"error": row["value"] - truth if "value" in row else None})
    return rows
