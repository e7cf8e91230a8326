"""What a run writes: `metrics.jsonl` as it goes, JSON files in one piece, and what it ran on."""

import json
import logging
import math
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor

from ..errors import ExitCode, UserError
from ..files import whole
from .arguments import PretrainingArguments
from .checkpoints import RECORD, drop_later, latest_checkpoint, read_json
from .leaving import EvaluationInterruptedError
from .plan import Plan
from .progress import ProgressTable
from .updates import Skips

logger = logging.getLogger(__name__)
_MOST = 1e100  # of a number in a log: far beyond float32, and squares and sums of such still fit a float


def read_records(path: Path) -> list[dict]:
    """The complete lines of a `metrics.jsonl`; what follows a line that is torn, or no record, is left out."""
    records = []
    for line in path.read_bytes().split(b"\n") if path.exists() else []:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not _is_record(record):
            break
        records.append(record)
    return records


def _is_record(record) -> bool:
    if not isinstance(record, dict) or type(record.get("step")) is not int or record["step"] < 0:
        return False
    numbers = {key: value for key, value in record.items() if key != "alarm"}
    return isinstance(record.get("alarm", {}), dict) and all(
        value is None or (isinstance(value, int | float) and abs(value) <= _MOST) for value in numbers.values()
    )


def step_record(step: int, plan: Plan, outputs, learning_rate: float) -> dict:
    """The line of a step, from the output of its last forward pass."""
    record = {"step": step, "epoch": plan.epoch(step), "loss": outputs.loss.detach()}
    record |= {f"joint/{name}": term for name, term in outputs.joint.items()}
    record |= {f"marginal/{name}": term for name, term in outputs.marginal.items()}
    return record | {"value": outputs.value, "learning_rate": learning_rate}


class MetricsLog:
    """`metrics.jsonl`, and the trackers of Accelerate: a line for each step and one for each evaluation.

    Values are fetched from the device only every `every` steps, so that the host does not wait in each. Only the main
    process writes. A resumed run drops what was logged after its checkpoint, and the checkpoints after it, which
    belong to those lines: every step stands there once.

    `alarm` is called with every record, those of a resumed run again, and returns what is wrong, {kind: message}; its
    `stops` says for which of that a run is stopped. `skips` counts the steps that were skipped.

    Raises:
        UserError: if the log lacks steps before the checkpoint.
    """

    def __init__(
        self, path: Path, start: int, accelerator: Accelerator, alarm: Callable, skips: Skips, every: int = 20
    ):
        self.path, self.accelerator, self.alarm, self.skips, self.every = path, accelerator, alarm, skips, every
        self.pending: list[dict] = []
        self.images, self.clock = 0, time.perf_counter()
        self.progress = ProgressTable()
        kept = records_up_to(path, start)
        self.evaluated = {record["step"] for record in kept if "loss" not in record}
        for record in kept:
            alarm(record)
            skips.seen(record)
        accelerator.wait_for_everyone()  # all have read it
        if accelerator.is_main_process:
            if path.exists() and not start:  # a run that died before its first checkpoint
                path.replace(path.with_name(f"{path.stem}.before-{int(path.stat().st_mtime)}{path.suffix}"))
            drop_later(path.parent / "checkpoints", start)  # before their lines: no checkpoint lacks its log
            with whole(path) as file:
                _write_lines(file, kept)

    def step(self, record: dict, images: int, skipped: Tensor | bool = False) -> None:
        """Note the record of a step over so many images, and whether it was skipped."""
        self.pending.append(record | {"skipped": skipped})
        self.images += images
        if len(self.pending) >= self.every:
            self.flush()

    def flush(self) -> None:
        """Write what is pending, with the images per second since the last time."""
        if not self.pending:
            return
        records = [{key: _number(value) for key, value in record.items()} for record in self.pending]
        seconds = time.perf_counter() - self.clock
        for record in records:
            record["images_per_second"] = round(self.images / seconds, 1)
        too_many = None
        for record in records:
            self.skips.add(record, bool(record.pop("skipped")))
            too_many = too_many or (self.skips.too_many and f"{self.skips.too_many} up to step {record['step']}")
        self._write(records)
        self.pending, self.images, self.clock = [], 0, time.perf_counter()
        if too_many:
            kept = latest_checkpoint(self.path.parent / "checkpoints")
            raise UserError(
                f"the gradients of {too_many} are not finite: training has diverged, or an "
                f"image or a term makes them so; they were skipped. Lower --learning_rate and start again; the last "
                f"good checkpoint is {kept or 'none yet'}",
                exit_code=ExitCode.NOT_FINITE,
            )

    def evaluate(self, step: int, plan: Plan, evaluation, model) -> None:
        """Evaluate after `step` if the plan says so and no earlier run did, and write a line of its own. The time that
        it takes is not training time.

        Raises:
            UserError: with exit code 3, if the run has collapsed and --stop_on_collapse is set; with 76, naming the
                last checkpoint before, if embeddings are not finite.
        """
        quality, mutual_information = plan.evaluates(step), plan.measures_mi(step, len(evaluation.pairs))
        if not (quality or mutual_information):
            return
        if step not in self.evaluated:
            self.flush()
            branches = model.branches if step else evaluation.with_statistics(model.branches)
            try:
                values = evaluation.track(branches, quality, mutual_information)
                self._write([{"step": step, "epoch": plan.epoch(step)} | values])
            except EvaluationInterruptedError as interrupted:
                logger.warning("the evaluation after step %d was broken off by %s", step, interrupted)
            except UserError as error:
                if error.exit_code != ExitCode.NOT_FINITE:
                    raise
                kept = latest_checkpoint(self.path.parent / "checkpoints", before=step) or "none yet"
                raise UserError(f"{error}; the last one before is {kept}", exit_code=error.exit_code) from error
            self.clock = time.perf_counter()
        message = broadcast_object_list([self.alarm.stops])[0]  # the processes stop together
        if message and plan.args.stop_on_collapse and step < plan.steps:  # at the end there is nothing to stop
            self.accelerator.end_training()
            raise UserError(
                f"stopped after step {step} of {plan.steps}: {message}. The last checkpoint is kept, and goes on "
                f"with --resume_from_checkpoint latest and without --stop_on_collapse",
                exit_code=ExitCode.COLLAPSED,
            )

    def _write(self, records: list[dict]) -> None:
        for record in records:
            if new := self.alarm(record):
                record["alarm"] = new
                for message in new.values() if self.accelerator.is_main_process else ():
                    logger.warning("step %d: %s", record["step"], message)
            if self.accelerator.is_main_process:
                self.progress(record)
        if self.accelerator.is_main_process:
            with self.path.open("a") as file:
                _write_lines(file, records)
                file.flush()
                os.fsync(file.fileno())  # as a checkpoint is: it must not outlive its lines
        for record in records:
            numbers = {key: value for key, value in record.items() if key not in ("step", "alarm")}
            self.accelerator.log(numbers, step=record["step"])


