"""What strangers put into files, and what shows whether any of it ran, was asked for, or cost memory."""

import json
import os
import pickle
import resource
import sys
from pathlib import Path

import datasets  # noqa: F401  (what a run imports is there before its memory is limited)
import pytest
import torch

from tests.faults.harness import ends_of, forked

STEPS = ["--max_train_steps", 2, "--checkpointing_steps", 1]
MEMORY = 2**30  # more than a tiny run takes above what the tests themselves have, and far less than what is claimed


class Evil:
    """A pickle that writes into the directory `hacked` when it is read."""

    def __reduce__(self):
        return os.makedirs, ("hacked",)


class Seen:
    """What happened in the processes forked from here: names resolved or connections made, classes unpickled; and, of
    each test, whether anything ran and how many requests there were."""

    def __init__(self):
        self.counts = torch.zeros(2, dtype=torch.int64).share_memory_()
        self.ran, self.requests = [], []
        sys.addaudithook(self._note)

    def _note(self, event, arguments):
        if event in ("socket.getaddrinfo", "socket.connect", "socket.gethostbyname"):
            self.counts[0] += 1
        elif event == "pickle.find_class":
            self.counts[1] += 1

    def attempt(self, function, capfd, seconds=30) -> tuple[int, str]:
        """The exit code of `function` in a process with little memory and nobody to answer it, and what it said."""
        self.counts.zero_()

        def start():
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
            return function()

        with forked(start, {}) as children:
            (code,) = ends_of(children, seconds)
        said = capfd.readouterr().err
        assert "Traceback" not in said
        self.requests.append(int(self.counts[0]))
        assert self.counts[0] == 0
        return code, said

    def show(self, figure, files: str, wanted: int) -> None:
        """The figures of hostile `files`, when all that are `wanted` were tried."""
        if len(self.requests) < wanted:
            pytest.skip("not all were asked for")
        figure("code run by hostile files", f"{sum(self.ran)} of {len(self.requests)} {files}")
        figure("requests caused by data or configuration", f"{sum(self.requests)} by {files}")


def some_fast(*names):
    """Every fourth of them, and the others as slow tests."""
    return [pytest.param(name, marks=[pytest.mark.slow] if i % 4 else []) for i, name in enumerate(names)]


def written(name: str, content: bytes):
    return lambda at: (at / name).write_bytes(content)


def changed(name: str, change):
    """A JSON file after `change` of its content."""

    def make(at):
        content = json.loads((at / name).read_text())
        (at / name).write_text(json.dumps(change(content) or content))

    return make


def pipe(name):
    def make(at):
        (at / name).unlink(missing_ok=True)
        os.mkfifo(at / name)

    return make


def device(name):
    def make(at):
        (at / name).unlink(missing_ok=True)
        (at / name).symlink_to("/dev/zero")

    return make


def header(text: bytes, length: int | None = None) -> bytes:
    return (len(text) if length is None else length).to_bytes(8, "little") + text


def configured(**keys):
    """A config.json with these keys; those that are None are taken out."""

    def make(at):
        config = json.loads((at / "config.json").read_text()) | keys
        (at / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))

    return make


def in_another_file(**keys):
    """A config.json that sends transformers to another one."""

    def make(at):
        configured(**keys)(at)
        (at / "config.json").rename(at / "config.4.0.0.json")
        (at / "config.json").write_text(
            json.dumps({"model_type": "resnet", "configuration_files": ["config.4.0.0.json"]})
        )

    return make


EVIL, DEEP = pickle.dumps(Evil()), b'{"dict":' + b"[" * 100_000
BILLIONS = header(b'{"/a":{"dtype":"F32","shape":[1000000000,1000],"data_offsets":[0,4000000000000]}}')
AUTO_MAP = {name: "modeling_evil.Evil" for name in ("AutoConfig", "AutoModel", "AutoModelForPreTraining")}
REMOTE = {name: f"evil/model--{value}" for name, value in AUTO_MAP.items()}
