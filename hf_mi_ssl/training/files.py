"""Files and directories as checkpoints need them: synced, digested, removed, and never a link followed."""

import hashlib
import os
import shutil
from pathlib import Path


def is_plain_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def discard(path: Path) -> None:
    """Delete a directory, or whatever else has its name: of a link, not what it leads to."""
    shutil.rmtree(path) if is_directory(path) else path.unlink(missing_ok=True)


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def sync_and_digest(path: Path) -> dict:
    """What a manifest holds of a file."""
    sync(path)
    return {"size": path.stat().st_size, "blake2b": digest(path)}


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
