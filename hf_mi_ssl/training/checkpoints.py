"""Checkpoints that are complete or absent, and hold no pickle: safetensors and JSON.

A checkpoint is written into a temporary directory, every file synced to disk and listed with size and digest in
`manifest.json`, then the directory is renamed. The newest directory whose manifest verifies *is* the pointer. Older
ones are removed only after a newer one has been renamed, and renamed themselves first, so none is ever half there.
"""

import contextlib
import json
import logging
import math
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import MALFORMED, ExitCode, UserError
from ..files import digest, discard, is_directory, is_plain_file, sync, sync_and_digest
from .trees import join, split

FORMAT_VERSION = 1
_PREFIX, _TEMPORARY, _DELETED = "checkpoint-", ".tmp-", ".del-"
_MANIFEST, _RECORD = "manifest.json", "record.json"
_JSON_LIMIT = 2**26  # bytes: hundreds of thousands of parameters
_OF_WEIGHTS, _BESIDE = 64, 2**26  # bytes of another state, at most: so many times the weights (Kron: 5), and so many
_WAY_OUT = "`--resume_from_checkpoint latest` takes the newest complete one"

logger = logging.getLogger(__name__)


def save_checkpoint(root: Path, step: int, states: dict[str, dict], record: dict, total_limit: int) -> Path:
    """Write `root/checkpoint-<step>` atomically; then keep the `total_limit` newest up to it.

    `states` maps names to state dicts (nested dictionaries and lists of tensors, numbers, strings); `record` is JSON
    that the resuming run compares with itself. To be called on one process, at the end of a step. A checkpoint of
    that step that is complete already stays as it is.

    Raises:
        UserError: if it cannot be written, or would hold a tensor that is not finite; earlier ones stay.
    """
    final = root / f"{_PREFIX}{step}"
    trees, tensors = {}, {name: {} for name in states}
    for name, state in states.items():
        trees[name] = split(state, "", tensors[name])
        _refuse_not_finite(name, tensors[name], root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        _sweep(root)
        if final not in _candidates(root) or verify(final) is not None:
            _write(final, step, trees, tensors, record)
        for old in [path for path in _candidates(root) if _step(path) <= step][total_limit:]:
            _remove(old)
    except (OSError, SafetensorError) as error:
        size = sum(tensor.nbytes for of_part in tensors.values() for tensor in of_part.values())
        raise _not_written(final, size, error) from error
    return final


def _write(final: Path, step: int, trees: dict, tensors: dict, record: dict) -> None:
    root, temporary = final.parent, final.with_name(f"{_TEMPORARY}{step}")
    temporary.mkdir()
    for name, tree in trees.items():
        save_file(tensors[name], temporary / f"{name}.safetensors")
        (temporary / f"{name}.json").write_text(json.dumps(tree))
    (temporary / _RECORD).write_text(json.dumps({"step": step} | record))
    files = {path.name: sync_and_digest(path) for path in sorted(temporary.iterdir())}
    manifest = {"format_version": FORMAT_VERSION, "step": step, "files": files}
    (temporary / _MANIFEST).write_text(json.dumps(manifest, indent=1))
    sync(temporary / _MANIFEST)
    sync(temporary)
    if os.path.lexists(final):  # not complete, or none
        _remove(final)
    temporary.rename(final)
    sync(root)
    sync(root.parent)


def latest_checkpoint(root: Path) -> Path | None:
    """The newest checkpoint whose manifest verifies; a warning names each newer one that does not."""
    for path in _candidates(root):
        problem = verify(path)
        if problem is None:
            return path
        logger.warning("passing over checkpoint %s: %s", path, problem)
    return None


def verify(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, in a few words; None if nothing is."""
    try:
        manifest = _read_json(checkpoint / _MANIFEST)
        if manifest["format_version"] != FORMAT_VERSION:
            return f"format {str(manifest['format_version'])[:20]} is not this version's {FORMAT_VERSION}"
        if _RECORD not in manifest["files"]:
            return f"the manifest lacks {_RECORD}"
        for name, recorded in manifest["files"].items():
            path = checkpoint / name
            if Path(name).name != name or Path(name).suffix not in (".json", ".safetensors"):
                return f"its manifest names {name[:80]!r}"
            if not is_plain_file(path):
                return f"{name}, of {_MANIFEST}, is missing"
            if path.stat().st_size != recorded["size"] or digest(path) != recorded["blake2b"]:
                return f"{name} is damaged (by {_MANIFEST})"
    except (OSError, *MALFORMED) as error:
        return f"no valid manifest ({type(error).__name__})"
    return None


def drop_later(root: Path, step: int) -> None:
    """Remove the checkpoints after a step, the newest first: a run that goes on from there will make its own."""
    _sweep(root)
    for path in [path for path in _candidates(root) if _step(path) > step]:
        logger.warning("removing checkpoint %s: the run goes on from step %d", path, step)
        _remove(path)


def load_checkpoint(checkpoint: Path) -> tuple[dict[str, dict], dict]:
    """The states and the record of a checkpoint, as `read_record` and `read_states` give them."""
    record = read_record(checkpoint)
    return read_states(checkpoint), record


def read_record(checkpoint: Path) -> dict:
    """The record of a checkpoint: its `step`, and what was saved with it.

    Raises:
        UserError: if the checkpoint is damaged.
    """
    if problem := verify(checkpoint):
        raise UserError(f"cannot resume from {checkpoint}: {problem}; {_WAY_OUT}")
    with _one_line(checkpoint):
        record = _read_json(checkpoint / _RECORD)
        step, processes = record["step"], record.get("num_processes", 1)  # which the first versions did not note
        if type(step) is not int or step < 0 or type(processes) is not int or not 0 < processes < 10**6:
            raise ValueError("its step or its number of processes is none")
    return record


def read_states(checkpoint: Path, shapes: dict[str, dict[str, tuple] | None] | None = None) -> dict[str, dict]:
    """The states of a checkpoint that verifies, all read before anything is changed.

    Args:
        shapes: the states that there may be, and what state dicts of plain tensors must hold, {state: {key: shape}};
            compared before they are read, and the size of other states with theirs.

    Raises:
        UserError: if they are not what is expected, or not finite.
    """
    states = {}
    with _one_line(checkpoint):
        files = _read_json(checkpoint / _MANIFEST)["files"]
        if shapes and (more := sorted({Path(file).stem for file in files} - {*shapes, "record"})[:3]):
            raise UserError(f"{checkpoint} does not fit this run: it holds {more}", exit_code=ExitCode.OTHER_RUN)
        for file in filter(lambda file: file.endswith(".safetensors"), files):
            name = Path(file).stem
            if shapes and (problem := _misfit(checkpoint / file, shapes)):
                raise UserError(f"{checkpoint} does not fit this run: {problem}", exit_code=ExitCode.OTHER_RUN)
            tensors = load_file(checkpoint / file)
            _refuse_not_finite(name, tensors)
            states[name] = join(_read_json(checkpoint / f"{name}.json"), tensors)
    return states


@contextlib.contextmanager
def _one_line(checkpoint: Path):
    try:
        yield
    except UserError:
        raise
    except (OSError, *MALFORMED, SafetensorError) as error:
        reason = f"{type(error).__name__}: {str(error)[:100]}"
        raise UserError(f"cannot resume from {checkpoint}: no state of a run ({reason}); {_WAY_OUT}") from error


def _misfit(path: Path, shapes: dict[str, dict[str, tuple] | None]) -> str | None:
    """Where the tensors of a file are not those that are expected, or are too many; reads its header only."""
    if (expected := shapes[path.stem]) is None:
        numbers = sum(math.prod(shape) for of in shapes.values() for shape in (of or {}).values())
        size, most = path.stat().st_size, _OF_WEIGHTS * 4 * numbers + _BESIDE
        return f"{path.name} holds {size:,} bytes, of at most {most:,}" if size > most else None
    with safe_open(path, "pt") as file:
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    wanted = {f"/{name}": tuple(shape) for name, shape in expected.items()}
    different = sorted(name for name in found | wanted if found.get(name) != wanted.get(name))
    if not different:
        return None
    first = ", ".join(f"{name[1:]} {found.get(name)} → {wanted.get(name)}" for name in different[:3])
    return f"{len(different)} tensors of {path.stem} differ ({first}{', …' if len(different) > 3 else ''})"


def _refuse_not_finite(part: str, tensors: dict[str, Tensor], root: Path | None = None) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not _is_finite(tensor):
            raise UserError(
                f"{part}{name} is not finite: no checkpoint holds that; resume from the last good one "
                f"({(root and latest_checkpoint(root)) or 'none here'}) and lower --learning_rate",
                exit_code=ExitCode.NOT_FINITE,
            )


def _is_finite(tensor: Tensor) -> bool:
    if tensor.numel() and tensor.itemsize > 1:  # one pass that keeps nothing, ten times as fast; not for 8 bits
        tensor = torch.stack(torch.aminmax(tensor))
    return bool(tensor.isfinite().all())


def _not_written(final: Path, size: int, error: Exception) -> UserError:
    """What a user is told of a checkpoint that cannot be written; gives back the room that was taken."""
    shutil.rmtree(final.with_name(f"{_TEMPORARY}{_step(final)}"), ignore_errors=True)
    try:
        room = f", {shutil.disk_usage(final.parent).free:,} are free"
    except OSError:
        room = ""
    reason = getattr(error, "strerror", None) or str(error)[:100]
    return UserError(
        f"cannot write {final} ({size:,} bytes needed{room}): {reason}; make room and resume, the last good "
        f"checkpoint is {latest_checkpoint(final.parent) or 'none yet'}",
        exit_code=ExitCode.NOT_WRITTEN,
    )


def _read_json(path: Path):
    if not is_plain_file(path) or path.stat().st_size > _JSON_LIMIT:
        raise ValueError(f"{path.name} is no file of a checkpoint")
    return json.loads(path.read_text())


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(_PREFIX))


def _candidates(root: Path) -> list[Path]:
    found = [path for path in root.glob(f"{_PREFIX}*") if path.name.removeprefix(_PREFIX).isdecimal()]
    return sorted(filter(is_directory, found), key=_step, reverse=True)


def _sweep(root: Path) -> None:
    for debris in (*root.glob(f"{_TEMPORARY}*"), *root.glob(f"{_DELETED}*")):
        discard(debris)


def _remove(path: Path) -> None:
    doomed = path.with_name(_DELETED + path.name)  # not a candidate from here on, even if we die while deleting
    discard(doomed)
    path.rename(doomed)
    discard(doomed)
