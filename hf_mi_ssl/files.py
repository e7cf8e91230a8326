"""Files that are whole or absent however a process ends: written under another name, synced, renamed; digested,
removed, and never a link followed."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import xxhash


@contextlib.contextmanager
def whole(path: Path, mode: str = "w"):
    """A file to write, which has the name `path` once all of it is on the disk. What was there stays until then."""
    temporary = temporary_of(path)
    temporary.unlink(missing_ok=True)
    try:
        with temporary.open(mode.replace("w", "x"), encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value) -> None:
    """Write a JSON file whole or not at all."""
    with whole(path) as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")


def temporary_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def is_plain_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def discard(path: Path) -> None:
    """Delete a directory, or whatever else has its name: of a link, not what it leads to."""
    shutil.rmtree(path) if is_directory(path) else path.unlink(missing_ok=True)


def digest(path: Path, kind: str | Callable = xxhash.xxh3_128) -> str:
    """Tells damage, at the rate of memory; whoever can write the file can write its manifest, so no more is asked."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def is_as_recorded(path: Path, recorded: dict) -> bool:
    """Whether a file has the size and the digest that a manifest holds of it, also one of an earlier version."""
    if path.stat().st_size != recorded["size"]:
        return False
    if "blake2b" in recorded:
        return digest(path, lambda: hashlib.blake2b(digest_size=16)) == recorded["blake2b"]
    return digest(path) == recorded["xxh3_128"]


def sync_and_digest(path: Path) -> dict:
    """What a manifest holds of a file. It is read while the disk writes it."""
    with ThreadPoolExecutor(1) as beside:
        synced = beside.submit(sync, path)
        found = {"size": path.stat().st_size, "xxh3_128": digest(path)}
        synced.result()
    return found


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
