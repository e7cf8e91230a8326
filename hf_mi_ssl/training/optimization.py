"""Optimisers of timm, and the schedules as pure functions of the step, so that there is no schedule to save."""

import inspect
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from ..errors import UserError, first_line, unknown
from .arguments import PretrainingArguments
from .plan import Plan
from .trees import split

_OF_GROUPS = ("decays", "always_adapt", "constant_learning_rate", "frozen_epochs")  # what groups here carry

# Those of torch under the names and with the defaults of timm, which takes longer to import than a first step
_OF_TORCH = {
    "adamw": (torch.optim.AdamW, {}),
    "adam": (torch.optim.Adam, {}),
    "sgd": (torch.optim.SGD, {"nesterov": True}),
    "nesterov": (torch.optim.SGD, {"nesterov": True}),
    "momentum": (torch.optim.SGD, {"nesterov": False}),
}


def build_optimizer(model: nn.Module, args: PretrainingArguments) -> torch.optim.Optimizer:
    """An optimiser of timm over what learns in `model`, in groups that carry what `set_schedules` reads.

    Matrices and filters decay, and LARS (arXiv 1708.03888) and LAMB adapt their rates; norms and biases neither.
    The predictor's learning rate is constant where the row's `predictor_schedule` says so (SimSiam, arXiv 2011.10566
    §4.2). Parameters named `prototypes` stay as they are for the first `freeze_prototypes_epochs`.

    Updates are fused, all parameters in one kernel, where the optimiser has such a form.

    Raises:
        UserError: if timm has no optimiser of that name, it cannot be used here, or there are no prototypes to freeze.
    """
    build, settings = _by_name(args.optimizer, args.momentum)
    settings |= {"lr": args.learning_rate, "weight_decay": args.weight_decay}
    keeps_rate = getattr(getattr(model, "config", None), "predictor_schedule", "cosine") == "constant"
    groups: dict[tuple[bool, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            group = (keeps_rate and name.startswith("predictor."), "prototypes" in name, parameter.ndim > 1)
            groups.setdefault(group, []).append(parameter)
    if args.freeze_prototypes_epochs and not any(prototypes for _, prototypes, _ in groups):
        raise UserError("--freeze_prototypes_epochs: this method has no prototypes; leave the flag out")
    _try_out(args.optimizer, build, settings)
    return build(
        [
            {
                "params": parameters,
                "decays": decays,
                "weight_decay": args.weight_decay if decays else 0.0,
                "always_adapt": decays,  # without it timm's LARS is SGD, and its LAMB Adam, where nothing decays
                "constant_learning_rate": constant,
                "frozen_epochs": args.freeze_prototypes_epochs if prototypes else 0.0,
            }
            for (constant, prototypes, decays), parameters in groups.items()
        ],
        **settings,
    )


def _by_name(name: str, momentum: float) -> tuple[Callable[..., torch.optim.Optimizer], dict]:
    """What builds that optimiser of timm of parameters, and how it is set."""
    settings = {"momentum": momentum}
    if name.lower() in _OF_TORCH:
        kind, defaults = _OF_TORCH[name.lower()]
        build, settings = kind, (settings if kind is torch.optim.SGD else {}) | defaults
    else:
        from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers

        # Others, by the name of a class, are of libraries that are not installed or that want a GPU of their own kind
        known = [one for one in list_optimizers() if not isinstance(get_optimizer_info(one).opt_class, str)]
        if name.lower() not in known:
            raise unknown("optimizer", name, known)
        info = get_optimizer_info(name.lower())
        kind, defaults, build = info.opt_class, info.defaults or {}, partial(create_optimizer_v2, opt=name)
    if defaults.get("nesterov") and not momentum:
        settings["nesterov"] = False  # without momentum there is nothing to look ahead with, and torch refuses
    fused = {"fused": True} if "fused" in inspect.signature(kind).parameters else {}
    return build, settings | fused


def _try_out(name: str, build: Callable[..., torch.optim.Optimizer], settings: dict) -> None:
    """Build it, take a step of it and save it, before training: some need more than gradients, a compiler say, and
    some keep what no checkpoint can hold. Raises UserError."""
    parameter = nn.Parameter(torch.zeros(2, 2))
    parameter.grad = torch.zeros(2, 2)
    try:
        optimizer = build([parameter], **settings)
        optimizer.step()
        split(optimizer.state_dict(), "", {})
    except Exception as error:  # each has its own way of failing
        reason = first_line(error)
        raise UserError(f"--optimizer {name} cannot be used here ({reason}): choose another, e.g. adamw") from error


def check_state(optimizer: torch.optim.Optimizer, saved: dict) -> None:
    """Compare a state dict, which anybody may have written, with what this optimiser, which is still to take its first
    step, has after one: kernels that update all parameters at once do not look at shapes.

    Raises:
        ValueError: if it is not a state of this optimiser, in one line.
    """
    wanted, ids = _state_after_one_step(optimizer), []
    # What it was built with is the same in both; lr and weight_decay follow the schedule, the others are of a device.
    built = {*inspect.signature(type(optimizer)).parameters, *_OF_GROUPS} - {"lr", "weight_decay", "fused", "foreach"}
    for number, (group, theirs) in enumerate(zip(optimizer.param_groups, saved["param_groups"], strict=True)):
        for key, value in group.items():
            allowed = (type(value), bool, type(None)) if key in ("fused", "foreach") else (type(value),)  # of a device
            wrong = value is not None and type(theirs[key]) not in allowed
            if key != "params" and (wrong or (key in built and theirs[key] != value)):
                raise ValueError(f"{key} of the optimizer is {str(theirs[key])[:20]!r}")
        for parameter, index in zip(group["params"], theirs["params"], strict=True):
            ids.append(index)
            if averages := saved["state"].get(index, {}):
                kept = wanted.get((number, parameter.shape), {})
                for key in averages.keys() | kept.keys():
                    found = _kinds(averages.get(key))
                    if found != kept[key] if key in kept else not _plausible(found, parameter):
                        raise ValueError(f"{key} of the optimizer is {str(found)[:60]}, not {kept.get(key)}")
    if saved["state"].keys() - set(ids):
        raise ValueError("the optimizer has averages of no parameter")


def _state_after_one_step(optimizer: torch.optim.Optimizer) -> dict[tuple[int, torch.Size], dict]:
    """The kinds of what is kept of a parameter, by the number of its group and its shape. The step is taken on
    stand-ins; what it leaves in the optimiser is replaced by the state that is loaded."""
    kept, order = [dict(group) for group in optimizer.param_groups], []
    for number, group in enumerate(optimizer.param_groups):
        alike = {parameter.shape: nn.Parameter(torch.zeros_like(parameter)) for parameter in group["params"]}
        group["params"] = list(alike.values())
        for shape, stand_in in alike.items():
            stand_in.grad = torch.zeros_like(stand_in)
            order.append((number, shape))
    try:
        optimizer.step()
        state = optimizer.state_dict()["state"]
    except (RuntimeError, KeyError):  # of one that needs more than parameters and gradients, nothing is known
        state = {}
    for group, before in zip(optimizer.param_groups, kept):
        group.clear()
        group.update(before)
    return {order[i]: {key: _kinds(value) for key, value in averages.items()} for i, averages in state.items()}


def _kinds(value):
    """What can be told of a value without its numbers: type and shape of a tensor, the type of anything else."""
    if isinstance(value, list | tuple):
        return [_kinds(inner) for inner in value]
    return (value.dtype, tuple(value.shape)) if isinstance(value, torch.Tensor) else type(value)


def _plausible(kind, parameter: nn.Parameter) -> bool:
    """Whether averages of that kind may belong to a parameter, where one step does not show which there are."""
    numbers = [(parameter.dtype, tuple(parameter.shape)), *((torch.float32, shape) for shape in ((), (1,)))]
    return kind in (*numbers, int, float, bool, type(None))


def set_schedules(optimizer: torch.optim.Optimizer, plan: Plan, step: int) -> float:
    """Give every group its learning rate and weight decay at `step` of 0 … plan.steps − 1.

    Returns the scheduled learning rate: a warm-up, then a cosine to 0. Constant groups keep the peak, frozen ones
    have 0. Weight decay follows a cosine to `weight_decay_end` if there is one (DINO, arXiv 2104.14294 §3.2).
    """
    args = plan.args
    learning_rate = args.learning_rate * cosine_with_warmup(step, plan.steps, plan.warmup_steps)
    end = args.weight_decay if args.weight_decay_end is None else args.weight_decay_end
    weight_decay = cosine_schedule(step, plan.steps, args.weight_decay, end)
    for group in optimizer.param_groups:
        frozen = step < group["frozen_epochs"] * plan.steps_per_epoch
        group["lr"] = 0.0 if frozen else args.learning_rate if group["constant_learning_rate"] else learning_rate
        group["weight_decay"] = weight_decay if group["decays"] else 0.0
    return learning_rate


def cosine_with_warmup(step: int, total_steps: int, warmup_steps: int) -> float:
    """The factor on the learning rate at `step` of 0 … total_steps − 1: linear warm-up, then a cosine to 0."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return cosine_schedule(step - warmup_steps, max(1, total_steps - warmup_steps), 1.0, 0.0)


def cosine_schedule(step: int, total_steps: int, initial: float, final: float) -> float:
    """From `initial` to `final` along half a cosine; two equal values are a constant."""
    return final - (final - initial) * 0.5 * (1 + math.cos(math.pi * step / total_steps))
