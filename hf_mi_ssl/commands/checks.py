"""The checks of `hf-mi-ssl doctor` that need no step: each looks at one thing and says what it found.

Limits are those that published settings keep (`recipes/configs/`), or that a derivation gives; none is measured here.
"""

import math
from collections.abc import Iterator

import torch
from torch import nn

from ..evaluation.causes import collapse_risks, temperature_risks
from ..mi import MARGINAL_TERMS
from ..mi.bounds import uniform_sphere_dv
from .subject import Finding, Subject, disk

_COVARIANCES = {"redundancy", "covariance", "log_det", "gaussian"}
_ON_SPHERE = ("cosine", "normalized_l2")  # T lies in an interval of length 2/τ
_LEAST_STATISTICS = 16  # images
# Learning rates of published settings: per 256 images where it is scaled with the batch, else as it is
_RATES = {"lars": (0.1, 1.0), "adam": (1e-5, 1e-2), "sgd": (0.01, 0.6)}
_LARGE_BATCH = 1024  # images


def batch_norm(s: Subject) -> Finding:
    group, n, check = s.config.batch_norm_group_size, s.plan.at_once, "batch norm"
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in s.model.modules()):
        return Finding(check, "ok", "the model has none")
    if group:
        text = f"statistics of groups of {group} images, the same on any number of processes"
    else:
        text = f"statistics of {n} images, the whole batch of all processes"
    if (seen := group or n) < _LEAST_STATISTICS:
        way = "raise batch_norm_group_size" if group else "raise --per_device_train_batch_size"
        return Finding(check, "error" if seen < 4 else "warning", f"{text}: too few to be statistics", way)
    if s.plan.global_batch > n and not group:
        text = f"{text}, while a loss compares {s.plan.global_batch}"
        return Finding(check, "warning", text, "--set batch_norm_group_size=… makes parts equal one piece")
    return Finding(check, "ok", text)


def images_per_epoch(s: Subject) -> Finding:
    n, batch = s.plan.num_images, s.plan.global_batch
    if n is None:
        return Finding("drop last", "ok", "a stream leaves none out")
    text = f"{n:,} images are {n // batch:,} batches of {batch:,}; {n % batch:,} are left out, others each epoch"
    if n % batch > 0.1 * n:
        return Finding("drop last", "warning", text, "choose a batch that divides the images better, or a smaller one")
    return Finding("drop last", "ok", text)


def queue(s: Subject) -> Finding:
    size, n, batch = getattr(s.config, "queue_size", None), s.plan.num_images, s.plan.global_batch
    if size is None:
        return Finding("queue", "ok", "the row has none")
    text = f"{size:,} embeddings are {size / batch:.3g} batches"
    text = text if n is None else f"{text} and {size / n:.2g} of the images"
    if n is not None and size > n / 4:
        way = f"lower it, e.g. --set queue_size={max(1, n // 4)}"
        return Finding("queue", "error" if size >= n else "warning", f"{text}: it holds images of the batch", way)
    if size < batch:
        return Finding("queue", "warning", f"{text}: it forgets a part of each batch", "raise queue_size")
    return Finding("queue", "ok", f"{text}; any batch fits, whether or not it divides the queue")


def temperature(s: Subject) -> Finding:
    tau, size, batch = s.config.temperature, s.config.projection_size, s.plan.global_batch
    if s.config.critic not in _ON_SPHERE:
        return Finding("temperature", "ok", f"scores of {s.config.critic} have no ceiling that τ = {tau:g} sets")
    text = (
        f"at τ = {tau:g} and D = {size} the critic can show {uniform_sphere_dv(size, tau):.2f} nats, "
        f"a batch of {batch:,} certify ln N = {math.log(batch):.2f}"
    )
    for risk in temperature_risks(s.config):
        return Finding("temperature", "warning", f"{text}; {_split(risk)[0]}", _split(risk)[1])
    return Finding("temperature", "ok", text)


def learning_rate(s: Subject) -> Finding:
    rate, images, name = s.args.learning_rate, s.plan.images_per_step, s.args.optimizer.lower()
    kind = next((kind for kind, names in _KINDS.items() if any(part in name for part in names)), None)
    if kind is None:
        return Finding("learning rate", "ok", f"{rate:g} with {name}, which no published setting here has")
    low, high = _RATES[kind]
    scaled = rate if kind == "adam" else rate * 256 / images
    text = f"{rate:g} with {name}" + ("" if kind == "adam" else f" is {scaled:.3g} for each 256 of {images:,} images")
    if low <= scaled <= high:
        return Finding("learning rate", "ok", text)
    suggested = (low * high) ** 0.5 * (1 if kind == "adam" else images / 256)
    text = f"{text}; published settings lie between {low:g} and {high:g}"
    return Finding("learning rate", "warning", text, f"--learning_rate {suggested:.2g}, say, or another --optimizer")


_KINDS = {
    "lars": ("lars", "larc"),
    "sgd": ("sgd", "momentum", "nesterov"),
    "adam": ("adam", "lamb", "lion", "adan", "adopt", "nadam"),
}


