"""The three questions that the paper leaves open, on data that know the answer.

    python recipes/experiments/open_questions.py

(a) Do paradigms, ladder and collapse carry over to token sequences, waveforms and pairs of modalities? (b) Why does
more mutual information not mean more accuracy? A generator of content, shared style and noise, with exact
I(Z; content) and I(Z; style), and four hypotheses. (c) What does a law that is not Gaussian do to the surrogates of
the marginal term?
"""

import itertools
import math
import sys
from argparse import Namespace
from collections.abc import Sequence

import drawing
import numpy as np
import torch
import torch.nn.functional as F
from harness import (
    BARE,
    MEASURES,
    Done,
    Job,
    Replicates,
    cos_bounds,
    embed,
    last,
    main,
    replicates,
    rounded,
    train,
    truth_of,
)
from reporting import Claim, Interval, Report, mean_interval, paired, share_interval, table
from sources import all_inputs
from torch import Tensor

from hf_mi_ssl.errors import UserError
from hf_mi_ssl.estimators import TRACKING_TEMPERATURE
from hf_mi_ssl.evaluation import knn_predict, koziol_kurtosis, mardia_skewness
from hf_mi_ssl.evaluation.spectrum import leading
from hf_mi_ssl.evaluation.surrogates import LARGEST_SHARE, LARGEST_SPREAD, surrogate_rows
from hf_mi_ssl.mi import bounds

NAME = "open_questions"
MODALITIES = ("tokens", "waveforms", "renderings")
PREDICTOR = {"predictor_hidden_size": 64, "marginal": {}}
SLOW = {"target": "ema", "target_momentum": 0.95, "target_momentum_end": 0.95}
ARMS = {
    "jmi exact": ("jmi", {}),
    "jmi none": ("jmi", {"marginal": {}}),
    "jmi order 2": ("jmi", {"temperature": 0.5, "marginal": {"second_order": 1.0}}),
    "sdmi exact": ("sdmi", {}),
    "sdmi predictor, EMA": ("sdmi", PREDICTOR | SLOW),
    "sdmi predictor, gradient": ("sdmi", PREDICTOR),
}
SURVIVAL, BITS = (0.0, 0.5, 1.0), 3
GRID = [(1.0, 1), *((p, BITS) for p in SURVIVAL)]  # survival and bits of the style
STYLED = {
    "jmi τ .1": ("jmi", {"temperature": 0.1}),
    "jmi τ .5": ("jmi", {"temperature": 0.5}),
    "sdmi": ("sdmi", {}),
    "simsiam": ("simsiam", {"predictor_hidden_size": 64, "projector_hidden_size": 64, "projection_size": 16}),
}
SHORT = {"steps": 150, "batch_size": 128, "evaluations": 5}
RESOLUTION = 0.1  # σ of the noise that Z is read with: of a deterministic Z every I(Z; ·) would be trivial
NEAR, TOLERANCE = 0.9, 0.02
LAWS = ("gaussian", "uniform", "laplace", "student", "clusters", "rectified")
SKEWED = ("clusters", "rectified")
TAUS = (1.5, 3.0, 6.0, 12.0)
DIMENSION, PAIRS = 5, 768


# (b) exact information about factors


