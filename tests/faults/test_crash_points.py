"""Whatever a run writes: a process that dies or a disk that fills up at any point of it costs nothing that was."""

import contextlib
import errno
import itertools
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest
import torch

from hf_mi_ssl import hub
from hf_mi_ssl.data import BadImages, load_corpus, pixel_file
from hf_mi_ssl.data.bad import BadRow
from hf_mi_ssl.errors import ExitCode, UserError
from hf_mi_ssl.hub import export_encoder, export_pretraining
from hf_mi_ssl.hub.evidence import replace_text
from hf_mi_ssl.training import (
    MetricsLog,
    checkpoints,
    latest_checkpoint,
    load_checkpoint,
    read_records,
    save_checkpoint,
    state,
    write_json,
)
from tests.conftest import small_model
from tests.faults.harness import ends_of, forked, images_of, log_of, same, states_of, train, two_processes
from tests.test_checkpoints import a_state

LATEST = ["--resume_from_checkpoint", "latest"]


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def fill_the_disk():
    raise OSError(errno.ENOSPC, "No space left on device")


def run_out_of_memory():
    raise MemoryError


class Points:
    """The points at which writing under a directory can fail: before each operation that changes a file, before each
    sync, whose file is then half there, and in each write of a checkpoint."""

    watched = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")

    def __init__(self):
        self.root, self.fail, self.left, self.passed = None, None, 0, 0
        sys.addaudithook(self.see)

    def see(self, event, arguments) -> None:
        if self.root is None or event not in self.watched or not str(arguments[0]).startswith(str(self.root)):
            return
        if event != "open" or arguments[2] & (os.O_WRONLY | os.O_RDWR):  # what only reads fills no disk
            self.passing()

    def passing(self, torn=lambda: None) -> None:
        self.passed += 1
        self.left -= 1
        if self.left == 0:
            torn()
            self.fail()

    def tearing(self, path: Path, content: bytes) -> None:
        for share in (0.0, 0.5, 0.999):
            self.passing(lambda share=share: path.write_bytes(content[: int(share * len(content))]))

    @contextlib.contextmanager
    def failing(self, at: int, fail, root: Path):
        """In here, the `at`-th point is the one that fails."""
        save_file, write_text, fsync = checkpoints.save_file, Path.write_text, os.fsync

        def torn_save_file(tensors, path):
            save_file(tensors, path)
            self.tearing(path, path.read_bytes())

        def torn_write_text(path, text):
            self.tearing(path, text.encode())
            return write_text(path, text)

        def failing_fsync(descriptor):
            def torn():
                with contextlib.suppress(OSError):  # of a directory, or of what is open for reading
                    os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)

            self.passing(torn)
            fsync(descriptor)

        with (
            mock.patch.object(checkpoints, "save_file", torn_save_file),
            mock.patch.object(Path, "write_text", torn_write_text),
            mock.patch.object(os, "fsync", failing_fsync),
        ):
            self.left, self.passed, self.fail, self.root = at, 0, fail, root
            try:
                yield
            finally:
                self.root = None


@pytest.fixture(scope="module")
def points():
    return Points()  # an audit hook stays


class Written(NamedTuple):
    """Something that a run writes: what lies there before, how it is written, and what is there, in one word."""

    before: Callable[[Path], None]
    write: Callable[[Path], None]
    holds: Callable[[Path], str]
    allowed: tuple[str, ...] = ("old", "new")


def checkpoint(keep: int) -> Written:
    def before(root):
        for step in (1, 2):
            save_checkpoint(root, step, a_state(step), {}, keep)

    def holds(root):
        states, record = load_checkpoint(latest_checkpoint(root))
        assert same(states, a_state(record["step"]))  # all of one step, nothing mixed
        return {2: "old", 3: "new"}[record["step"]]

    return Written(before, lambda root: save_checkpoint(root, 3, a_state(3), {}, keep), holds)


def files_of(root: Path) -> dict[str, bytes]:
    """What is there under a name that is not hidden."""
    found = {path.relative_to(root): path for path in root.rglob("*") if path.is_file()}
    return {str(name): path.read_bytes() for name, path in found.items() if "/." not in f"/{name}"}


def model(export, directory="") -> Written:
    """Of another seed than the one that lies there."""
    wanted: dict[str, dict] = {}

    def write(root, seed):
        export(small_model("byol", seed), root)

    def holds(root):
        found = files_of(root / directory)
        if "config.json" not in found:
            return "none"
        for seed, word in enumerate(("old", "new")):
            if word not in wanted:
                other = root.with_name(f"{root.name}-{word}")
                write(other, seed)
                wanted[word] = files_of(other / directory)
        return next(word for word, files in wanted.items() if found == files)

    return Written(lambda root: write(root, 0), lambda root: write(root, 1), holds, ("old", "none", "new"))


