"""The arms of other_modalities.py, which curve of a run is read, and its table."""

import itertools

from collapse import rank_and_kinds
from harness import (
    LADDER,
    SLOW,
    Done,
    Replicates,
    arms_table,
    at,
    gain,
    last,
    mean,
    over,
    replicates,
    rises,
    share,
    shares,
    spearman,
    truth_of,
)
from tracking import TOLERANCE

MODALITIES = ("tokens", "waveforms", "renderings")
AUGMENTED = ("deleted", "cropped")  # added: views of one text and of one sound, whose MI is unknown
PREDICTOR = {"predictor_hidden_size": 64, "marginal": {}}
ARMS = {
    "jmi exact": {},
    "jmi exact, τ of order 2": {"temperature": 0.5},  # added
    "jmi none": {"marginal": {}},
    "jmi order 2": {"temperature": 0.5, "marginal": LADDER["order 2"]},
    "sdmi exact": {},
    "sdmi predictor, EMA": PREDICTOR | SLOW | {"target": "ema"},
    "sdmi predictor, gradient": PREDICTOR,
}


def trained_pair(arm: str) -> str:
    """The fine curve of cos-DV: of the prediction and the target; or, of two modalities, of (f, g), whose other tower
    of f no step trains; or of (f, f)."""
    if "predictor" in arm:
        return "cos_dv_predicted"
    return "cos_dv_target" if arm.startswith("renderings, sdmi") else "cos_dv"


def ranks_accuracy(done: Done) -> Replicates:
    """Spearman's correlation, over the arms of a modality, of cos-DV of the trained pair and linear accuracy of h."""

    def of(modality: str) -> Replicates:
        arms = [f"{modality}, {arm}" for arm in ARMS]
        x = [replicates(done, arm, at("fine", trained_pair(arm), -1)) for arm in arms]
        y = [replicates(done, arm, at("end", "linear_h")) for arm in arms]
        seeds = set.intersection(*(set(one) for one in (*x, *y)))
        return {seed: spearman(*([one[seed] for one in axis] for axis in (x, y))) for seed in seeds}

    return over([found for modality in MODALITIES if (found := of(modality))])


def table(done: Done) -> str:
    rows = {
        f"{modality} ({truth_of({'name': modality}):.2f} nats), `{arm}`": f"{modality}, {arm}"
        for modality, arm in itertools.product(MODALITIES, ARMS)
    } | {
        f"{modality} (unknown), `{arm}`": f"{modality}, {arm}" for modality, arm in itertools.product(AUGMENTED, ARMS)
    }

    columns = {
        "cos-DV": lambda arm: mean(done, arm, at("fine", trained_pair(arm), -1)),
        "calibrated": lambda arm: (
            mean(done, arm, last("mi/cos_dv_calibrated")) if trained_pair(arm) == "cos_dv" else "–"
        ),
        "rank of z": lambda arm: mean(done, arm, last("rank/effective_rank")),
        "rank of target": lambda arm: mean(done, arm, last("rank/effective_rank_target")),
        "lesser branch, collapsed runs": lambda arm: rank_and_kinds(done, arm),
        f"share, no fall > {TOLERANCE}": lambda arm: share(
            done, {arm: rises(trained_pair(arm), TOLERANCE, of="fine")}
        ),
        "cos-DV, end less start": lambda arm: mean(done, arm, gain(trained_pair(arm), of="fine")),
    } | shares(done, {"linear accuracy of h": at("end", "linear_h")})
    return (
        f"## Where the runs end\n\n{arms_table('views (their MI), arm', rows, columns)}\n\n"
        "cos-DV is that of the pair that is trained: of prediction and target where there is a predictor. "
        "`renderings` are two modalities: SDMI trains f of one and the target g of the other, whose pair is given. "
        "With an EMA it takes both ways, so that both towers learn that it follows. (Read first, and by mistake: z of "
        "both views everywhere, and an EMA of a tower that no step trained.)"
    )
