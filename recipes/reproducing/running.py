"""The runs of a matrix, each recipe in a process of its own, so many at a time."""

import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import yaml

from hf_mi_ssl.methods import METHODS

from .matrix import Run

RECIPES = Path(__file__).resolve().parent.parent


def run_all(runs: list[Run], parallel: int) -> int:
    """Run them, so many at a time; returns how many failed. When it is interrupted it ends them first."""
    stop, began, failed = threading.Event(), time.monotonic(), 0
    with ThreadPoolExecutor(parallel) as pool:
        futures = {pool.submit(_run, run, parallel, stop): run for run in runs}
        try:
            for n, future in enumerate(as_completed(futures), 1):
                failed += future.result() != "done"
                left = (time.monotonic() - began) / n * (len(runs) - n) / 60
                print(f"[{n}/{len(runs)}] {futures[future].name} {future.result()}; {left:.0f} min left", flush=True)
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
    return failed


def _run(run: Run, parallel: int, stop: threading.Event) -> str:
    """What is left of a run, its training and then its fine-tunes; returns how it went."""
    config = run.directory / "run.yaml"
    run.directory.mkdir(parents=True, exist_ok=True)
    config.write_text(yaml.safe_dump(run.flags, sort_keys=False, allow_unicode=True))
    if not run.trained:
        recipe = f"pretrain_{METHODS[run.method].paradigm}.py"
        if error := _call(run, [recipe, "--config", config, "--resume_from_checkpoint", "latest"], parallel, stop):
            return error
    for settings in run.finetunes_left:
        output = run.directory / ("finetuned_random" if settings.get("random_encoder") else "finetuned")
        if not (output / "finetune.json").exists():  # half written, if at all
            shutil.rmtree(output, ignore_errors=True)
        place = ["--model", run.directory, "--config", config, "--output_dir", output]
        if error := _call(run, ["finetune.py", *place, *_flags(settings)], parallel, stop):
            return error
    return "done"


def _flags(settings: dict) -> list:
    flags = []
    for name, value in settings.items():
        if value is True or not isinstance(value, bool):
            flags += [f"--{name}", *(value if isinstance(value, list) else [] if value is True else [value])]
    return flags


def _call(run: Run, command: list, parallel: int, stop: threading.Event) -> str:
    """The recipe in a process; returns what went wrong. Its output is unbuffered: an error is the last line."""
    log = run.directory / "log.txt"
    words = [sys.executable, str(RECIPES / command[0]), *map(str, command[1:])]
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, os.cpu_count() // parallel)), "PYTHONUNBUFFERED": "1"}
    with log.open("a") as file:
        process = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, env=environment)
        while process.poll() is None:
            if stop.wait(0.1):
                process.terminate()
                process.wait()
    last = ["no output", *log.read_text(errors="replace").strip().splitlines()][-1]
    return f"failed, {process.returncode}: {last} ({log})" if process.returncode else ""
