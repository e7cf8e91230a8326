"""Checkpoints that are complete or absent, and hold no pickle: safetensors and JSON.

A checkpoint is written into a temporary directory, every file synced to disk and listed with size and digest in
`manifest.json`, then the directory is renamed. The newest directory whose manifest verifies *is* the pointer. Older
ones are removed only after a newer one has been renamed, and renamed themselves first, so none is ever half there.
"""

import json
import logging
import math
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..errors import MALFORMED, ExitCode, UserError
from ..files import discard, is_as_recorded, is_directory, is_plain_file, sync, sync_and_digest
from .trees import apart, split

FORMAT_VERSION = 1
_PREFIX, _TEMPORARY, _DELETED, _ASIDE = "checkpoint-", ".tmp-", ".del-", "unread-"
MANIFEST, RECORD = "manifest.json", "record.json"
_JSON_LIMIT = 2**26  # bytes: hundreds of thousands of parameters

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
    try:
        root.mkdir(parents=True, exist_ok=True)
        _sweep(root)
        if final not in _candidates(root) or verify(final) is not None:
            _write(final, step, trees, tensors, record)
        for old in [path for path in _candidates(root) if _step(path) <= step][total_limit:]:
            _tidy(_remove, old)
    except UserError:  # not finite
        _tidy(discard, _temporary(final))
        raise
    except (OSError, SafetensorError) as error:
        size = sum(tensor.nbytes for of_part in tensors.values() for tensor in of_part.values())
        raise _not_written(final, size, error) from error
    return final


def _write(final: Path, step: int, trees: dict, tensors: dict, record: dict) -> None:
    root, temporary = final.parent, _temporary(final)
    temporary.mkdir()
    for name, tree in trees.items():
        # Torch computes in this thread: OpenMP would let its threads sleep from then on if it did in another
        with ThreadPoolExecutor(1) as beside:
            saved = beside.submit(save_file, apart(tensors[name]), temporary / f"{name}.safetensors")
            refuse_not_finite(name, tensors[name], root)
            saved.result()
        (temporary / f"{name}.json").write_text(json.dumps(tree))
    (temporary / RECORD).write_text(json.dumps(record | {"step": step}))
    files = {path.name: sync_and_digest(path) for path in sorted(temporary.iterdir())}
    manifest = {"format_version": FORMAT_VERSION, "step": step, "files": files}
    (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1))
    sync(temporary / MANIFEST)
    sync(temporary)
    if os.path.lexists(final):  # not complete, or none
        _remove(final)
    temporary.rename(final)
    sync(root)
    sync(root.parent)


def _temporary(final: Path) -> Path:
    return final.with_name(f"{_TEMPORARY}{_step(final)}")


def latest_checkpoint(root: Path, before: float = math.inf) -> Path | None:
    """The newest checkpoint, of a step before that one, whose manifest verifies; a warning names each newer one that
    does not."""
    for path in filter(lambda path: _step(path) < before, _candidates(root)):
        problem = verify(path)
        if problem is None:
            return path
        logger.warning("passing over checkpoint %s: %s", path, problem)
    return None


def verify(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, in a few words; None if nothing is."""
    try:
        manifest = read_json(checkpoint / MANIFEST)
        if manifest["format_version"] != FORMAT_VERSION:
            return f"format {str(manifest['format_version'])[:20]} is not this version's {FORMAT_VERSION}"
        if checkpoint.name.removeprefix(_PREFIX).isdecimal() and _step(checkpoint) != manifest["step"]:
            return f"its manifest is that of step {str(manifest['step'])[:20]}"
        if RECORD not in manifest["files"]:
            return f"the manifest lacks {RECORD}"
        for name, recorded in manifest["files"].items():
            path = checkpoint / name
            if Path(name).name != name or Path(name).suffix not in (".json", ".safetensors"):
                return f"its manifest names {name[:80]!r}"
            if not is_plain_file(path):
                return f"{name}, of {MANIFEST}, is missing"
            if not is_as_recorded(path, recorded):
                return f"{name} is damaged (by {MANIFEST})"
    except (OSError, *MALFORMED) as error:
        return f"no valid manifest ({type(error).__name__})"
    return None


def drop_later(root: Path, step: int) -> None:
    """Remove the checkpoints after a step, the newest first: a run that goes on from there will make its own. One that
    does not verify is set aside under another name: a later version, or a disk in better health, may read it."""
    _sweep(root)
    for path in [path for path in _candidates(root) if _step(path) > step]:
        if verify(path) is None:
            logger.warning("removing checkpoint %s: the run goes on from step %d", path, step)
            _remove(path)
        else:
            aside = path.with_name(f"{_ASIDE}{path.name}-{int(path.stat().st_mtime)}")
            logger.warning("setting checkpoint %s aside as %s", path, aside.name)
            path.rename(aside)


def refuse_not_finite(part: str, tensors: dict[str, Tensor], root: Path | None = None) -> None:
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
    shutil.rmtree(_temporary(final), ignore_errors=True)
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


def read_json(path: Path):
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
        _tidy(discard, debris)


def _tidy(remove: Callable[[Path], None], path: Path) -> None:
    """What cannot be removed now is tried again at the next save: a run does not end for that."""
    try:
        remove(path)
    except OSError as error:
        logger.warning("cannot remove %s (%s): it takes room until that is possible", path, error.strerror)


def _remove(path: Path) -> None:
    doomed = path.with_name(_DELETED + path.name)  # not a candidate from here on, even if we die while deleting
    discard(doomed)
    path.rename(doomed)
    discard(doomed)