def layer_groups(s: Subject) -> Finding:
    layered = any(part in s.args.optimizer.lower() for part in ("lars", "larc", "lamb"))
    sizes = {True: 0, False: 0}
    for group in s.optimizer.param_groups:
        sizes[group["decays"]] += sum(parameter.numel() for parameter in group["params"])
    adapts = " and adapt their rate" if layered else ""
    text = f"{sizes[True]:,} weights decay{adapts}; {sizes[False]:,} of norms and biases do not"
    if layered and s.plan.images_per_step < 256:
        return Finding(
            "layer groups",
            "warning",
            f"{text}; layer-wise rates are for large batches, this one has {s.plan.images_per_step} images",
            "--optimizer momentum or adamw",
        )
    if layered and s.args.weight_decay > 1e-3:
        text = f"{text}; --weight_decay {s.args.weight_decay:g} enters the layers' rates"
        return Finding("layer groups", "warning", text, "published: about 1e-6")
    return Finding("layer groups", "ok", text)


def covariances(s: Subject) -> Finding:
    n, size, check = s.plan.global_batch, s.config.projection_size, "covariances"
    used = sorted(_COVARIANCES & {name for name, weight in s.config.marginal.items() if weight})
    if s.config.critic == "whitened_cosine":
        used.append("whitening")
    if not used:
        return Finding(check, "ok", "no term of the row needs one")
    text = f"{', '.join(used)}: a covariance of {size} × {size} from {n:,} images, an entry ± {n**-0.5:.1g}"
    if n > size:
        return Finding(check, "ok", text)
    text = f"{text}, of rank {n - 1} at most"
    way = f"raise the batch above {size}, or --set projection_size={2 ** int(math.log2(n) - 1)}"
    if "whitening" in used:
        return Finding(check, "error", f"{text}: what is not there cannot be whitened", way)
    if "log_det" in used or "gaussian" in used:
        return Finding(check, "warning", f"{text}: its determinant is that of what is added to it", way)
    if n < size / 8:
        return Finding(check, "warning", f"{text}: off its diagonal is mostly noise", way)
    return Finding(check, "ok", f"{text}, as published settings have it")


def views(s: Subject) -> Finding:
    args, size = s.args, s.args.image_size
    pixels = 2 + args.local_views * ((args.local_view_size or 0) / size) ** 2
    text = f"2 of {size} pixels"
    text += (
        f" and {args.local_views} of {args.local_view_size}, the pixels of {pixels:.3g}" if args.local_views else ""
    )
    if args.local_views and args.local_view_size >= size:
        return Finding("views", "warning", f"{text}: local ones are not smaller", "lower --local_view_size")
    encoder = s.model.encoder
    with torch.no_grad():
        encoder.eval()
        shape = encoder(torch.zeros(1, 3, size, size, device=encoder.device)).last_hidden_state.shape
        encoder.train()
    if len(shape) == 4 and shape[-1] < 2:
        way = "an encoder with a smaller stem (mi_resnet18), or a larger --image_size"
        return Finding("views", "warning", f"{text}: the encoder leaves one position of them", way)
    return Finding("views", "ok", text)


def collapse(s: Subject) -> Finding:
    risks = [risk for risk in collapse_risks(s.config, s.plan.steps) if risk not in set(temperature_risks(s.config))]
    others = [name for name in s.config.marginal if not MARGINAL_TERMS[name].__module__.startswith("hf_mi_ssl.")]
    if not risks and others:
        return Finding("collapse", "ok", f"whether {', '.join(others)} keeps embeddings apart, its author knows")
    if not risks:
        keeps = "a marginal term" if s.config.marginal else "whitening or a predictor"
        return Finding("collapse", "ok", f"{keeps} keeps embeddings apart")
    text, way = _split(risks[0])
    return Finding("collapse", "error" if text.startswith("nothing keeps") else "warning", text, way)


def target(s: Subject) -> Finding:
    kind, steps = getattr(s.config, "target", None), s.plan.steps
    if kind != "ema":
        said = {"reset": "the online branch at every step", "gradient": "a branch with steps of its own"}
        return Finding("target", "ok", said.get(kind, "none: the encoder is shared"))
    momentum = s.config.target_momentum
    half = math.log(2) / -math.log(momentum) if 0 < momentum < 1 else (0.0 if momentum == 0 else math.inf)
    text = f"momentum {momentum:g} forgets half in {half:,.0f} of {steps:,} steps"
    if half > steps / 5:
        way = f"--set target_momentum={max(0.0, 1 - 10 / steps):.3g}"
        return Finding("target", "warning", f"{text}: it hardly moves", way)
    return Finding("target", "ok", text)


def warm_up(s: Subject) -> Finding:
    asked = round(s.args.warmup_epochs * s.plan.steps_per_epoch)
    text = f"{s.plan.warmup_steps:,} of {s.plan.steps:,} steps"
    if s.plan.warmup_steps > 0.2 * s.plan.steps:
        text = f"{text}, cut from {asked:,}" if asked > s.plan.warmup_steps else text
        epochs = 0.05 * s.plan.epoch(s.plan.steps)
        return Finding("warm-up", "warning", f"{text}: little is left to train", f"--warmup_epochs {epochs:.2g}")
    if asked == 0 and s.plan.images_per_step >= _LARGE_BATCH:
        return Finding("warm-up", "warning", f"{text}, at {s.plan.images_per_step:,} images", "--warmup_epochs 10")
    return Finding("warm-up", "ok", text)


CHECKS = (images_per_epoch, batch_norm, queue, temperature, learning_rate, layer_groups, covariances, views,
          collapse, target, warm_up, disk)  # fmt: skip


def examine(subject: Subject) -> Iterator[Finding]:
    """What every check that needs no step finds."""
    for check in CHECKS:
        yield check(subject)


def _split(cause: str) -> tuple[str, str]:
    """A cause, and the way out that its last sentence is."""
    text, _, way = cause.partition(". ")
    return text, way
