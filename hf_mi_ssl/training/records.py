"""What a run writes: `metrics.jsonl` as it goes, JSON files in one piece, and what it ran on."""

import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor


def write_json(path: Path, value) -> None:
    """Write a JSON file whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w") as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_records(path: Path) -> list[dict]:
    """The complete lines of a `metrics.jsonl`; a last line torn by a crash is left out."""
    records = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


class MetricsLog:
    """`metrics.jsonl`: one line for each step, its values fetched from the device only every `every` steps.

    Only the process that `writes` touches the file. A resumed run drops what was logged after its checkpoint, so that
    every step stands there once.
    """

    def __init__(self, path: Path, resumed_step: int, writes: bool, every: int = 20):
        self.path, self.writes, self.every = path, writes, every
        self.pending: list[dict] = []
        self.images, self.clock = 0, time.perf_counter()
        if writes:
            kept = [record for record in read_records(path) if record["step"] <= resumed_step] if resumed_step else []
            temporary = path.with_name(f".{path.name}.tmp")
            temporary.write_text("".join(json.dumps(record) + "\n" for record in kept))
            temporary.replace(path)

    def step(self, values: dict, images: int) -> list[dict]:
        """Note the values of a step, tensors or numbers; returns the records that were written, if any were."""
        self.pending.append(values)
        self.images += images
        return self.flush() if len(self.pending) >= self.every else []

    def flush(self) -> list[dict]:
        """Write what is pending, with the images per second since the last flush."""
        records = [{key: _number(value) for key, value in values.items()} for values in self.pending]
        now = time.perf_counter()
        for record in records:
            record["images_per_second"] = round(self.images / (now - self.clock), 1)
        self.pending, self.images, self.clock = [], 0, now
        return self._write(records)

    def evaluation(self, values: dict) -> list[dict]:
        """Write a line of its own for an evaluation, after the steps before it; its time is not training time."""
        records = self.flush() if self.pending else []
        records += self._write([{key: _number(value) for key, value in values.items()}])
        self.clock = time.perf_counter()
        return records

    def _write(self, records: list[dict]) -> list[dict]:
        if self.writes and records:
            with self.path.open("a") as file:
                file.writelines(json.dumps(record) + "\n" for record in records)
        return records


def _number(value):
    return value.item() if isinstance(value, Tensor) else value


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
