"""What a run is at the end of a step: saving it, and going on from it."""

import fcntl
import json
import logging
import os
import platform
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import nn

from ..counter import bits
from ..distributed import process_index
from ..errors import MALFORMED, ExitCode, UserError
from ..files import digest, is_plain_file
from .arguments import PretrainingArguments
from .checkpoints import MANIFEST, latest_checkpoint, save_checkpoint
from .optimization import check_state
from .plan import Plan
from .records import records_up_to
from .restoring import read_record, read_states

logger = logging.getLogger(__name__)
_FOREIGN = 5  # differences that are named of those in what this version does not ask for


class TrainingState:
    """The model, the optimiser, the state of the data and, for fp16, the gradient scaler of a run. Nothing else has
    one: order, views, learning rate and momentum are functions of the step, and the ambient generator is set at each.

    A checkpoint records the arguments that decide what is computed; a run that differs in them cannot resume from it.
    The number of processes is none of them as long as the global batch stays. What a run `found` rather than was asked
    is compared as well: which images there are, who makes the views, in what precision it computes.
    """

    def __init__(
        self,
        args: PretrainingArguments,
        plan: Plan,
        accelerator: Accelerator,
        found: dict[str, str] | None = None,
        **parts,
    ):
        self.root = Path(args.output_dir) / "checkpoints"
        self.defaults = json.loads(json.dumps(PretrainingArguments().identity()))
        self.limit, self.steps = args.checkpoints_total_limit, plan.steps
        numbers = {"global_batch_size": plan.global_batch, "images_at_once": plan.at_once}
        numbers["num_images"] = plan.num_images
        digests = [digest(Path(file), "sha256") for file in args.imported]
        numbers |= {"imported_sha256": digests} if digests else {}
        self.found = found or {}
        self.identity = json.loads(json.dumps(args.identity() | numbers | self.found))
        self.accelerator = accelerator
        scaler = {} if accelerator.scaler is None else {"scaler": accelerator.scaler}
        self.parts = parts | scaler

    def save(self, step: int, begins_log: bool = False) -> None:
        """Write a checkpoint, on the first process only: the others hold the same, or have sent it. `begins_log` says
        that the log of this run begins after it."""
        states = {name: part.state_dict() for name, part in self.parts.items()}
        if self.accelerator.is_main_process:
            record = {"identity": self.identity, "num_processes": self.accelerator.num_processes}
            record |= {"begins_log": True} if begins_log else {}
            save_checkpoint(self.root, step, states, record, self.limit)
        self.accelerator.wait_for_everyone()

    def resume(self, checkpoint: str | None) -> int:
        """Take up a checkpoint, `latest` or a directory; returns the steps done, 0 if there is nothing to resume.

        One from elsewhere is saved here at once, so that from there on the run has what it goes on from; where this
        run has come further since, it goes on from its own.

        Raises:
            UserError: if the checkpoint is damaged, is another one for another process, or belongs to a run that
                differs in what it computes.
        """
        if checkpoint is None:
            return 0
        (own,) = broadcast_object_list([latest_checkpoint(self.root)])  # a network's disk may show others a later one
        path = own if checkpoint == "latest" else Path(checkpoint)
        (incomplete,) = broadcast_object_list([any(self.root.glob("checkpoint-*"))])
        if path is None and incomplete:
            raise UserError(f"no checkpoint in {self.root} is complete; give another --output_dir to start again")
        if path is None:
            logger.warning("no checkpoint in %s: starting from the beginning", self.root)
            return 0
        for one in (path, own) if own and own != path else (path,):  # before any of them may be refused
            if len({*gather_object([_manifest_of(one)])}) > 1:
                raise UserError(f"processes do not see the same {one}: --output_dir has to be on a disk they share")
        record = read_record(path)
        elsewhere = path.resolve().parent != self.root.resolve()
        if own and path != own:
            of_own = read_record(own)
            self._refuse_another_run(own, of_own)  # nothing of another run is written over
            if elsewhere and of_own["step"] >= record["step"]:
                logger.warning("the run has come further than %s: it goes on from %s", path, own)
                path, record, elsewhere = own, of_own, False
        self._refuse_another_run(path, record)
        if record["step"] > self.steps:
            reason = f"step {str(record['step'])[:20]} is beyond the {self.steps} of this run"
            raise UserError(f"{path} does not fit this run: {reason}", exit_code=ExitCode.OTHER_RUN)
        own = self.parts["model"].state_dict()
        shapes = {"model": {name: tuple(tensor.shape) for name, tensor in own.items()}}
        states = read_states(path, dict.fromkeys(self.parts) | shapes)
        states = {name: {} for name in self.parts if name == "data"} | states  # which earlier versions did not have
        try:
            if states.keys() != self.parts.keys() or any(states["model"][key].dtype != own[key].dtype for key in own):
                raise ValueError(f"holds {', '.join(sorted(states))}")
            scaler = self.parts["scaler"].state_dict() if "scaler" in self.parts else {}
            if any(type(states["scaler"][key]) is not type(value) for key, value in scaler.items()):
                raise ValueError("its scaler of gradients has no scale")
            optimizer = self.parts["optimizer"]
            check_state(getattr(optimizer, "optimizer", optimizer), states["optimizer"])
            for name, part in reversed(self.parts.items()):  # the optimiser looks before it takes
                part.load_state_dict(states[name])
        except (*MALFORMED, RuntimeError) as error:
            reason = " ".join(str(error).split())[:100]
            raise UserError(f"{path} does not fit this run ({reason})", exit_code=ExitCode.OTHER_RUN) from error
        _lay_out_like_parameters(self.parts["optimizer"])
        before, now = record.get("num_processes"), self.accelerator.num_processes
        if before not in (None, now):
            self.accelerator.print(
                f"the run goes on with {now} in place of {before} processes: the same batches and views, whose sums "
                f"are taken in another order, so that last digits differ"
            )
        if elsewhere:
            records_up_to(self.root.parent / "metrics.jsonl", record["step"])  # refused before anything is written
            self.save(record["step"], begins_log=True)
        return record["step"]

    def _refuse_another_run(self, path: Path, record: dict) -> None:
        theirs = record.get("identity")
        if not isinstance(theirs, dict):
            raise UserError(f"{path} does not say which run it belongs to; give another --output_dir")
        # What an earlier version did not ask for, it did as is the default now; what it did not note, nobody knows
        theirs = self.found | {
            key: value for key, value in theirs.items() if value is not None or key not in self.found
        }
        theirs = {key: theirs.get(key, self.defaults.get(key)) for key in self.identity | theirs}
        different = [key for key in theirs if self.identity.get(key) != theirs[key]]
        if different:
            named = different[: sum(key in self.identity for key in different) + _FOREIGN]  # own ones come first
            changes = ", ".join(
                f"{key[:80]} {_short(theirs[key])} → {_short(self.identity.get(key))}" for key in named
            ) + f" and {len(different) - len(named)} more" * (len(named) < len(different))
            raise UserError(
                f"{path} belongs to another run ({changes}): give its arguments, images and libraries, or another "
                f"--output_dir",
                exit_code=ExitCode.OTHER_RUN,
            )


