"""The row that a checkpoint was trained with, its coefficients in our convention.

Every publisher weighs the same terms in its own way. A translation maps a publisher's hyper-parameters to the columns
in which the row differs, so that −(J − M) of the row is the publisher's loss up to a constant.
"""

from collections.abc import Callable

from ...configuration import JMIConfig, SDMIConfig
from ...errors import UserError
from ...methods import get_method


def _vicreg(half: float) -> Callable[[dict], dict]:
    """`half`: what the publisher's variance term is to ours, ½ Σ_z mean_k max(0, 1 − std z_k)."""

    def columns(given: dict) -> dict:
        joint = {"negative_mse": given.get("sim_loss_weight", 25.0)}
        variance = half * given.get("var_loss_weight", 25.0)
        return {"joint": joint, "marginal": {"variance": variance, "covariance": given.get("cov_loss_weight", 1.0)}}

    return columns


def _barlow_twins(weight: float, scale: float) -> Callable[[dict], dict]:
    """`scale` multiplies the whole loss, `weight` its redundancy; both are defaults."""

    def columns(given: dict) -> dict:
        factor = given.get("scale_loss", scale)
        return {"joint": {"invariance": factor}, "marginal": {"redundancy": factor * given.get("lamb", weight)}}

    return columns


def _moco_v3(given: dict) -> dict:
    """The loss is twice the temperature times a cross-entropy, for each order of the views: ours averages the orders,
    hence 4τ."""
    temperature = given.get("temperature", 1.0)
    weight = 4 * temperature
    return {"temperature": temperature, "joint": {"expected_score": weight}, "marginal": {"info_nce": weight}}


def _temperature(default: float) -> Callable[[dict], dict]:
    return lambda given: {"temperature": given.get("temperature", default)}


def _queue(given: dict) -> dict:
    return _temperature(0.2)(given) | {"queue_size": given.get("queue_size", 65536)}


def _ema(translate: Callable[[dict], dict]) -> Callable[[dict], dict]:
    """With solo-learn's momentum of the target, which follows a cosine as ours does (solo/methods/base.py,
    solo/utils/momentum.py; `…_momentum` before it had sections)."""

    def columns(given: dict) -> dict:
        first, last = (given.get(f"{end}_tau", given.get(f"{end}_tau_momentum")) for end in ("base", "final"))
        momentum = {"target_momentum": 0.99 if first is None else first}
        return translate(given) | momentum | {"target_momentum_end": 1.0 if last is None else last}

    return columns


def _dino(given: dict) -> dict:
    """The target's temperature is that after its warm-up."""
    return {
        "temperature": given.get("student_temperature", 0.1),
        "target_temperature": given.get("teacher_temperature", 0.07),
        "num_prototypes": given.get("num_prototypes", 65536),
    }


def _swav(given: dict) -> dict:
    """The codes of a batch: solo-learn's queue of embeddings, from epoch 15 on, has no column."""
    codes = {"target_temperature": given.get("sk_epsilon", 0.05), "num_prototypes": given.get("num_prototypes", 3000)}
    return _temperature(0.1)(given) | codes


# By source, for checkpoints without hyper-parameters: what the publisher's own scripts set.
PUBLISHED: dict[str, Callable[[dict], dict]] = {
    "simsiam": lambda given: {},
    "moco_v1": lambda given: {"temperature": 0.07},  # facebookresearch/moco, main_moco.py
    "moco_v2": _temperature(0.2),  # its README: --moco-t 0.2
    "moco_v3": _moco_v3,
    "moco_v3_vit": lambda given: _moco_v3({"temperature": 0.2}),  # facebookresearch/moco-v3, CONFIG.md: --moco-t=.2
    "barlow_twins": _barlow_twins(0.0051, 1.0),  # facebookresearch/barlowtwins, main.py
    "vicreg": _vicreg(1.0),  # facebookresearch/vicreg, main_vicreg.py has the ½ as well
}
# By `method` of solo-learn's args.json: the row, and its coefficients from `method_kwargs`.
SOLO_LEARN: dict[str, tuple[str, Callable[[dict], dict]]] = {
    "vicreg": ("vicreg", _vicreg(2.0)),  # solo/losses/vicreg.py: no ½
    "barlow_twins": ("barlow_twins", _barlow_twins(0.0051, 0.024)),  # solo/methods/barlow_twins.py
    "simsiam": ("simsiam", lambda given: {}),
    "byol": ("byol", _ema(lambda given: {})),
    "simclr": ("simclr", _temperature(0.1)),
    "mocov2plus": ("moco_v2", _ema(lambda given: _queue(given) | {"symmetric": True})),
    "mocov3": ("moco_v3", _ema(_moco_v3)),
    "nnclr": ("nnclr", _queue),
    "dino": ("dino", _ema(_dino)),  # solo/methods/dino.py, solo/losses/dino.py: the mean of both orders, as ours
    "swav": ("swav", _swav),  # solo/methods/swav.py, solo/losses/swav.py: likewise
    # solo/losses/wmse.py: 2 − 2 cos, the gradient of the first view only; whitened in parts, in ours as a whole
    "wmse": ("w_mse", lambda given: {}),
}


def implied_row(source: str, method: str | None, heads: dict, arguments: dict) -> dict | None:
    """`{"method": …, "set": columns}` as a pre-training recipe reads it; None where the source implies no row.

    Args:
        source: the name of the source.
        method: the row that the source implies by itself.
        heads: the columns that the weights show.
        arguments: solo-learn's args.json, or empty.

    Raises:
        UserError: for coefficients that are no columns of the row.
    """
    if source == "solo_learn":
        if str(arguments.get("method")) not in SOLO_LEARN:
            return None
        method, translate = SOLO_LEARN[arguments["method"]]
        # Before it had a configuration of sections, hyper-parameters lay beside the method.
        sections = [arguments.get(name) for name in ("momentum", "method_kwargs")]
        given = dict(arguments)
        for section in sections:
            given |= section if isinstance(section, dict) else {}
    elif method is not None:
        translate, given = PUBLISHED[source], {}
    else:
        return None
    row = get_method(method)
    config = {"jmi": JMIConfig, "sdmi": SDMIConfig}[row.paradigm]
    try:
        columns = heads | translate(given)
        columns = {name: value for name, value in columns.items() if name in config.columns()}
        config.from_method(method, **columns)
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"args.json: the coefficients of {method} are no numbers: {error}") from error
    usual = config.from_method(method)
    return {
        "method": method,
        "set": {name: value for name, value in columns.items() if getattr(usual, name) != value},
    }
