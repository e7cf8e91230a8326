"""How a recipe starts: arguments, Accelerate, errors in one line, and what it says before the first step."""

import logging
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from transformers.utils.logging import disable_progress_bar

from ..errors import NOT_WRITTEN, ExitCode, UserError, log_to_terminal, printable
from .arguments import PretrainingArguments
from .leaving import SIGNALS, Stopped
from .parsing import parse_arguments
from .plan import Plan

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)


def run_recipe(main: Callable[[PretrainingArguments], None], description: str, **defaults) -> int:
    """Parse the command line and call `main`; returns the exit code (`ExitCode`). What a user can put right is one
    line, and so is what came from outside: a signal, a full disk, another process that died. Nothing here imports
    torch: `--help` and mistakes are answered at once."""
    args = None
    log_to_terminal()
    if not sys.stderr.isatty():
        disable_progress_bar()
    try:
        with SIGNALS:
            args = parse_arguments(sys.argv[1:], description, **defaults)
            main(args)
    except UserError as error:
        said, code = str(error), error.exit_code
    except Stopped as stopped:
        latest = "" if args is not None and _goes_on(args) else " with --resume_from_checkpoint latest"
        said = f"stopped by {stopped}; the same command{latest} goes on"
        code = ExitCode.STOPPED
    except (OSError, RuntimeError) as error:
        from ..distributed import reason_of_loss

        if isinstance(error, OSError) and error.errno in NOT_WRITTEN:
            said = f"{error.filename or 'the output'}: {error.strerror}; make room or make it writable, then resume"
            code = ExitCode.NOT_WRITTEN
        elif reason := reason_of_loss(error):
            said = f"another process of the run died or does not answer ({reason}): see what it said, then resume"
            code = ExitCode.PROCESS_LOST
        else:
            raise
    else:
        return 0
    print(f"{Path(sys.argv[0]).name}: {printable(said)}", file=sys.stderr)
    return code


def _goes_on(args: PretrainingArguments) -> bool:
    """Whether the same command goes on, not back: one that names a checkpoint of this very run does that."""
    own, given = Path(args.output_dir, "checkpoints").resolve(), args.resume_from_checkpoint
    return given == "latest" or (given is not None and Path(given).resolve().parent != own)


