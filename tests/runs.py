"""Runs of the recipes in this process, interrupted or not, and what is compared of them."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, PartialState
from safetensors.torch import load_file

from hf_mi_ssl.methods import METHODS
from hf_mi_ssl.training import MetricsLog, read_records
from tests.conftest import SMALLER

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
FAST = ["--image_size", "16", "--per_device_train_batch_size", "16", "--num_train_epochs", "2", "--eval_steps", "100",
        "--set", "projector_hidden_size=32", "projection_size=16", "--dataloader_num_workers", "0"]  # fmt: skip


def data(folder) -> list[str]:
    return ["--dataset_name", "imagefolder", "--data_dir", str(folder)]


def recipe_of(method: str) -> Path:
    return RECIPES / f"pretrain_{METHODS[method].paradigm}.py"


def run(method: str, output_dir, *argv) -> int:
    """The recipe of that method in this process; returns its exit code."""
    spec = importlib.util.spec_from_file_location("recipe", recipe_of(method))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    smaller = [f"{name}={value}" for name, value in SMALLER.items() if name in METHODS[method].columns]
    before = sys.argv
    sys.argv = command(method, output_dir, *(["--set", *smaller] if smaller else []), *argv)
    try:
        return module.run_recipe(module.main, module.__doc__, method=METHODS[method].paradigm)
    finally:
        sys.argv = before
        AcceleratorState._reset_state(reset_partial_state=True)
        PartialState._reset_state()


def log_of(output_dir) -> list[dict]:
    """The log without what reruns may differ in."""
    records = read_records(Path(output_dir) / "metrics.jsonl")
    return [{key: value for key, value in record.items() if key != "images_per_second"} for record in records]


def results_of(output_dir) -> dict:
    found = json.loads((Path(output_dir) / "results.json").read_text())
    del found["timing"]
    return found


def weights_of(output_dir) -> dict:
    return load_file(Path(output_dir) / "pretraining" / "model.safetensors")


def assert_same_run(one, other):
    """Weights, log and results bit for bit."""
    first, second = weights_of(one), weights_of(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert log_of(one) == log_of(other)
    assert results_of(one) == results_of(other)


class Stopped(BaseException):
    """The end of a process, as far as the run can see."""


def stop_after(step: int, monkeypatch) -> None:
    noted = MetricsLog.step

    def note(self, record, images, skipped):
        noted(self, record, images, skipped)
        if record["step"] == step:
            raise Stopped

    monkeypatch.setattr(MetricsLog, "step", note)


def command(method, output_dir, *argv):
    return [str(recipe_of(method)), "--method", method, "--output_dir", str(output_dir), *map(str, argv)]


def environment(**more):
    return os.environ | {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"} | more
