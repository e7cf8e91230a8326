"""Checkpoints that are complete or absent, and hold no pickle: safetensors and JSON.

A checkpoint is written into a temporary directory, every file synced to disk and listed with size and digest in
`manifest.json`, then the directory is renamed. The newest directory whose manifest verifies *is* the pointer. Older
ones are removed only after a newer one has been renamed, and renamed themselves first, so none is ever half there.
"""

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import UserError

FORMAT_VERSION = 1
_PREFIX, _TEMPORARY, _DELETED = "checkpoint-", ".tmp-", ".del-"
_MANIFEST = "manifest.json"

logger = logging.getLogger(__name__)


def save_checkpoint(root: Path, step: int, states: dict[str, dict], record: dict, total_limit: int) -> Path:
    """Write `root/checkpoint-<step>` atomically; then keep the `total_limit` newest.

    `states` maps names to state dicts (nested dictionaries and lists of tensors, numbers, strings); `record` is JSON
    that the resuming run compares with itself. To be called on one process, at the end of a step.
    """
    root.mkdir(parents=True, exist_ok=True)
    _sweep(root)
    temporary = root / f"{_TEMPORARY}{step}"
    temporary.mkdir()
    for name, state in states.items():
        tensors: dict[str, Tensor] = {}
        tree = _split(state, "", tensors)
        save_file(tensors, temporary / f"{name}.safetensors")
        (temporary / f"{name}.json").write_text(json.dumps(tree))
    (temporary / "record.json").write_text(json.dumps({"step": step} | record))
    files = {path.name: _sync_and_digest(path) for path in sorted(temporary.iterdir())}
    manifest = {"format_version": FORMAT_VERSION, "step": step, "files": files}
    (temporary / _MANIFEST).write_text(json.dumps(manifest, indent=1))
    _sync(temporary / _MANIFEST)
    _sync(temporary)
    final = root / f"{_PREFIX}{step}"
    if final.exists():  # an invalid one, or the same step again
        _remove(final)
    temporary.rename(final)
    _sync(root)
    for old in _candidates(root)[total_limit:]:
        _remove(old)
    return final


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
        manifest = json.loads((checkpoint / _MANIFEST).read_text())
        if manifest["format_version"] != FORMAT_VERSION:
            return f"format {manifest['format_version']} is not this version's {FORMAT_VERSION}"
        for name, recorded in manifest["files"].items():
            path = checkpoint / Path(name).name
            if not path.is_file() or path.is_symlink():
                return f"{name} is missing"
            if path.stat().st_size != recorded["size"] or _digest(path) != recorded["blake2b"]:
                return f"{name} is damaged"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"no valid manifest ({type(error).__name__})"
    return None


def load_checkpoint(checkpoint: Path) -> tuple[dict[str, dict], dict]:
    """The states and the record of a checkpoint, all read before anything is changed.

    Raises:
        UserError: if it is damaged.
    """
    problem = verify(checkpoint)
    if problem:
        raise UserError(f"cannot resume from {checkpoint}: {problem}; `--resume_from_checkpoint latest` takes the "
                        "newest complete one")  # fmt: skip
    states = {}
    for path in sorted(checkpoint.glob("*.safetensors")):
        tensors = load_file(path)
        states[path.stem] = _join(json.loads(path.with_suffix(".json").read_text()), tensors)
    return states, json.loads((checkpoint / "record.json").read_text())


def _candidates(root: Path) -> list[Path]:
    found = [path for path in root.glob(f"{_PREFIX}*") if path.name.removeprefix(_PREFIX).isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix(_PREFIX)), reverse=True)


def _sweep(root: Path) -> None:
    for debris in (*root.glob(f"{_TEMPORARY}*"), *root.glob(f"{_DELETED}*")):
        shutil.rmtree(debris)


def _remove(path: Path) -> None:
    doomed = path.with_name(_DELETED + path.name)  # not a candidate from here on, even if we die while deleting
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    shutil.rmtree(doomed)


def _split(value, path: str, tensors: dict[str, Tensor]):
    """The tree without its tensors, which go to `tensors` under their path. Floats keep every bit, as hex."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu().contiguous().clone()  # clone: safetensors refuses shared memory
        return {"tensor": path}
    if isinstance(value, dict):
        items = [[_key(key), _split(inner, f"{path}/{key}", tensors)] for key, inner in value.items()]
        return {"dict": items}
    if isinstance(value, (list, tuple)):
        items = [_split(inner, f"{path}/{i}", tensors) for i, inner in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": items}
    if isinstance(value, float):
        return {"float": value.hex()}
    if value is None or isinstance(value, (bool, int, str)):
        return {"value": value}
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__} (at {path!r})")


def _key(key):
    if isinstance(key, (int, str)):
        return key
    raise TypeError(f"a checkpoint cannot hold a dictionary key of type {type(key).__name__}")


def _join(tree: dict, tensors: dict[str, Tensor]):
    ((kind, value),) = tree.items()
    if kind == "tensor":
        return tensors[value].clone()  # in memory of torch's own alignment, on which the last bit of a sum can depend
    if kind == "dict":
        return {key: _join(inner, tensors) for key, inner in value}
    if kind == "list":
        return [_join(inner, tensors) for inner in value]
    if kind == "tuple":
        return tuple(_join(inner, tensors) for inner in value)
    return float.fromhex(value) if kind == "float" else value


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _sync_and_digest(path: Path) -> dict:
    _sync(path)
    return {"size": path.stat().st_size, "blake2b": _digest(path)}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