def build_accelerator(args: PretrainingArguments, branches_take_turns: bool = False) -> "Accelerator":
    """Accelerate, set up as the models here need it; it holds the lock of the output directory.

    Raises:
        UserError: if the model is to be sharded, if the output directory holds another run, is locked by one or cannot
            be written to, or if a tracker is not installed.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
    from accelerate.utils import parse_flag_from_env

    from .state import lock

    for sharding in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        if parse_flag_from_env(f"ACCELERATE_USE_{sharding}"):
            raise UserError(
                f"{sharding} is not supported: every process holds the whole model; launch with --multi_gpu"
            )
    output_dir = Path(args.output_dir)
    try:
        _refuse_what_is_there(output_dir, args.resume_from_checkpoint is not None)
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output_dir {args.output_dir}: {error.strerror}") from error
    # Every process computes the whole batch norm, so there are no buffers to broadcast. Where branches take turns,
    # each step leaves the parameters of one of them without gradient.
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=branches_take_turns)
    trackers = [] if args.report_to == "none" else args.report_to.split(",")
    try:
        accelerator = Accelerator(
            mixed_precision=precision(args.mixed_precision),
            gradient_accumulation_steps=args.gradient_accumulation_steps,
            dynamo_backend="inductor" if args.compile else None,
            log_with=trackers or None,
            project_dir=args.output_dir,
            kwargs_handlers=[ddp, InitProcessGroupKwargs(timeout=timedelta(minutes=args.process_timeout))],
        )
    except ValueError as error:
        raise UserError(f"accelerate: {error}") from error
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise UserError("fp16 needs a GPU, without one it is float32: --mixed_precision bf16 or no")
    if accelerator.is_main_process:
        accelerator.output_lock = lock(output_dir)  # as long as the run lives
        _refuse_what_is_there(output_dir, args.resume_from_checkpoint is not None)  # another may just have ended
    if len(accelerator.log_with) < len(trackers):  # Accelerate leaves out what it cannot import
        raise UserError(f"--report_to {args.report_to}: a tracker is not installed; `pip install` it, or leave it out")
    return accelerator


def _refuse_what_is_there(directory: Path, resumes: bool) -> None:
    """A run writes where there is none, or where the log and the checkpoints are that it goes on from."""
    published = [name for name in ("config.json", "model.safetensors", "results.json") if (directory / name).exists()]
    log, checkpoints = (directory / "metrics.jsonl").exists(), any(directory.glob("checkpoints/checkpoint-*"))
    if published and not (log and checkpoints):
        raise UserError(
            f"{directory} holds {', '.join(published)} without the log and the checkpoints of a run, and a run would "
            f"write over that: give another --output_dir"
        )
    if (log or checkpoints) and not resumes:
        raise UserError(
            f"{directory} holds a run already: continue it with --resume_from_checkpoint latest, or give another "
            f"--output_dir"
        )


def precision(asked: str | None) -> str | None:
    """What Accelerate is told: as asked; unasked bf16 on a GPU that has it, unless its own configuration says more
    than `no`, which `accelerate launch` says unasked too."""
    import torch
    from accelerate.utils import parse_flag_from_env

    configured = os.environ.get("ACCELERATE_MIXED_PRECISION", "no") != "no"
    if asked or configured or parse_flag_from_env("ACCELERATE_USE_CPU"):
        return asked
    has = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if has else None


def announce(
    args: PretrainingArguments, plan: Plan, accelerator: "Accelerator", model, train, held, start: int
) -> None:
    """Say what is about to run, once, and write it down: `training_args.json`, the trackers."""
    from ..files import write_json

    if accelerator.is_main_process:
        write_json(Path(args.output_dir) / "training_args.json", args.to_dict())
    if accelerator.log_with:
        accelerator.init_trackers("hf_mi_ssl", config={key: str(value) for key, value in args.to_dict().items()})
    images = "an unknown number of" if train.num_images is None else f"{train.num_images:,}"
    learned = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    processes = f"{accelerator.num_processes} process{'es' if accelerator.num_processes > 1 else ''}"
    accelerator.print(
        f"{args.method} on {args.dataset_name}: {images} images of {train.split}; "
        f"held out: {len(held):,} of {held.split}\n"
        f"{args.init_from or args.encoder}, {learned / 1e6:.1f} M parameters; {plan.steps:,} steps of "
        f"{plan.images_per_step:,} images, {plan.epoch(plan.steps):g} epochs\n"
        f"{processes} on {accelerator.device.type}, precision {accelerator.mixed_precision}; pixels "
        f"{train.where}" + (f"; resuming after step {start:,}" if start else "")
    )
    if plan.accumulation > 1:
        accelerator.print(
            f"accumulating {plan.accumulation} batches: a loss compares the {plan.global_batch} images of one batch"
        )
    if plan.global_batch > plan.at_once and model.config.batch_norm_group_size is None and accelerator.is_main_process:
        logger.warning(
            f"batch norm sees the {plan.at_once} images of a part, so the loss over {plan.global_batch} is not that "
            f"of one piece; --set batch_norm_group_size=… makes it so, as does a model without batch norm"
        )
    if args.compile and accelerator.device.type == "cpu" and accelerator.is_main_process:
        logger.warning("--compile on a CPU takes minutes before the first step and has not been seen to win them back")
    queue = getattr(model.config, "queue_size", None)  # JMI has none
    n = train.num_images
    if queue is not None and n is not None and queue > n / 4 and accelerator.is_main_process:
        logger.warning(
            f"queue_size={queue} is more than a quarter of the {n:,} training images: much of the queue "
            f"would be other views of a batch's own images; lower it, e.g. --set queue_size={max(1, n // 4)}"
        )
