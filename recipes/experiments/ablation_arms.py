"""The arms of marginal_ablation.py: predictor × target × marginal term, losses with white targets, and longer runs."""

import itertools

import white_targets  # noqa: F401  (registers the measure `white`)
from harness import BARE, LADDER, SLOW
from regulariser_weights import TEMPERATURE

PREDICTOR = 64
TARGETS = ("reset", "ema", "gradient")
LOSSES = {
    "cosine": ("cosine", TEMPERATURE),
    "mse": ("negative_squared_distance", 1.0),
    "white target": ("white_target", 1.0),
    "both white": ("whitened_cosine", TEMPERATURE),
}


def columns_of(target: str, predictor: bool, marginal: str, loss: str = "cosine") -> dict:
    critic, temperature = LOSSES[loss]
    more = {"predictor_hidden_size": PREDICTOR} if predictor else {}
    terms = {"critic": critic, "temperature": temperature, "marginal": LADDER[marginal]}
    return BARE | more | {"target": target} | SLOW | terms


def name_of(target: str, predictor: bool, marginal: str, loss: str = "cosine", norm: bool = False) -> str:
    parts = [target, "predictor" if predictor else "bare", marginal]
    return ", ".join(parts + [loss] * (loss != "cosine") + ["batch norm"] * norm)


GRID = list(itertools.product((False, True), TARGETS))
NORMED = list(itertools.product(("gradient", "reset"), (False, True)))
ALONE, WHITE, WITH_EXACT = (
    name_of("gradient", True, *rest) for rest in (("none",), ("none", "white target"), ("exact",))
)
BY_EMA, BY_RESET = name_of("ema", True, "none"), name_of("reset", True, "none")
PANEL = [*(name_of("gradient", True, "none", loss) for loss in LOSSES), BY_EMA, BY_RESET, WITH_EXACT]
# Added after the first look: a white target with more time, as our derivation had it, and one that is white at any
# scale; the package's whitening shrinks covariances by 1e-3, and a target that shrinks below that gets away.
SCALE_FREE = "gradient, predictor, none, white target of any scale"
# Added later, since a covariance that is shrunk leaves more ways out than its scale: nothing is shrunk in these.
EXACT_WHITE = {target: f"{target}, predictor, none, exactly white target" for target in TARGETS}
LONG = {"steps": 1200, "learning_rate": 1e-3, "evaluations": 8}
LONG_ARMS = [WHITE, name_of("reset", True, "none", "white target"), ALONE, SCALE_FREE, EXACT_WHITE["gradient"]]
OTHER_WHITE = [name_of(*one) for one in itertools.product(TARGETS[:2], [True], ["none"], list(LOSSES)[2:])]


def arms() -> dict[str, dict]:
    found = {}
    for (predictor, target), marginal in itertools.product(GRID, LADDER):
        found[name_of(target, predictor, marginal)] = columns_of(target, predictor, marginal)
    for target, loss in itertools.product(TARGETS, list(LOSSES)[1:]):
        found[name_of(target, True, "none", loss)] = columns_of(target, True, "none", loss)
    for target, predictor in NORMED:
        norm = {"projector_output_norm": True}
        found[name_of(target, predictor, "none", norm=True)] = columns_of(target, predictor, "none") | norm
    found[SCALE_FREE] = columns_of("gradient", True, "none", "mse") | {"critic": "white_target_of_any_scale"}
    for target, arm in EXACT_WHITE.items():
        found[arm] = columns_of(target, True, "none", "mse") | {"critic": "exactly_white_target"}
    found = {
        arm: {"method": "sdmi", "columns": columns} | ({"measure": ["white"]} if "white" in arm else {})
        for arm, columns in found.items()
    }
    return found | {f"{arm}, long": found[arm] | LONG for arm in LONG_ARMS}
