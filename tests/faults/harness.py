"""The recipes' own loop on tiny models, up to where a run would publish: short enough to be killed often."""

import contextlib
import functools
import importlib.util
import os
import signal
import socket
import sys
import time
from pathlib import Path
from unittest import mock

import torch
from accelerate.state import AcceleratorState, PartialState

from hf_mi_ssl import data, encoders, hub, training, views
from hf_mi_ssl.data import open_train_and_held_out
from hf_mi_ssl.evaluation import Evaluation
from hf_mi_ssl.methods import METHODS
from hf_mi_ssl.training import latest_checkpoint, load_checkpoint, read_records
from tests.conftest import SMALLER, small_config

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
TINY = ["--image_size", 8, "--per_device_train_batch_size", 16, "--dataloader_num_workers", 0, "--mi_steps", 0,
        "--eval_steps", 99, "--set", "projector_hidden_size=24", "projection_size=16"]  # fmt: skip

IMPORTED_FROM = {"open_train_and_held_out": data, "encoder_config": encoders, "RandomViews": views,
                 "MetricsLog": training, "build_optimizer": training}  # fmt: skip


class Trained(BaseException):
    """The loop is over, and everything that it leaves is written."""


@functools.cache
def recipe_of(paradigm: str):
    spec = importlib.util.spec_from_file_location(f"pretrain_{paradigm}", RECIPES / f"pretrain_{paradigm}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_opened: dict = {}


def open_once(**arguments):
    """The images, decoded once in this process and those that are forked from it."""
    key = repr(sorted(arguments.items(), key=str))
    if key not in _opened:
        _opened[key] = open_train_and_held_out(**arguments)
    return _opened[key]


def train(method: str, output_dir: Path, *argv, opened=open_once, publishes=False, **patches) -> int:
    """Run the recipe of that method in this process, until it would publish unless it `publishes`; returns its exit
    code.

    The encoder is the smallest; `patches` take the place of what the recipe imports, when it imports it.
    """
    forget_processes()  # of other tests
    module = recipe_of(METHODS[method].paradigm)
    smaller = [f"{name}={value}" for name, value in SMALLER.items() if name in METHODS[method].columns]
    smallest = mock.Mock(return_value=small_config(method).encoder_config)
    argv = ["--method", method, "--output_dir", output_dir, *TINY, *(["--set", *smaller] if smaller else []), *argv]
    try:
        with (
            contextlib.ExitStack() as stack,
            mock.patch.object(sys, "argv", [module.__file__, *map(str, argv)]),
        ):
            if not publishes:
                exports = {"export_encoder": mock.DEFAULT, "export_pretraining": mock.DEFAULT}
                stack.enter_context(mock.patch.multiple(hub, **exports))
                stack.enter_context(mock.patch.object(Evaluation, "measure", side_effect=Trained))
            for name, value in ({"open_train_and_held_out": opened, "encoder_config": smallest} | patches).items():
                stack.enter_context(mock.patch.object(IMPORTED_FROM[name], name, value))
            return module.run_recipe(module.main, module.__doc__, method=METHODS[method].paradigm)
    except Trained:
        return 0
    finally:
        forget_processes()


def forget_processes() -> None:
    """Have Accelerate look again which process of how many this is."""
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._reset_state()


def images_of(folder: Path) -> list[str]:
    return ["--dataset_name", "imagefolder", "--data_dir", str(folder)]


def log_of(output_dir: Path) -> list[dict]:
    """The log without what reruns may differ in."""
    records = read_records(output_dir / "metrics.jsonl")
    return [{key: value for key, value in record.items() if key != "images_per_second"} for record in records]


def states_of(output_dir: Path, step: int | None = None) -> tuple[dict, int]:
    """What the newest checkpoint holds, or that of a step; and its step."""
    root = output_dir / "checkpoints"
    states, record = load_checkpoint(latest_checkpoint(root) if step is None else root / f"checkpoint-{step}")
    return states, record["step"]


def same(one, other) -> bool:
    """Whether two trees of tensors and values are equal bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other) and one.dtype == other.dtype
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@contextlib.contextmanager
def forked(function, *processes: dict[str, str]):
    """`function()` in a forked process for each dictionary of environment variables; their ids. Those that are left
    over in the end are killed."""
    children = []
    for environment in processes:
        child = os.fork()
        if child == 0:
            code = 70
            try:
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, 1)
                os.environ.update(environment)
                code = function()
            finally:
                os._exit(code)
        children.append(child)
    try:
        yield children
    finally:
        for child in children:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)


def two_processes(world: int = 2) -> list[dict[str, str]]:
    """The environments of so many processes that find each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world), "ACCELERATE_USE_CPU": "1"}
    shared["OMP_NUM_THREADS"] = "1"  # or Accelerate would take all cores for each
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]


def ends_of(children: list[int], timeout: float = 60) -> list[int]:
    """The exit codes of forked processes, negative for a signal; fails if they take longer."""
    ends, until = {}, time.monotonic() + timeout
    while len(ends) < len(children):
        for child in set(children) - ends.keys():
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                ends[child] = os.waitstatus_to_exitcode(status)
        assert time.monotonic() < until, f"still going after {timeout} s: {set(children) - ends.keys()}"
        time.sleep(0.005)
    return [ends[child] for child in children]
