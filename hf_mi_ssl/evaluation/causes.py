"""The likely cause of an alarm, read off the columns of the row, and the way out of it."""

from collections.abc import Iterator

from ..configuration import MISSLConfig

# Marginal terms that act on single dimensions, or on no spread at all: embeddings of rank 1 satisfy them.
_ONE_BY_ONE = {"variance", "first_order", "zeroth_order"}


def likely_cause(kind: str, config: MISSLConfig, steps: int) -> str:
    """The most likely cause of an alarm of that kind in this row, and what to change, most telling first."""
    return next(_CAUSES[kind](config, steps))


def collapse_risks(config: MISSLConfig, steps: int) -> Iterator[str]:
    """What in the columns of a row lets embeddings collapse in a run of so many steps, and what to change."""

    def get(column: str):
        return getattr(config, column, None)  # columns that only SDMI has

    marginal, free = _marginal_of(config)
    predictor = get("predictor_hidden_size") is not None
    if free and not predictor:
        branch = get("target") is not None
        missing = " and there is no predictor" if branch else ""
        more = ", or predictor_hidden_size with target=reset or ema" if branch else ""
        yield f"nothing keeps embeddings apart: no marginal term has a weight{missing}. Set one (marginal={{…}}){more}"
    if free and get("target") == "gradient":
        yield "the target ascends J alone and meets the prediction. Set target=ema, or a marginal term"
    if get("target") == "ema" and free and get("target_momentum") < 0.5:
        yield f"target_momentum={get('target_momentum'):g} makes the target follow at once. Set it to 0.99"
    yield from _slow_target(config, steps)
    if free and not (config.projector_output_norm or config.projector_hidden_norm):
        yield "the projector has no batch norm. Set projector_output_norm=true"
    if free and get("predictor_schedule") == "cosine" and get("target") == "reset":
        yield "the predictor is too slow for a target at its heels. Set predictor_schedule=constant"
    if set(marginal) <= _ONE_BY_ONE and marginal:
        yield (
            f"the marginal terms ({', '.join(marginal)}) let dimensions repeat one another. "
            f"Add a term of second order (covariance, second_order)"
        )
    yield from temperature_risks(config)


def _collapse(config: MISSLConfig, steps: int) -> Iterator[str]:
    marginal, free = _marginal_of(config)
    yield from collapse_risks(config, steps)
    if free:
        yield "the predictor is too slow or too narrow. Raise predictor_hidden_size or lower --learning_rate"
    if not marginal:
        yield "a whitening of too few images for their dimensions. Raise the batch size or lower projection_size"
    weights = ", ".join(f"{name}={weight:g}" for name, weight in marginal.items())
    yield f"too little weight on the marginal ({weights}) or too large steps. Raise it, or lower --learning_rate"


def _marginal_of(config: MISSLConfig) -> tuple[dict[str, float], bool]:
    """The marginal terms that have a weight, and whether nothing in J − M keeps embeddings apart."""
    marginal = {name: weight for name, weight in config.marginal.items() if weight}
    return marginal, not marginal and "whitened" not in config.critic


def _slow_target(config: MISSLConfig, steps: int) -> Iterator[str]:
    momentum = getattr(config, "target_momentum", 0)
    if getattr(config, "target", None) == "ema" and (1 - momentum) * steps < 1:
        yield (
            f"target_momentum={momentum:g} hardly moves the target in {steps:,} steps. "
            f"Set it to {max(0.0, 1 - 10 / steps):.3g} or less"
        )


def temperature_risks(config: MISSLConfig) -> Iterator[str]:
    """What is wrong with a temperature of cosines, if anything, and what to change."""
    if config.critic in ("cosine", "normalized_l2") and config.temperature > 2:
        yield (
            f"with temperature={config.temperature:g} scores differ by at most "
            f"{2 / config.temperature:.2g}. Set it to 0.2"
        )
    if config.critic in ("cosine", "normalized_l2") and config.temperature < 0.03:
        yield (f"temperature={config.temperature:g} makes scores that only the hardest negatives enter. Set it to 0.1")


def _learns_nothing(config: MISSLConfig, steps: int) -> Iterator[str]:
    yield from temperature_risks(config)
    yield from _slow_target(config, steps)
    yield (
        "steps too small or too large, or views that share nothing. "
        "Change --learning_rate, look at the views, or use weaker ones (--views)"
    )


def _diverges(config: MISSLConfig, steps: int) -> Iterator[str]:
    yield from (cause for cause in temperature_risks(config) if config.temperature < 1)
    yield "too large steps. Lower --learning_rate, or set --max_grad_norm and --warmup_epochs"


def _runs_away(config: MISSLConfig, steps: int) -> Iterator[str]:
    norm = "" if config.projector_output_norm else ", or set projector_output_norm=true"
    yield f"too large steps for norms that nothing bounds. Lower --learning_rate, set --max_grad_norm{norm}"


def _is_cone(config: MISSLConfig, steps: int) -> Iterator[str]:
    norm = "" if config.projector_output_norm else ", or set projector_output_norm=true"
    yield f"No collapse: read the calibrated estimates, which do not depend on it{norm}"


def _is_capped(config: MISSLConfig, steps: int) -> Iterator[str]:
    yield "No fault of the run: more held-out images raise the ceiling, log n"


_CAUSES = {
    "complete_collapse": _collapse,
    "dimensional_collapse": _collapse,
    "information_loss": _collapse,
    "pinned": _learns_nothing,
    "stagnant": _learns_nothing,
    "outliers": _runs_away,
    "diverging": _diverges,
    "cone": _is_cone,
    "ceiling_reached": _is_capped,
}
