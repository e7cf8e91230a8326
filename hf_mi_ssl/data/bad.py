"""Images that cannot be read: what stands in for them in training, how many there may be, and the list of them.

Another image of the same epoch stands in, drawn by counter: a function of (seed, epoch, index) and of the data, like
everything else, so that workers, processes and resuming change nothing.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from torch import Tensor

from ..counter import integers
from ..errors import UserError
from ..files import whole

logger = logging.getLogger(__name__)
_DRAWS = 100  # in which nothing readable was found
_NAMED = 10  # bad images that are named in the log; all are in the list
_FIRST = 1000  # images of a stream of unknown length over which a fraction begins to mean something
_ENTRY = {"split": str, "row": int, "kind": str, "reason": str, "file": str | None}

T = TypeVar("T")


class BadRow(NamedTuple):
    """An image that cannot be read: its number, the kind of a `BadImageError`, the reason, the file if it has one."""

    row: int
    kind: str
    reason: str
    file: str | None = None


@dataclass(frozen=True)
class StandIn:
    """What is trained on in the place of an image that cannot be read: draws from `pool`, int64 (n,), the images of
    the epoch."""

    pool: Tensor
    seed: int

    def first(self, epoch: int, index: int, read: Callable[[int], T | None]) -> tuple[int, T]:
        """The first draw that `read` does not answer by None, and the answer. Raises UserError if there is none."""
        for draw in range(_DRAWS):
            other = int(self.pool[integers(len(self.pool), "stand-in", self.seed, epoch, index, draw)])
            if (found := read(other)) is not None:
                return other, found
        raise UserError(f"{_DRAWS} images drawn at random cannot be read: see `hf-mi-ssl check-data`", exit_code=1)


@dataclass
class BadImages:
    """The bad images of a run so far.

    Args:
        policy: `error` ends the run at the first; `skip` names each once and goes on.
        max_fraction: of the images of a split; above it the run ends.
        path: where `write` puts the list; None where there is no place for one.
        speaks: whether this process names images and writes the list: one of them does.
    """

    policy: str = "skip"
    max_fraction: float = 0.01
    path: Path | None = None
    speaks: bool = True
    found: dict[tuple[str, int], dict] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)  # of bad images in a split

    def add(self, split: str, rows: Iterable[BadRow], total: int | None, read: int = 0) -> None:
        """Note bad images of a split of `total` images, or of unknown length, of which so many have been read.

        Raises:
            UserError: with exit code 1, for the first under the policy `error`, and above `max_fraction`.
        """
        for row in rows:
            self._note({"split": split} | row._asdict())
        limit = self.max_fraction * (max(read, _FIRST) if total is None else total)
        self.limits[split] = max(limit, self.limits.get(split, 0.0))  # of a sample first, then of the whole
        self.check()

    def _note(self, entry: dict) -> None:
        key = entry["split"], entry["row"]
        if key in self.found:
            return
        self.found[key] = entry
        file = f" ({entry['file']})" if entry["file"] else ""
        said = f"split {entry['split']!r}, row {entry['row']}{file}: {entry['reason']}"
        if self.policy == "error":
            raise UserError(f"{said}; replace or remove the image, or give --on_bad_image skip", exit_code=1)
        if self.speaks and len(self.found) <= _NAMED:
            more = "; further ones are not named here" if len(self.found) == _NAMED else ""
            logger.warning("bad image left out: %s%s", said, more)

    def check(self) -> None:
        """Raises the `UserError` of too many, in any split."""
        for split, limit in self.limits.items():
            bad = [entry for (of, _), entry in sorted(self.found.items()) if of == split]
            if len(bad) > limit:
                self.write()
                listed = f"{self.path} lists them" if self.path else "`hf-mi-ssl check-data` lists them"
                raise UserError(
                    f"{self.summary()}, such as row {bad[0]['row']} ({bad[0]['file'] or bad[0]['reason']}), are more "
                    f"than --max_bad_fraction {self.max_fraction:g} of {split!r}; {listed}", exit_code=1
                )  # fmt: skip

    def kinds(self) -> dict[str, int]:
        """How many there are of each kind."""
        return dict(sorted(Counter(entry["kind"] for entry in self.found.values()).items()))

    def summary(self) -> str:
        """The same in words."""
        kinds = ", ".join(f"{n} {kind}" for kind, n in self.kinds().items())
        return f"{len(self.found):,} bad image{'s' if len(self.found) != 1 else ''} ({kinds})"

    def merge(self, others: Iterable[Iterable[dict]]) -> None:
        """Take up what other processes, or a checkpoint, found. Raises ValueError for what is no bad image."""
        for entry in (entry for other in others for entry in other):
            if entry.keys() != _ENTRY.keys() or not all(isinstance(entry[key], kind) for key, kind in _ENTRY.items()):
                raise ValueError("its list of bad images holds something else")
            self._note(entry)

    def entries(self) -> list[dict]:
        """All of them, in the order of their splits and rows."""
        return [self.found[key] for key in sorted(self.found)]

    def write(self) -> None:
        """Write the list, a line of JSON for each, whole or not at all; nothing if there are none."""
        if self.path is None or not self.speaks or not self.found:
            return
        with whole(self.path) as file:
            file.writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in self.entries())