def _write_lines(file, records: list[dict]) -> None:
    file.writelines(json.dumps(record) + "\n" for record in records)


def records_up_to(path: Path, start: int) -> list[dict]:
    """The records of a log up to the checkpoint that the run goes on from, which they have to reach without a gap.
    Only a run that takes up a checkpoint from elsewhere begins its own log after it. Raises `UserError` for others."""
    kept = [record for record in read_records(path) if record["step"] <= start] if start else []
    steps = [record["step"] for record in kept if "loss" in record]
    here = path.parent / "checkpoints" / f"checkpoint-{start}" / RECORD
    begins = not here.exists() or "begins_log" in read_json(here)
    first = steps[0] if steps else start + begins
    if start and steps != [*range(first, start + 1)]:
        raise UserError(
            f"{path} is damaged: it can be read up to step {steps[-1] if steps else 0}, and the checkpoint is of step "
            f"{start}; resume from an earlier one, or from this one in another --output_dir"
        )
    return kept


def _number(value):
    value = value.item() if isinstance(value, Tensor) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value  # JSON has no NaN


def results(
    args: PretrainingArguments, plan: Plan, accelerator: Accelerator, log: MetricsLog, evaluations: list[dict]
) -> dict:
    """The content of `results.json`: what ran, on what, for how long, and what was measured."""
    hardware, versions = environment(accelerator.device, accelerator.num_processes)
    hardware["mixed_precision"] = accelerator.mixed_precision
    records = read_records(log.path)
    rates = [record["images_per_second"] for record in records if record.get("images_per_second")]
    alarms = [(record["step"], *alarm) for record in records for alarm in record.get("alarm", {}).items()]
    seconds = sum(plan.images_per_step / rate for rate in rates)  # of the whole run, resumed or not
    return {
        "method": args.method,
        "encoder": args.init_from or args.encoder,
        "dataset": args.dataset_name,
        "seed": args.seed,
        "steps": plan.steps,
        "images_seen": plan.steps * plan.images_per_step,
        "hardware": hardware,
        "timing": {
            "train_seconds": round(seconds, 1),
            "images_per_second": round(plan.images_per_step * len(rates) / seconds, 1),
        },
        "versions": versions,
        "evaluations": evaluations,
        "alarms": [{"kind": kind, "step": step, "message": message} for step, kind, message in alarms],
    }


def environment(device: torch.device, num_processes: int) -> tuple[dict, dict]:
    """The hardware and the versions that a result has to name."""
    hardware = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "num_processes": num_processes,
        "cpu_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    packages = ("hf-mi-ssl", "torch", "transformers", "datasets", "accelerate", "timm")
    return hardware, {"python": platform.python_version()} | {name: version(name) for name in packages}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
