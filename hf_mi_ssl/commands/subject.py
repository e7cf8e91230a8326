"""What `hf-mi-ssl doctor` examines, what it finds, and how many bytes the run will hold."""

import copy
import math
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from ..modeling_base import MISSLForPreTraining
from ..training import Plan, PretrainingArguments, build_optimizer


@dataclass(frozen=True)
class Finding:
    """A line of the table. `level` is ok, warning or error; `way_out` what to change."""

    check: str
    level: str
    text: str
    way_out: str = ""


@dataclass(frozen=True)
class Subject:
    """What is examined: the arguments, the model (it may lie on the meta device), and the plan for so many images."""

    args: PretrainingArguments
    model: MISSLForPreTraining
    plan: Plan

    @property
    def config(self):
        return self.model.config

    @cached_property
    def optimizer(self) -> torch.optim.Optimizer:
        return build_optimizer(self.model, self.args)

    @cached_property
    def state_bytes(self) -> tuple[int, int, int]:
        """Bytes of parameters and buffers, of gradients, and of what the optimiser remembers."""
        learns = sum(p.numel() * p.element_size() for p in self.model.parameters() if p.requires_grad)
        held = [*self.model.parameters(), *self.model.buffers()]
        return sum(t.numel() * t.element_size() for t in held), learns, round(learns * _averages(self.args))


def _averages(args: PretrainingArguments) -> float:
    """How many numbers the optimiser remembers of each parameter, from a step of it on a small layer."""
    args = copy.copy(args)
    args.freeze_prototypes_epochs = 0.0  # the layer has none
    layer = nn.Linear(64, 64, bias=False)
    optimizer = build_optimizer(layer, args)
    layer(torch.ones(1, 64)).sum().backward()
    optimizer.step()
    states = [value for state in optimizer.state.values() for value in state.values()]
    return sum(v.numel() for v in states if isinstance(v, torch.Tensor) and v.numel() > 1) / layer.weight.numel()


def memory(s: Subject) -> Finding:
    held, gradients, averages = s.state_bytes
    text = (
        f"weights {size_of(held)}, gradients {size_of(gradients)}, optimiser {size_of(averages)}; activations beside"
    )
    return Finding("memory", "ok", text)


def disk(s: Subject) -> Finding:
    held, _, averages = s.state_bytes
    path = Path(s.args.output_dir).absolute()
    place = next(place for place in (path, *path.parents) if place.exists())
    free = shutil.disk_usage(place).free
    # one more than are kept, as a new one is written before an old one goes; then encoder and whole model
    need = (s.args.checkpoints_total_limit + 1) * (held + averages) + 2 * held
    text = f"{s.args.checkpoints_total_limit + 1} checkpoints of {size_of(held + averages)}, {size_of(need)} in all"
    level = "error" if need > free else "warning" if need > free / 2 else "ok"
    way = "" if level == "ok" else "lower --checkpoints_total_limit, or another --output_dir"
    return Finding("disk", level, f"{text}; {size_of(free)} are free", way)


def size_of(count: float) -> str:
    """Bytes for people."""
    power = min(4, int(math.log10(max(count, 1))) // 3)
    return f"{count / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"
