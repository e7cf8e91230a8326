"""What could explain accuracy where MI does not: predictors, with rank correlations and partial R²."""

import math
from collections.abc import Sequence

import numpy as np
from harness import Done, Read, Replicates, at, last, over, spearman, truth_of
from reporting import Interval, mean_interval

from hf_mi_ssl.estimators import TRACKING_TEMPERATURE

DIMENSION = 16  # of z
LINEAR = {space: at("end", f"linear_{space}") for space in "zh"}
PREDICTORS = {
    "cos-DV": last("mi/cos_dv"),
    "calibrated cos-DV": last("mi/cos_dv_calibrated"),
    "I(z; content)": at("factor_information", "z", "content"),
    "I(z; style)": at("factor_information", "z", "style"),
    "log effective rank": lambda r: math.log(last("rank/effective_rank")(r)),
    "alignment (minus)": lambda r: -last("collapse/alignment")(r),
    "uniformity (minus)": lambda r: -last("collapse/uniformity")(r),
    # added: of each hypothesis what it says is decisive
    "cos-DV, share of its ceiling": lambda r: last("mi/cos_dv")(r) / r["ceiling"],
    "content that the head loses": lambda r: r["factor_information"]["h"]["content"] - PREDICTORS["I(z; content)"](r),
}
TOGETHER = {  # sets of predictors of which each has a partial R²
    "partial R²": ("cos-DV", "I(z; content)", "I(z; style)", "log effective rank"),
    "partial R² among H1 to H4 (added)": (
        "cos-DV, share of its ceiling",
        "I(z; style)",
        "log effective rank",
        "content that the head loses",
    ),
}


def source_of(p: float, bits: int) -> dict:
    return {"name": "factors", "bits": bits, "survival": p}


def by_seed(done: Done) -> dict[int, list[dict]]:
    """The results of all settings, by seed, each with its ceiling."""
    found: dict[int, list[dict]] = {}
    for arguments, result in done.values():
        if "diverged" not in result:
            most = ceiling(arguments["source"]["survival"], arguments["source"]["bits"])
            found.setdefault(arguments["seed"], []).append(result | {"ceiling": most})
    return found


def rank_correlations(done: Done, space: str = "z") -> dict[str, Replicates]:
    """Spearman's correlation of each predictor and linear accuracy over the runs of a seed."""
    return {
        name: {seed: rank(read, runs, space) for seed, runs in by_seed(done).items()}
        for name, read in PREDICTORS.items()
    }


def rank(read: Read, runs: Sequence[dict], space: str = "z") -> float | None:
    return spearman(*([one(run) for run in runs] for one in (read, LINEAR[space])))


def within_laws(done: Done, read: Read, space: str = "z") -> Replicates:
    """The same of the methods that see the same views, the mean over laws of views."""
    laws: dict[str, Done] = {}
    for name, run in done.items():
        laws.setdefault(name.split(",")[0], {})[name] = run
    return over([{seed: rank(read, runs, space) for seed, runs in by_seed(own).items()} for own in laws.values()])


def partial_r2(done: Done, together: Sequence[str]) -> dict[str, Interval]:
    """What share of the variance of linear accuracy of z, left by the others, each of these predictors explains."""
    shares: dict[str, list[float]] = {name: [] for name in together}
    for runs in by_seed(done).values():
        if len(runs) < 8:
            continue
        y = np.array([LINEAR["z"](run) for run in runs])
        x = np.array([[PREDICTORS[name](run) for name in together] for run in runs])

        def residual(columns: list[int], x=x, y=y) -> float:
            design = np.column_stack([np.ones(len(y)), x[:, columns]])
            return float(((y - design @ np.linalg.lstsq(design, y, rcond=None)[0]) ** 2).sum())

        whole = residual(list(range(len(together))))
        for i, name in enumerate(together):
            without = residual([j for j in range(len(together)) if j != i])
            shares[name].append(1 - whole / without if without > 0 else 0.0)
    return {name: mean_interval(values, 0, 1) for name, values in shares.items()}


def ceiling(p: float, bits: int) -> float:
    """What cos-DV cannot exceed: the views' MI and, of K symbols that are shared without error, what K clusters on a
    simplex have."""
    truth = truth_of(source_of(p, bits))
    return min(simplex_dv(symbols(p, bits), TRACKING_TEMPERATURE), truth) if p in (0.0, 1.0) else truth


def symbols(p: float, bits: int) -> int:
    """How many are shared without error: content alone, or content and style."""
    return 8 * 2**bits if p == 1.0 else 8


def attained(p: float, bits: int) -> bool:
    """Whether some embedding of D dimensions reaches that ceiling: a simplex that fits."""
    return p in (0.0, 1.0) and symbols(p, bits) - 1 <= DIMENSION


def simplex_dv(k: int, temperature: float) -> float:
    """cos-DV of K equiprobable clusters on a regular simplex, both views in the same one."""
    apart = math.exp(-1 / (temperature * (k - 1)))
    return 1 / temperature - math.log(math.exp(1 / temperature) / k + (1 - 1 / k) * apart)