def information(z: Tensor, factors: dict[str, Tensor], seed: int) -> dict[str, float]:
    """I(z + σε; factor) in nats, of unit-scale z (N, D) of all N equally likely inputs: mixtures of known Gaussians.

    Exact but for the mean over ε, of 4 draws for each input.
    """
    z = z.double() / z.double().square().sum(1).mean().sqrt()
    noise = torch.randn(4, *z.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    log_density = -torch.cdist((z + RESOLUTION * noise).flatten(0, 1), z).square() / (2 * RESOLUTION**2)  # (4N, N)
    whole, found = log_density.logsumexp(1) - math.log(len(z)), {}
    for name, factor in factors.items():
        log_given = torch.stack([log_density[:, factor == k].logsumexp(1) for k in factor.unique()], 1)
        count = len(z) / log_given.shape[1]
        own = log_given.gather(1, factor.repeat(4)[:, None])[:, 0] - math.log(count)
        found[name] = (own - whole).mean().item()
    return found


def informations(model, law, held, initial, seed) -> dict:
    """I(Z; content) and I(Z; style) of h and z, exactly; and what a random invertible map of z does (H3)."""
    bits = int(held.factors["style"].max()).bit_length()
    inputs, found = all_inputs(bits), {}
    all_views = embed(model, inputs)
    for space in ("h", "z"):
        place = F.normalize(all_views[f"{space}_a"], dim=1)
        found[space] = information(place, inputs.factors, seed)
    own = embed(model, held)
    generator = torch.Generator().manual_seed(seed)
    size = own["z_a"].shape[1]
    left, right = (torch.linalg.qr(torch.randn(size, size, generator=generator)).Q for _ in range(2))
    change = left @ torch.diag(torch.logspace(0, 1.5, size)) @ right  # condition 32
    half = len(held.labels) // 2
    for name, (a, b) in {
        "before": (own["z_a"], own["z_b"]),
        "after": (own["z_a"] @ change, own["z_b"] @ change),
    }.items():
        hits = knn_predict(a[:half], held.labels[:half], a[half:], law.classes) == held.labels[half:]
        found[name] = {"knn": hits.double().mean().item(), "cos_dv": cos_bounds(a, b)["cos_dv"]}
    return found


# (c) laws that are not Gaussian


def draw_law(name: str, n: int, dimension: int, generator: torch.Generator) -> Tensor:
    """(n, D), independent coordinates but for the clusters; `surrogate_rows` whitens them."""
    normal = torch.randn(n, dimension, generator=generator, dtype=torch.float64)
    uniform = torch.rand(n, dimension, generator=generator, dtype=torch.float64)
    if name == "uniform":
        return uniform
    if name == "laplace":
        return (uniform - 0.5).sign() * torch.log1p(-2 * (uniform - 0.5).abs())
    if name == "student":
        chi = torch.randn(n, 8, generator=generator, dtype=torch.float64).square().mean(1, keepdim=True).sqrt()
        return normal / chi
    if name == "clusters":
        centres = torch.eye(dimension + 1, dimension, dtype=torch.float64)
        return centres[torch.randint(dimension + 1, (n,), generator=generator)] + 0.1 * normal
    return normal.relu() if name == "rectified" else normal


def law_errors(law: str, seed: int, pairs: int = PAIRS) -> dict:
    """Surrogates of the marginal term of a law, white, both views equal, over temperatures; λ_max(Σ) = 1."""
    x = draw_law(law, pairs, DIMENSION, torch.Generator().manual_seed(seed))
    rows = surrogate_rows(x, x, "whitened", TAUS)
    found = {f"{row.temperature:g}": of_row(row) for row in rows}
    return rounded(
        found | {"skewness": mardia_skewness(x), "kurtosis": koziol_kurtosis(x) / (3 * DIMENSION * (DIMENSION + 2))}
    )


def of_row(row) -> dict:
    """What is kept of a row: the exact term, errors and their standard errors, the four parts, verdicts on order 2."""
    second = row.values["second_order"].value - row.values["first_order"].value
    error = row.errors["second_order"].value
    return {
        "exact": row.exact.value,
        "second": second,
        "errors": {name: [e.value, e.standard_error] for name, e in row.errors.items() if name in ERRORS},
        "parts": {name: part.value for name, part in row.parts.items()},
        "rule": bool(row.spread < LARGEST_SPREAD and abs(row.skewness) <= LARGEST_SHARE),
        "good": bool(abs(error) <= LARGEST_SHARE * second),
    }


ERRORS = ("second_order", "third_order", "gaussian")


def gaussianity(model, law, held, initial, seed) -> dict:
    """How far h and z are from Gaussian, at the start and at the end, and the error of order 2 there, at 4 λ_max."""
    found = {}
    for when, views in (("start", initial), ("end", embed(model, held))):
        for space in ("h", "z"):
            a, b = views[f"{space}_a"], views[f"{space}_b"]
            x = leading(a, 8)
            d = x.shape[1]
            numbers = {
                "skewness": mardia_skewness(x),
                "kurtosis": koziol_kurtosis(x) / (3 * d * (d + 2)),
                "dimension": d,
            }
            try:
                row = surrogate_rows(a, b, "whitened", [4.0])[0]
                numbers |= of_row(row)
            except UserError as error:  # collapsed
                numbers["refused"] = str(error)
            found[f"{space} {when}"] = numbers
    return found


MEASURES |= {"informations": informations, "gaussianity": gaussianity}


def jobs(seeds: Sequence[int], tiny: bool) -> list[Job]:
    short = {"steps": 6, "batch_size": 64, "evaluations": 2, "held": 128} if tiny else SHORT
    found = []
    for modality, (arm, (method, columns)), seed in itertools.product(
        MODALITIES[:1] if tiny else MODALITIES, ARMS.items(), seeds
    ):
        settings = {
            "source": {"name": modality},
            "method": method,
            "columns": BARE | columns,
            "seed": seed,
            "pool": 640 if tiny else 6400,
        }
        found.append(Job(NAME, f"{modality}, {arm}-seed{seed}", train, short | settings))
    for (p, bits), arm, seed in itertools.product(
        GRID[::3] if tiny else GRID, list(STYLED)[:1] if tiny else STYLED, seeds
    ):
        method, columns = STYLED[arm]
        source = {"name": "factors", "bits": bits, "survival": p}
        settings = {"source": source, "method": method, "columns": columns, "seed": seed, "measure": ["informations"]}
        found.append(
            Job(NAME, f"style p={p:g} B={bits}, {arm}-seed{seed}", train, short | settings | {"probes": True})
        )
    for law, seed in itertools.product(LAWS[:2] if tiny else LAWS, seeds):
        found.append(
            Job(NAME, f"law {law}-seed{seed}", law_errors, {"law": law, "seed": seed, "pairs": 192 if tiny else PAIRS})
        )
    for method, seed in itertools.product(TRAINED[:1] if tiny else TRAINED, seeds):
        columns = {"marginal": {"redundancy": 0.2}} if method == "barlow_twins" else {}
        settings = {"source": {"name": "mixture", "dimension": 32}, "method": method, "columns": columns, "seed": seed}
        found.append(
            Job(NAME, f"embeddings {method}-seed{seed}", train, short | settings | {"measure": ["gaussianity"]})
        )
    return found


TRAINED = ("jmi", "sdmi", "barlow_twins")


# The report


def styled(done: Done, arms: Sequence[str], p: float, bits: int, read) -> Replicates:
    """The mean over arms of a number of the generator's runs, by seed."""
    values: dict[int, list[float]] = {}
    for arm in arms:
        for seed, value in replicates(done, f"style p={p:g} B={bits}, {arm}", read).items():
            values.setdefault(seed, []).append(value)
    return {seed: float(np.mean(found)) for seed, found in values.items() if None not in found}


PREDICTORS = {
    "cos-DV": lambda r: r["curves"]["mi/cos_dv"][-1],
    "calibrated cos-DV": lambda r: r["curves"]["mi/cos_dv_calibrated"][-1],
    "I(z; content)": lambda r: r["informations"]["z"]["content"],
    "I(z; style)": lambda r: r["informations"]["z"]["style"],
    "log effective rank": lambda r: math.log(r["curves"]["rank/effective_rank"][-1]),
    "alignment (minus)": lambda r: -r["curves"]["collapse/alignment"][-1],
    "uniformity (minus)": lambda r: -r["curves"]["collapse/uniformity"][-1],
}
TOGETHER = ("cos-DV", "I(z; content)", "I(z; style)", "log effective rank")  # those of the partial R²


def per_seed(done: Done) -> dict[int, list[dict]]:
    found: dict[int, list[dict]] = {}
    for name, (arguments, result) in done.items():
        if name.startswith("style") and "diverged" not in result:
            found.setdefault(arguments["seed"], []).append(result)
    return found


def rank_correlations(done: Done, space: str = "z") -> dict[str, dict[int, float]]:
    """Spearman's correlation of each predictor and linear accuracy over the runs of a seed."""
    from scipy.stats import spearmanr

    found: dict[str, dict[int, float]] = {name: {} for name in PREDICTORS}
    for seed, runs in per_seed(done).items():
        accuracy = [run["end"][f"linear_{space}"] for run in runs]
        for name, read in PREDICTORS.items():
            found[name][seed] = (
                float(spearmanr([read(run) for run in runs], accuracy).statistic) if len(runs) > 2 else None
            )
    return found


def partial_r2(done: Done) -> dict[str, Interval]:
    """What share of the variance of linear accuracy of z, left by the others, each of four predictors explains."""
    shares: dict[str, list[float]] = {name: [] for name in TOGETHER}
    for runs in per_seed(done).values():
        if len(runs) < 8:
            continue
        y = np.array([run["end"]["linear_z"] for run in runs])
        x = np.array([[PREDICTORS[name](run) for name in TOGETHER] for run in runs])

        def residual(columns: list[int], x=x, y=y) -> float:
            design = np.column_stack([np.ones(len(y)), x[:, columns]])
            return float(((y - design @ np.linalg.lstsq(design, y, rcond=None)[0]) ** 2).sum())

        whole = residual(list(range(len(TOGETHER))))
        for i, name in enumerate(TOGETHER):
            without = residual([j for j in range(len(TOGETHER)) if j != i])
            shares[name].append(1 - whole / without if without > 0 else 0.0)
    return {name: mean_interval(values) for name, values in shares.items()}


def slope(done: Done, laws: Sequence[str], start: float = 3.0, end: float = 6.0) -> Interval:
    """Of log |M̂ − M₂| on log τ, of laws and seeds."""
    per_seed: dict[int, list[float]] = {}
    for law in laws:
        for seed, found in replicates(done, f"law {law}", lambda r: r).items():
            low, high = (abs(found[f"{t:g}"]["errors"]["second_order"][0]) for t in (start, end))
            per_seed.setdefault(seed, []).append(math.log(high / low) / math.log(end / start))
    return mean_interval([float(np.mean(values)) for values in per_seed.values()])


def rule(done: Done) -> tuple[Interval, Interval]:
    """Of the cells that the rule calls valid, the share where order 2 is good; of all, where the rule is right."""
    valid: dict[int, list[bool]] = {}
    right: dict[int, list[bool]] = {}
    for name, (arguments, result) in done.items():
        cells = [v for k, v in result.items() if k.replace(".", "").isdigit()] if name.startswith("law") else []
        if name.startswith("embeddings"):
            cells = [cell for cell in result["gaussianity"].values() if "rule" in cell]
        for cell in cells:
            right.setdefault(arguments["seed"], []).append(cell["rule"] == cell["good"])
            if cell["rule"]:
                valid.setdefault(arguments["seed"], []).append(cell["good"])
    return tuple(share_interval([sum(v) for v in x.values()], [len(v) for v in x.values()]) for x in (valid, right))


def skew_gain(done: Done, laws: Sequence[str]) -> Interval:
    """|error of order 2| − |error of order 3| at τ = 6, in nats."""
    per_seed: dict[int, list[float]] = {}
    for law in laws:
        for seed, found in replicates(done, f"law {law}", lambda r: r).items():
            errors = found["6"]["errors"]
            per_seed.setdefault(seed, []).append(abs(errors["second_order"][0]) - abs(errors["third_order"][0]))
    return mean_interval([float(np.mean(values)) for values in per_seed.values()])


def report(done: Done, args: Namespace) -> Report:
    modalities = [m for m in MODALITIES if f"{m}, jmi exact-seed0" in done]

    def over_modalities(arm: str, read) -> dict[int, float]:
        found: dict[int, list[float]] = {}
        for modality in modalities:
            for seed, value in replicates(done, f"{modality}, {arm}", read).items():
                found.setdefault(seed, []).append(value)
        return {seed: float(np.mean(values)) for seed, values in found.items() if None not in values}

    def rank(result: dict) -> float:
        keys = ("rank/effective_rank", "rank/effective_rank_target")
        return min(result["curves"][key][-1] for key in keys if key in result["curves"])

    def rises(arm: str) -> Interval:
        counts: dict[int, list[int]] = {}
        for modality in modalities:
            key = trained_pair(modality, arm)
            for seed, values in replicates(done, f"{modality}, {arm}", lambda r, k=key: r["curves"][k]).items():
                steps = [new - old for old, new in itertools.pairwise(values)]
                hits, total = counts.get(seed, [0, 0])
                counts[seed] = [hits + sum(step >= -TOLERANCE for step in steps), total + len(steps)]
        return share_interval([hits for hits, _ in counts.values()], [total for _, total in counts.values()])

    def change(read, arms=("jmi τ .1", "jmi τ .5", "sdmi"), bits: int = BITS) -> Interval:
        return paired(styled(done, arms, 1.0, bits, read), styled(done, arms, 0.0, bits, read))

    def every(read) -> dict[int, float]:
        return {seed: float(np.mean([read(run) for run in runs])) for seed, runs in per_seed(done).items()}

    ceiling = bounds.uniform_sphere_dv(16, TRACKING_TEMPERATURE)
    correlation = rank_correlations(done)
    valid, right = rule(done)
    claims = [
        Claim(
            "(a) cos-DV of `jmi` rises nearly monotonically on every modality: share of steps",
            "paper",
            rises("jmi exact"),
            NEAR,
            primary=True,
        ),
        Claim("(a) the same for `sdmi`", "paper", rises("sdmi exact"), NEAR, primary=True),
        Claim(
            "(a) without its marginal term `jmi` keeps fewer dimensions than with it (effective rank)",
            "paper",
            paired(over_modalities("jmi exact", rank), over_modalities("jmi none", rank)),
            0,
            primary=True,
        ),
        Claim(
            "(a) order 2 ends as the exact term does: effective rank, ratio of logs less 1",
            "ours",
            _shift(_ratio(over_modalities("jmi order 2", rank), over_modalities("jmi exact", rank)), -1),
            0.25,
            equivalence=True,
        ),
        Claim(
            "(a) predictor without marginal term: EMA target keeps more dimensions than a gradient M-step",
            "ours",
            paired(over_modalities("sdmi predictor, EMA", rank), over_modalities("sdmi predictor, gradient", rank)),
            0,
        ),
        Claim(
            "(a) content can be read off h after `jmi`, less after `jmi` without its marginal term (linear accuracy)",
            "paper",
            paired(
                over_modalities("jmi exact", lambda r: r["end"]["linear_h"]),
                over_modalities("jmi none", lambda r: r["end"]["linear_h"]),
            ),
            0,
        ),
        Claim(
            "(b) a surviving style raises cos-DV (nats, p = 1 less p = 0, three bits)",
            "ours",
            change(PREDICTORS["cos-DV"]),
            0,
            primary=True,
        ),
        Claim(
            "(b) H2: what is added is style: I(z; style)", "ours", change(PREDICTORS["I(z; style)"]), 0, primary=True
        ),
        Claim(
            "(b) H2: and accuracy does not rise: fall of linear accuracy of z",
            "ours",
            _negative(change(lambda r: r["end"]["linear_z"])),
            -0.01,
            primary=True,
        ),
        Claim(
            "(b) H1: cos-DV is at its ceiling: cos-DV over min(ceiling of the critic, MI of the views)",
            "ours",
            mean_interval(list(_ceilings(done, ceiling).values())),
            0.9,
        ),
        Claim(
            "(b) H3: an invertible map, which leaves MI as it is, lowers kNN accuracy",
            "literature",
            paired(
                every(lambda r: r["informations"]["before"]["knn"]), every(lambda r: r["informations"]["after"]["knn"])
            ),
            0,
        ),
        Claim(
            "(b) H3: and cos-DV (nats)",
            "ours",
            paired(
                every(lambda r: r["informations"]["before"]["cos_dv"]),
                every(lambda r: r["informations"]["after"]["cos_dv"]),
            ),
            0,
        ),
        Claim(
            "(b) H4: h holds more of the content than z: I(h; content) − I(z; content) (nats)",
            "literature",
            paired(every(lambda r: r["informations"]["h"]["content"]), every(PREDICTORS["I(z; content)"])),
            0,
        ),
        Claim(
            "(b) H4: linear accuracy of h less that of z",
            "literature",
            paired(every(lambda r: r["end"]["linear_h"]), every(lambda r: r["end"]["linear_z"])),
            0,
        ),
        Claim(
            "(b) I(z; content) ranks runs by accuracy better than cos-DV does: difference of Spearman's correlations",
            "ours",
            paired(correlation["I(z; content)"], correlation["cos-DV"]),
            0,
        ),
        Claim("(b) effective rank does", "ours", paired(correlation["log effective rank"], correlation["cos-DV"]), 0),
        Claim(
            "(c) laws with skewness: slope of log error of order 2 on log τ, plus 3",
            "ours",
            _shift(slope(done, SKEWED), 3),
            0.5,
            equivalence=True,
        ),
        Claim(
            "(c) symmetric laws: that slope plus 4",
            "ours",
            _shift(slope(done, ("gaussian", "laplace")), 4),
            0.5,
            equivalence=True,
        ),
        Claim(
            "(c) order 3 is closer than order 2 for skewed laws (nats at τ = 6)", "ours", skew_gain(done, SKEWED), 0
        ),
        Claim("(c) the validity rule: of what it calls valid, order 2 is within a tenth", "ours", valid, 0.9),
        Claim("(c) the rule judges right, of all cells", "ours", right, 0.8),
        Claim(
            "(c) trained embeddings z of `jmi` are further from Gaussian than at the start: rise of skewness",
            "ours",
            paired(
                *(
                    replicates(done, "embeddings jmi", lambda r, w=w: r["gaussianity"][f"z {w}"]["skewness"])
                    for w in ("end", "start")
                )
            ),
            0,
        ),
    ]
    return Report(
        NAME,
        "The paper leaves open whether its account holds beyond images, why the highest mutual information is not "
        "the highest accuracy, and what embeddings that are not Gaussian do to its surrogates.",
        "(a) texts, sounds and pairs of renderings of one Gaussian latent, six arms, heads without batch norm. (b) "
        "content (8 values), style of B bits that survives with probability p, private nuisance, all discrete: 16 "
        f"settings; Z is read with noise σ = {RESOLUTION} of its size, so that its information is finite and "
        f"computed from the density. (c) six laws, white, D = {DIMENSION}, {PAIRS} pairs, and embeddings of trained "
        f"models. {SHORT['steps']} steps of {SHORT['batch_size']} pairs, Adam at 3e-3, seeds 0 to 4. Sizes of "
        "sources and encoders were set on seed 99 until `jmi` learned at all.",
        claims,
        "\n\n".join(
            [
                modality_table(done, modalities),
                style_table(done),
                explanations(done, correlation),
                law_table(done),
                embedding_table(done),
            ]
        ),
        lambda: draw(done, modalities, correlation),
    )


def _ceilings(done: Done, ceiling: float) -> dict[int, float]:
    shares: dict[int, list[float]] = {}
    for name, (arguments, result) in done.items():
        if name.startswith("style") and "simsiam" not in name:
            most = min(ceiling, truth_of(arguments["source"]))
            shares.setdefault(arguments["seed"], []).append(result["curves"]["mi/cos_dv"][-1] / most)
    return {seed: float(np.mean(values)) for seed, values in shares.items()}


def _ratio(first: dict[int, float], second: dict[int, float]) -> Interval:
    return mean_interval([math.log(first[s]) / math.log(second[s]) for s in set(first) & set(second) if second[s] > 1])


def _shift(x: Interval, by: float) -> Interval:
    return Interval(x.value + by, x.low + by, x.high + by, x.n)


def _negative(x: Interval) -> Interval:
    return Interval(-x.value, -x.high, -x.low, x.n)


def trained_pair(modality: str, arm: str) -> str:
    """The curve of cos-DV. With two modalities SDMI trains f of one and g of the other; the online tower of the other
    is never trained."""
    return "mi_target/cos_dv" if modality == "renderings" and arm.startswith("sdmi") else "mi/cos_dv"


def modality_table(done: Done, modalities: Sequence[str]) -> str:
    rows = []
    for modality, arm in itertools.product(modalities, ARMS):
        of = f"{modality}, {arm}"
        pair = trained_pair(modality, arm)
        keys = (pair, "mi/cos_dv_calibrated" if pair == "mi/cos_dv" else "", "rank/effective_rank")
        found = [[value for value in replicates(done, of, last(key)).values() if value is not None] for key in keys]
        cells = [mean_interval(values) for values in found]
        target = [v for v in replicates(done, of, last("rank/effective_rank_target")).values() if v is not None]
        cells.append(mean_interval(target))
        cells.append(mean_interval(list(replicates(done, of, lambda r: r["end"]["linear_h"]).values())))
        rows.append([f"{modality} ({truth_of({'name': modality}):.2f} nats)", f"`{arm}`", *cells])
    header = ["views (their MI)", "arm", "cos-DV", "calibrated", "rank of z", "rank of target", "linear accuracy of h"]
    text = (
        "`renderings` are two modalities: SDMI trains f of one and the target g of the other; their cos-DV is given "
        "(the online encoder has a tower for the other too, which no step trains; read first, and by mistake)."
    )
    return f"## (a) Other modalities\n\n{table(header, rows)}\n\n{text}"


def style_table(done: Done) -> str:
    rows = []
    reads = [
        PREDICTORS["cos-DV"],
        PREDICTORS["I(z; content)"],
        PREDICTORS["I(z; style)"],
        lambda r: r["informations"]["h"]["content"],
        lambda r: r["informations"]["h"]["style"],
        lambda r: r["end"]["linear_z"],
        lambda r: r["end"]["linear_h"],
        lambda r: r["curves"]["rank/effective_rank"][-1],
    ]
    for (p, bits), arm in itertools.product(GRID, STYLED):
        found = [replicates(done, f"style p={p:g} B={bits}, {arm}", read) for read in reads]
        if found[0]:
            truth = truth_of({"name": "factors", "bits": bits, "survival": p})
            rows.append(
                [
                    f"B = {bits}, p = {p:g}, `{arm}`",
                    f"{truth:.2f}",
                    *(mean_interval(list(one.values())) for one in found),
                ]
            )
    header = [
        "setting",
        "I(views)",
        "cos-DV",
        "I(z; content)",
        "I(z; style)",
        "I(h; content)",
        "I(h; style)",
        "linear of z",
        "linear of h",
        "rank of z",
    ]
    return "## (b) Content, shared style, noise\n\nThe content has log 8 = 2.08 nats, the style B log 2.\n\n" + table(
        header, rows
    )


def explanations(done: Done, correlation: dict[str, dict[int, float]]) -> str:
    explained = partial_r2(done)
    of_h = rank_correlations(done, "h")
    rows = [
        [
            name,
            mean_interval(list(correlation[name].values())),
            mean_interval(list(of_h[name].values())),
            explained.get(name, "–"),
        ]
        for name in PREDICTORS
    ]
    return (
        "What goes with accuracy over the 16 settings: Spearman's correlation, seed by seed, and partial R² of "
        f"linear accuracy of z among {', '.join(TOGETHER)}.\n\n"
        + table(["predictor", "with accuracy of z", "with accuracy of h", "partial R²"], rows)
    )


def law_table(done: Done) -> str:
    rows = []
    for law, tau in itertools.product(LAWS, TAUS):
        found = [r[f"{tau:g}"] for r in replicates(done, f"law {law}", lambda r: r).values()]
        if found:
            cells = [mean_interval([one["exact"] for one in found])]
            cells += [mean_interval([one["errors"][name][0] for one in found]) for name in ERRORS]
            cells += [
                mean_interval([one["parts"][name] for one in found])
                for name in ("non_gaussianity", "truncation", "isserlis", "wrong_measure")
            ]
            verdicts = f"{sum(one['rule'] for one in found)} / {sum(one['good'] for one in found)}"
            rows.append([f"{law}, τ = {tau:g}", *cells, verdicts])
    header = [
        "law",
        "exact M",
        "M − M₂",
        "M − M₃",
        "M − M_G",
        "non-Gaussianity",
        "truncation",
        "Isserlis",
        "wrong measure",
        "valid by the rule / good",
    ]
    return "## (c) Laws of one covariance\n\n" + table(header, rows)


def embedding_table(done: Done) -> str:
    rows = []
    for method, space, when in itertools.product(TRAINED, ("h", "z"), ("start", "end")):
        found = [
            r["gaussianity"][f"{space} {when}"] for r in replicates(done, f"embeddings {method}", lambda r: r).values()
        ]
        if found:
            cells = [mean_interval([one[key] for one in found]) for key in ("skewness", "kurtosis")]
            split = [one for one in found if "errors" in one]
            cells += [mean_interval([one["errors"]["second_order"][0] / one["second"] for one in split])]
            cells += [
                mean_interval([one["parts"][name] / one["second"] for one in split])
                for name in ("non_gaussianity", "truncation", "isserlis", "wrong_measure")
            ]
            rows.append([f"`{method}`, {space} at the {when}", *cells])
    header = [
        "embeddings",
        "Mardia's skewness",
        "Koziol's kurtosis (Gaussian: 1)",
        "(M − M₂) / M₂'s variance term",
        "non-Gaussianity",
        "truncation",
        "Isserlis",
        "wrong measure",
    ]
    return (
        "Embeddings of trained models, in their leading 8 directions (skewness, kurtosis) or whitened (errors, at τ = "
        "4 λ_max, as "
        "shares of the variance term of order 2):\n\n" + table(header, rows)
    )


def draw(done: Done, modalities: Sequence[str], correlation: dict[str, dict[int, float]]):
    figure, axes = drawing.panels(2, 3, 4.2, 3.4)
    for axis, modality in zip(axes[0], modalities):
        for i, arm in enumerate(ARMS):
            found = [r["curves"] for r in replicates(done, f"{modality}, {arm}", lambda r: r).values()]
            if found:
                drawing.curve(axis, found[0]["step"], [one[trained_pair(modality, arm)] for one in found], i, arm)
        axis.set(title=f"(a) {modality}: cos-DV (nats)", xlabel="step")
    left, middle, right = axes[1]
    for i, name in enumerate(("I(z; content)", "I(z; style)", "cos-DV")):
        values = [
            mean_interval(list(styled(done, ("jmi τ .1", "jmi τ .5", "sdmi"), p, BITS, PREDICTORS[name]).values()))
            for p in SURVIVAL
        ]
        errors = [[max(0, v.value - v.low) for v in values], [max(0, v.high - v.value) for v in values]]
        if all(math.isfinite(v.low) for v in values):
            left.errorbar(
                SURVIVAL,
                [v.value for v in values],
                errors,
                fmt=drawing.MARKERS[i] + "-",
                color=drawing.COLOURS[i],
                capsize=3,
            )
        left.plot([], [], drawing.MARKERS[i] + "-", color=drawing.COLOURS[i], label=name)
    accuracy = [
        mean_interval(
            list(styled(done, ("jmi τ .1", "jmi τ .5", "sdmi"), p, BITS, lambda r: r["end"]["linear_z"]).values())
        )
        for p in SURVIVAL
    ]
    left.plot(
        SURVIVAL, [a.value for a in accuracy], "D:", color=drawing.COLOURS[3], label="linear accuracy of z (share)"
    )
    left.set(title="(b) style of three bits:\nnats, and accuracy", xlabel="probability p that style survives")
    drawing.points(middle, {name: mean_interval(list(found.values())) for name, found in correlation.items()})
    middle.set(title="(b) rank correlation\nwith linear accuracy of z")
    for i, law in enumerate(LAWS):
        found = [r for r in replicates(done, f"law {law}", lambda r: r).values()]
        if found:
            errors = [np.mean([abs(one[f"{t:g}"]["errors"]["second_order"][0]) for one in found]) for t in TAUS]
            right.plot(
                TAUS, errors, drawing.MARKERS[i] + drawing.STYLES[i % 4], color=drawing.COLOURS[i], label=f"(c) {law}"
            )
    right.set(xscale="log", yscale="log", title="(c) |M − M₂| (nats)", xlabel="τ / λ_max(Σ)")
    right.minorticks_off()
    right.set_xticks(TAUS, [f"{t:g}" for t in TAUS])
    drawing.legend(figure, axes)
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