def written_whole(name: str, write: Callable[[Path, str], None]) -> Written:
    def holds(root):
        return next(word for word in ("old", "new") if word in (root / name).read_text())

    return Written(lambda root: write(root / name, "old"), lambda root: write(root / name, "new"), holds)


def bad_list(path: Path, reason: str) -> None:
    bad = BadImages(path=path)
    bad.add("train", [BadRow(3, "truncated", reason)], 1000)
    bad.write()


class Alone:
    """What the log asks of Accelerate."""

    is_main_process = True

    def wait_for_everyone(self):
        pass


def log_that_goes_on() -> Written:
    """From step 2, where step 4 was reached: its lines go, and with them the checkpoint that belongs to them."""

    def before(root):
        records = [{"step": step, "loss": 1.0} for step in range(1, 5)]
        (root / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        for step in (2, 4):
            save_checkpoint(root / "checkpoints", step, a_state(step), {}, 2)

    def write(root):
        MetricsLog(root / "metrics.jsonl", 2, Alone(), mock.Mock(), mock.Mock())

    def holds(root):
        steps = [record["step"] for record in read_records(root / "metrics.jsonl")]
        newest = load_checkpoint(latest_checkpoint(root / "checkpoints"))[1]["step"]
        assert newest <= len(steps)  # no checkpoint lacks its log
        return {(1, 2, 3, 4): "old", (1, 2): "new"}[tuple(steps)]

    return Written(before, write, holds)


ENCODER = {"image_size": 8, "mean": [0.5] * 3, "std": [0.5] * 3}
WRITTEN = {
    "checkpoint, keep 1": checkpoint(1),
    "checkpoint, keep 2": checkpoint(2),
    "encoder": model(lambda trained, root: export_encoder(trained.encoder, root, **ENCODER)),
    "whole model": model(export_pretraining, "pretraining"),
    "log that goes on": log_that_goes_on(),
    "results": written_whole("results.json", lambda path, word: write_json(path, {"is": word})),
    "card": written_whole("README.md", replace_text),
    "list of bad images": written_whole("bad_images.jsonl", bad_list),
}
FAILURES = [kill, fill_the_disk, run_out_of_memory]
FAST = {("checkpoint, keep 1", fill_the_disk), ("log that goes on", kill), ("list of bad images", kill)}


def failed(act, fail) -> bool:
    """Whether it failed, in this process in an error that is expected, or in another that was killed."""
    if fail is kill:
        with forked(lambda: act() or 0, {}) as children:
            return ends_of(children) == [-signal.SIGKILL]
    try:
        act()
    except MemoryError:
        return fail is run_out_of_memory
    except (UserError, OSError) as error:
        return "No space left" in str(error)
    return False


@pytest.mark.parametrize(
    ("name", "fail"),
    [
        pytest.param(name, fail, marks=() if (name, fail) in FAST else pytest.mark.slow)
        for name in WRITTEN
        for fail in FAILURES
    ],
    ids=lambda one: getattr(one, "__name__", one),
)
def test_what_was_there_or_what_comes_is_there_whole(name, fail, points, tmp_path, figure):
    """After a failure at any point; and the same command then leaves what it leaves undisturbed."""
    before, write, holds, allowed = WRITTEN[name]
    for place in ("template", "whole"):
        (tmp_path / place).mkdir()
        before(tmp_path / place)
    write(tmp_path / "whole")
    for at in itertools.count(1):
        root = tmp_path / "root"
        shutil.copytree(tmp_path / "template", root)

        def act(at=at, root=root):
            with points.failing(at, fail, root):
                write(root)

        said = failed(act, fail)
        assert holds(root) in allowed
        write(root)
        assert holds(root) == "new"
        assert files_of(root) == files_of(tmp_path / "whole")
        assert {path.name for path in root.rglob("*")} == {path.name for path in (tmp_path / "whole").rglob("*")}
        shutil.rmtree(root)
        if not said and (fail is kill or points.left > 0):
            break
    assert at > 4
    figure("crash points of what a run writes survived", f"{at - 1} of {at - 1} ({name}, {fail.__name__})")


@pytest.mark.parametrize("fail", FAILURES, ids=lambda fail: fail.__name__)
def test_a_file_of_pixels_is_there_whole_or_decoded_again(fail, points, flat, tmp_path, figure):
    corpus = load_corpus("imagefolder", data_dir=str(flat), split="train")

    def pixels(root):
        return pixel_file.open_file(corpus, 8, root, 0, 60, BadImages())[0].clone()

    wanted = pixels(tmp_path / "whole")
    for at in itertools.count(1):
        root = tmp_path / f"at-{at}"
        pixels(root)
        damaged = next(root.glob("*.uint8"))
        damaged.write_bytes(bytes(damaged.stat().st_size))  # it has to be written again

        def act(at=at, root=root):
            with points.failing(at, fail, root):
                pixels(root)

        said = failed(act, fail)
        assert torch.equal(pixels(root), wanted)
        assert not list(root.glob(".*"))
        if not said and (fail is kill or points.left > 0):
            break
    figure("crash points of what a run writes survived", f"{at - 1} of {at - 1} (file of pixels, {fail.__name__})")


ALL = 10**9  # points are counted and none fails
RUN = ["--max_train_steps", 4, "--checkpointing_steps", 1, "--checkpoints_total_limit", 1]


def spread(total: int, n: int) -> list[int]:
    """So many of the points 1 … total, the first and the last among them."""
    return sorted({1 + round(i * (total - 1) / (n - 1)) for i in range(n)})


@pytest.mark.slow
def test_the_process_that_saves_dies_and_two_go_on(points, flat, tmp_path, figure):
    argv = [*images_of(flat), *RUN, "--per_device_train_batch_size", 8, "--process_timeout", 0.15, *LATEST]
    passed = torch.zeros(1, dtype=torch.int64).share_memory_()

    def run(output, at=ALL):
        def save(root, step, *rest):
            if step != 3 or at is None:
                return save_checkpoint(root, step, *rest)
            with points.failing(at, kill, root):
                path = save_checkpoint(root, step, *rest)
            passed.fill_(points.passed)
            return path

        def main():
            with mock.patch.object(state, "save_checkpoint", save):
                return train("jmi", output, *argv)

        return main

    with forked(run(tmp_path / "whole"), *two_processes()) as children:
        assert ends_of(children, 120) == [0, 0]
    survived = 0
    for at in (tried := spread(int(passed), 9)):
        output = tmp_path / f"at-{at}"
        with forked(run(output, at), *two_processes()) as children:
            assert ends_of(children, 120) == [-signal.SIGKILL, ExitCode.PROCESS_LOST]
        with forked(run(output, None), *two_processes()) as children:
            assert ends_of(children, 120) == [0, 0]
        assert same(states_of(output), states_of(tmp_path / "whole"))
        assert log_of(output) == log_of(tmp_path / "whole")
        survived += 1
    figure("crash points of a save on two processes survived", f"{survived} of {len(tried)} of {int(passed)}")


def published(output: Path) -> tuple[set[str], dict]:
    """The names of what a run leaves; and of that, what every run of the same arguments leaves."""
    files = files_of(output)
    results = json.loads(files["results.json"])
    weights = {name: content for name, content in files.items() if name.endswith((".safetensors", "config.json"))}
    return set(files), weights | {"evaluations": results["evaluations"], "growth": results["growth"]}


@pytest.mark.slow
@pytest.mark.parametrize("fail", [kill, fill_the_disk], ids=lambda fail: fail.__name__)
def test_a_run_that_dies_while_it_publishes_is_published_when_it_is_resumed(fail, points, folder, tmp_path, figure):
    argv = [*images_of(folder), *RUN, *LATEST, "--mi_steps", 4]
    assert train("jmi", tmp_path / "trained", *argv) == 0
    passed = torch.zeros(1, dtype=torch.int64).share_memory_()

    def publish(output, at):
        """From the last checkpoint; what is before the export is not counted."""

        def main():
            with contextlib.ExitStack() as stack:

                def export(*arguments, **settings):
                    stack.enter_context(points.failing(at, fail, output))
                    return export_encoder(*arguments, **settings)

                with mock.patch.object(hub, "export_encoder", export):
                    code = train("jmi", output, *argv, publishes=True)
            passed.fill_(points.passed)
            return code

        return main

    def published_after(at):
        output = tmp_path / f"at-{at}"
        shutil.copytree(tmp_path / "trained", output)
        with forked(publish(output, at), {}) as children:
            ends = ends_of(children, 120)
        if at != ALL and ends != [0]:  # nothing may have needed what failed, such as the making of what is there
            assert ends == [-signal.SIGKILL if fail is kill else ExitCode.NOT_WRITTEN]
            with forked(publish(output, ALL), {}) as children:
                ends = ends_of(children, 120)
        assert ends == [0]
        return published(output)

    whole, survived = published_after(ALL), 0
    for at in (tried := spread(int(passed), 9)):
        assert published_after(at) == whole
        survived += 1
    figure("crash points of publishing survived", f"{survived} of {len(tried)} of {tried[-1]} ({fail.__name__})")
