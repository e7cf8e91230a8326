"""Some steps of a run, as the recipe takes them: what they cost in time and memory."""

import copy
import os
import tempfile
import time
from dataclasses import dataclass
from statistics import fmean

import torch

from ..data import Part, training_batches
from ..distributed import globalize_batch_norm
from ..encoders import checkpoint_activations, load_encoder
from ..evaluation import Evaluation
from ..training import (
    Plan,
    PretrainingArguments,
    Updates,
    build_accelerator,
    build_optimizer,
    build_seeded,
    forward_backward,
    seed_everything,
    set_schedules,
)
from ..views import RandomViews, view_recipes
from .subject import Finding, size_of

STEPS = 10


@dataclass(frozen=True)
class Trial:
    """What the steps took: seconds of each and of an evaluation, the share of them that waited for images, bytes at
    the peak, and in all."""

    seconds: list[float]
    evaluation: float
    waiting: float
    peak: int
    available: int


def try_steps(
    args: PretrainingArguments, plan: Plan, train: Part, held: Part, model_class, config, steps: int = STEPS
) -> Trial:
    """Take one step to measure memory, `steps` to measure time, on this process's share of the batches, and one
    evaluation."""
    with tempfile.TemporaryDirectory() as scratch:
        own = copy.copy(args)
        own.output_dir, own.report_to, own.resume_from_checkpoint = scratch, "none", None
        accelerator = build_accelerator(own, branches_take_turns=getattr(config, "target", None) == "gradient")
    model = globalize_batch_norm(build_seeded(args.seed, model_class, config))
    if args.init_from:
        model.start_from(load_encoder(args.init_from))
    model.check_images(args.image_size, args.local_view_size, args.per_device_train_batch_size)
    if args.gradient_checkpointing:
        for branch, _ in model.branches.values():
            checkpoint_activations(branch)
    takes_turns = hasattr(model, "phases_at")  # SDMI
    network, optimizer = accelerator.prepare(model, build_optimizer(model, args))
    recipes = view_recipes(args.views, args.image_size)
    views = RandomViews(recipes, args.seed, args.local_views, args.local_view_size, args.views_batch_size)
    updates = Updates(accelerator, model, optimizer, args.max_grad_norm)
    count = (1 + steps) * plan.accumulation
    batches = training_batches(train, range(count), plan.global_batch, args.seed, 0, plan.num_processes)

    def step(number: int) -> float:
        seed_everything(args.seed, number)
        set_schedules(optimizer, plan, min(number, plan.steps - 1))
        started = time.perf_counter()
        taken = list(plan.take(batches))
        waited, pairs = time.perf_counter() - started, views.of_step(taken)
        for phase in model.phases_at(number) if takes_turns else model.phases:
            updates.begin()
            for pair in pairs:
                with accelerator.accumulate(network):
                    outputs = forward_backward(accelerator, network, pair, args.per_device_train_batch_size, phase)
                    updates.step(outputs.loss)
        if takes_turns:
            model.update_target()
        if accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        return waited

    peak = _peak(accelerator.device, model, optimizer, lambda: step(0))
    seconds, waited = [], []
    for number in range(1, 1 + steps):
        started = time.perf_counter()
        waited.append(step(number))
        seconds.append(time.perf_counter() - started)
    evaluation, started = Evaluation(train, held, recipes, args.seed), time.perf_counter()
    evaluation.track(model.branches)
    evaluating = time.perf_counter() - started
    return Trial(seconds, evaluating, fmean(waited) / fmean(seconds), peak, _available(accelerator.device))


def _peak(device: torch.device, model, optimizer, step) -> int:
    """Bytes that a step needs: on a GPU those allocated; elsewhere those of the weights, gradients, averages, and of
    what the forward passes keep for the backward ones."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated()
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # not the tensor itself, which would hold its own graph

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step()
    averages = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    held = [*model.parameters(), *model.buffers(), *averages]
    held += [parameter for parameter in model.parameters() if parameter.requires_grad]  # once more: their gradients
    return sum(kept.values()) + sum(tensor.numel() * tensor.element_size() for tensor in held)


def _available(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def findings(trial: Trial, plan: Plan) -> list[Finding]:
    """Memory, images per second and time to finish."""
    share = trial.peak / trial.available
    text = f"a step needs {size_of(trial.peak)} of {size_of(trial.available)}, activations included"
    level = "error" if share > 1 else "warning" if share > 0.9 else "ok"
    way = "" if level == "ok" else "lower --per_device_train_batch_size, and keep N with --contrast_batch_size"
    found = [Finding("memory", level, text, way)]

    images = plan.images_per_step / plan.num_processes
    rates = [images / seconds for seconds in (fmean(trial.seconds), max(trial.seconds), min(trial.seconds))]
    text = "{:,.0f} images per second ({:,.0f} to {:,.0f})".format(*rates) + f" in {len(trial.seconds)} steps"
    text += f", of this process; there will be {plan.num_processes}" if plan.num_processes > 1 else ""
    if not torch.cuda.is_available():
        n = torch.get_num_threads()
        text += f", on {n} threads: accelerate launch --num_cpu_threads_per_process {n} gives a run as many"
    if trial.waiting > 0.3:
        text = f"{text}; {trial.waiting:.0%} of the time waits for images"
        found.append(Finding("speed", "warning", text, "raise --dataloader_num_workers"))
    else:
        found.append(Finding("speed", "ok", text))

    evaluations = sum(map(plan.evaluates, range(1 + plan.steps)))
    rest = evaluations * trial.evaluation
    times = [plan.steps * one + rest for one in (fmean(trial.seconds), min(trial.seconds), max(trial.seconds))]
    text = "{} ({} to {})".format(*map(duration, times)) + f" for {plan.steps:,} steps and {evaluations:,} evaluations"
    text += f" of {duration(trial.evaluation)}, without what is measured at the end"
    long = times[0] > 14 * 86400
    way = "a smaller encoder, fewer epochs, more processes, or --mixed_precision bf16" if long else ""
    return [*found, Finding("time", "warning" if long else "ok", text, way)]


def duration(seconds: float) -> str:
    """Seconds for people."""
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60), (172800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 86400:.3g} days"
