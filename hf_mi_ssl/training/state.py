"""What a run is at the end of a step: saving it, and going on from it."""

import hashlib
import json
import logging
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from ..counter import bits
from ..distributed import process_index
from ..errors import UserError
from .arguments import PretrainingArguments
from .checkpoints import latest_checkpoint, load_checkpoint, save_checkpoint
from .plan import Plan

logger = logging.getLogger(__name__)


class TrainingState:
    """The model, the optimiser, the state of the data and, for fp16, the gradient scaler of a run. Nothing else has
    one: order, views, learning rate and momentum are functions of the step, and the ambient generator is set at each.

    A checkpoint records the arguments that decide what is computed; a run that differs in them cannot resume from it.
    """

    def __init__(self, args: PretrainingArguments, plan: Plan, accelerator: Accelerator, **parts):
        self.root = Path(args.output_dir) / "checkpoints"
        self.limit = args.checkpoints_total_limit
        numbers = {"global_batch_size": plan.global_batch, "images_at_once": plan.at_once}
        numbers["num_images"] = plan.num_images
        digests = [hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in args.imported]
        numbers |= {"imported_sha256": digests} if digests else {}
        self.identity = json.loads(json.dumps(args.identity() | numbers))
        self.accelerator = accelerator
        scaler = {} if accelerator.scaler is None else {"scaler": accelerator.scaler}
        self.parts = parts | scaler

    def save(self, step: int) -> None:
        """Write a checkpoint, on the first process only: the others hold the same, or have sent it."""
        states = {name: part.state_dict() for name, part in self.parts.items()}
        if self.accelerator.is_main_process:
            save_checkpoint(self.root, step, states, {"identity": self.identity}, self.limit)
        self.accelerator.wait_for_everyone()

    def resume(self, checkpoint: str | None) -> int:
        """Take up a checkpoint, `latest` or a directory; returns the steps done, 0 if there is nothing to resume.

        Raises:
            UserError: if the checkpoint is damaged, or belongs to a run that differs in what it computes.
        """
        if checkpoint is None:
            return 0
        path = latest_checkpoint(self.root) if checkpoint == "latest" else Path(checkpoint)
        if path is None and any(self.root.glob("checkpoint-*")):
            raise UserError(f"no checkpoint in {self.root} is complete; give another --output_dir to start again")
        if path is None:
            logger.warning("no checkpoint in %s: starting from the beginning", self.root)
            return 0
        states, record = load_checkpoint(path)
        theirs = record["identity"]
        different = [key for key in self.identity | theirs if self.identity.get(key) != theirs.get(key)]
        if different:
            changes = ", ".join(f"{key} {theirs.get(key)!r} → {self.identity.get(key)!r}" for key in different)
            raise UserError(f"{path} belongs to another run ({changes}): give its arguments, or another --output_dir")
        for name, part in self.parts.items():
            part.load_state_dict(states.get(name, {}))
        _lay_out_like_parameters(self.parts["optimizer"])
        return record["step"]


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
