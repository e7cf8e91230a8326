"""What a run has to keep of its data: which images are bad, and how far each process has read a stream."""

import logging

import torch
from accelerate.utils import gather_object

from ..data import Part
from ..data.placement import room_for_pixels
from ..distributed import num_processes, process_index

logger = logging.getLogger(__name__)


def memory_of_all() -> int:
    """The bytes that pixels may take in memory on the smallest machine of a run: what is held out depends on it, and
    has to be the same for all processes, which call this together."""
    return min(gather_object([room_for_pixels(torch.device("cpu"))]))


class DataState:
    """A part of a `TrainingState`, beside model and optimiser. Its methods are for all processes together."""

    def __init__(self, train: Part, held: Part | None = None):
        self.report, self.stream, self.fingerprint = train.report, train.stream, train.fingerprint
        parts = {"train": train, "held_out": held}
        self.identity = {f"images_of_{name}": part.contents for name, part in parts.items() if part is not None}
        self.identity |= {} if held is None else {"num_held_out": str(len(held))}

    def bad_images(self) -> dict[str, int]:
        """How many bad images of which kind all processes have found so far; writes their list.

        Raises:
            UserError: with exit code 1, if there are more than may be.
        """
        self.report.merge(gather_object([self.report.entries()]))
        self.report.write()
        self.report.check()
        return self.report.kinds()

    def summary(self) -> str:
        """A line on bad images, if there are any."""
        return f"\n{self.report.summary()}: see {self.report.path.name}" if self.report.found else ""

    def state_dict(self) -> dict:
        self.bad_images()
        positions = gather_object([self.stream.positions]) if self.stream else None
        begun = positions if positions and None not in positions else None
        first = self.stream.first_epoch if self.stream else 0
        return {
            "bad": self.report.entries(),
            "positions": begun,
            "first_epoch": first,
            "read": self.stream.read if self.stream else 0,
            "fingerprint": self.fingerprint,
        }

    def load_state_dict(self, state: dict) -> None:
        self.report.merge([state.get("bad", [])])
        if state.get("fingerprint", self.fingerprint) != self.fingerprint and process_index() == 0:
            logger.warning(
                "the data were moved, or written again, since the checkpoint: as many images as then, and those that "
                "were looked at, up to 256, are the same"
            )
        positions = state.get("positions")
        if not self.stream:
            return
        read = state.get("read", 0)
        if type(read) is not int or not 0 <= read < 1 << 63:
            raise ValueError("it has read no number of images")
        self.stream.begin(state.get("first_epoch", 0))
        self.stream.read = read
        self.report.add(self.stream.split, (), self.stream.num_images, read)  # what may be bad is of all that was read
        if not positions:
            return
        self.stream.check(positions)
        if len(positions) == num_processes():
            self.stream.positions = positions[process_index()]
            return
        self.stream.begin_next_epoch(positions)
        if process_index() == 0:
            logger.warning(
                "the stream was read by %d processes and now is by %d: the order of images differs from here on, and "
                "begins with the next epoch", len(positions), num_processes()
            )  # fmt: skip