def _short(value) -> str:
    """What a line says of a value that anybody may have written."""
    return text if len(text := repr(value)) <= 80 else f"{text[:79]}…"


def _manifest_of(checkpoint: Path) -> str:
    """The digest of a checkpoint's manifest, or that there is none that may be read."""
    try:
        return digest(checkpoint / MANIFEST) if is_plain_file(checkpoint / MANIFEST) else "none"
    except OSError as error:
        return type(error).__name__


def lock(directory: Path):
    """Lock a directory for this process as long as what is returned lives; the system unlocks it when a process dies,
    however it does.

    Raises:
        UserError: naming the process that has it; if nothing can be written there.
    """
    try:
        file = os.fdopen(os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644), "r+")
    except OSError as error:
        raise UserError(
            f"--output_dir {directory} cannot be written to: {error.filename}: {error.strerror}"
        ) from error
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        holder = " ".join(file.read(200).split())
        raise UserError(
            f"{directory} is locked by a run that still goes on ({holder}): wait for it, or give another --output_dir",
            exit_code=ExitCode.LOCKED,
        ) from error
    except OSError as error:  # some network file systems have no locks
        logger.warning("%s cannot be locked (%s): start no second run in it", directory, error.strerror)
        return file
    file.truncate(0)
    file.write(f"process {os.getpid()} on {platform.node()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
    file.flush()
    return file


def seed_everything(seed: int, step: int) -> None:
    """Make what a step draws from the ambient generator (dropout, stochastic depth) a function of the step."""
    torch.manual_seed(int(bits("ambient", seed, step, process_index())) & 0x7FFF_FFFF)


def build_seeded(seed: int, build, *args) -> nn.Module:
    """`build(*args)` with the initial weights of that seed, the same in every process and every time."""
    torch.manual_seed(seed)
    return build(*args).to(memory_format=torch.channels_last)  # the layout in which convolutions are fastest


def _lay_out_like_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Give the optimiser's averages the memory layout of their parameters, as in a run that was not interrupted: the
    kernels, and so the last bit of a result, depend on it."""
    for parameter, averages in optimizer.state.items():
        for name, value in averages.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                averages[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
