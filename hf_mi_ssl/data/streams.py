"""Images of data sets that are too large to be indexed: shards read in order, shuffled in blocks, epoch after epoch.

A process reads several lanes, each of them one shard after the other, and a part of every batch comes from each lane.
Which shards a lane reads in an epoch, and the order of the rows within a block, are drawn by counter; where a lane is,
is four numbers and what `datasets` says of its shard. So batches are a function of the seed, their number and the
number of processes, whatever the number of workers, and a run goes on from its positions bit for bit.
"""

import logging
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from ..counter import bits, permutation
from ..errors import OF_THE_MACHINE, UserError, as_user_error
from .bad import BadImages, BadRow, StandIn
from .images import BadImageError, Cell, as_cell, decode_cell, to_square
from .readers import TIMEOUT, Decoded, ahead, in_workers
from .shards import ROW_BITS, Rows, is_held_out, next_row, refuse_fewer_than, shards_of

logger = logging.getLogger(__name__)
_LANES = 16  # at most: each holds a shard open, and a part of the block
_EMPTY_EPOCHS = 100  # of a lane, whose shards of an epoch may all be tiny


class _Block(NamedTuple):
    """Rows read together, in the order in which they are used, and where reading them began."""

    start: dict
    epoch: int
    indices: Tensor
    cells: list[Cell]


class ImageStream:
    """The images of one split, by shards.

    An image has a stable index: its shard in the upper bits and its row there in the lower 40. `positions` are where
    the lanes of this process are, JSON, None at the beginning; `num_images` is how many images an epoch has, None if
    that is not known; `read` is how many were read so far.

    Args:
        rows: of `datasets`, streaming, undecoded.
        held_out: the fraction of rows that are not trained on, drawn by `seed`.
        block: rows that are shuffled together in a process.
    """

    def __init__(
        self,
        rows: Rows,
        column: str,
        folders: list[str] | None,
        *,
        split: str,
        size: int,
        seed: int,
        block: int,
        device: torch.device,
        held_out: float = 0.0,
        num_rows: int | None = None,
        num_workers: int = 0,
        timeout: float = TIMEOUT,
        report: BadImages | None = None,
    ):
        self.rows, self.column, self.folders = shards_of(rows.select_columns([column])), column, folders
        self.split, self.size, self.seed, self.block, self.device = split, size, seed, block, device
        self.held_out, self.num_workers, self.timeout = held_out, num_workers, timeout
        self.report = report or BadImages()
        self.num_images = None if num_rows is None else round(num_rows * (1 - held_out))
        self.positions: list[dict] | None = None
        self.first_epoch = 0  # where there are no positions
        self.read = 0  # images that all processes have read so far

    @property
    def where(self) -> str:
        """Where the pixels are, in words."""
        return f"streamed from {self.rows.num_shards:,} shards"

    def lanes(self, batch: int, world: int) -> int:
        """How many lanes a process has: a power of two that divides its batch, so that a part comes from each."""
        lanes = 1
        while 2 * lanes <= min(_LANES, self.rows.num_shards // world) and batch % (2 * lanes) == 0:
            lanes *= 2
        return lanes

    def check(self, positions: list[list[dict]]) -> None:
        """Raises `ValueError` for positions, of all processes, that no lane of this stream can have."""
        for lanes in positions:
            below = {"epoch": (1 << ROW_BITS) - 1, "place": self.rows.num_shards, "row": 1 << ROW_BITS,
                     "emitted": max(1, self.block // len(lanes)) + 1}  # fmt: skip
            for lane in lanes:
                numbers = all(type(lane[key]) is int and 0 <= lane[key] < end for key, end in below.items())
                if not numbers or not isinstance(lane["shard"], dict | None):
                    raise ValueError("its stream is nowhere")

    def begin(self, epoch: int) -> None:
        """Read from the start of that epoch. Raises `ValueError` for what is none."""
        if type(epoch) is not int or not 0 <= epoch < 1 << ROW_BITS:
            raise ValueError("its stream is nowhere")
        self.positions, self.first_epoch = None, epoch

    def begin_next_epoch(self, positions: list[list[dict]]) -> None:
        """Go on after what the lanes of other processes, or of another batch size, have begun to read."""
        self.begin(1 + max(lane["epoch"] for lanes in positions for lane in lanes))

    def batches(self, batch: int, rank: int = 0, world: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Without end: keys for the views of this process's images, int64 (batch,), and the images, uint8
        (batch, 3, S, S), on the device. A key is a function of the epoch and of the index. `positions` follow.

        Raises:
            UserError: as `ImageReader.batches`, and if there is no row to train on.
        """
        lanes, shards = self.lanes(batch, world), self.rows.num_shards
        workers = max((n for n in range(1, lanes + 1) if lanes % n == 0 and n <= self.num_workers), default=0)
        if rank == 0 and shards < world:
            logger.warning(
                "%s has %d shards for %d processes: each process reads all rows and uses a share of them; more shards "
                "would save that", self.split, shards, world
            )  # fmt: skip
        if rank == 0 and workers < self.num_workers:
            logger.warning("%s is read by %d workers a process, for %d lanes of shards", self.split, workers, lanes)
        if self.positions and len(self.positions) != lanes:
            if rank == 0:
                logger.warning(
                    "%s was read in %d lanes and now is in %d, for another batch size: the order of images differs "
                    "from here on, and begins with the next epoch", self.split, len(self.positions), lanes
                )  # fmt: skip
            self.begin_next_epoch([self.positions])
        chunks = _Chunks(self, batch // lanes, lanes, rank, world, self.positions or [None] * lanes)

        def joined() -> Iterator[tuple[list[dict], Tensor, Tensor]]:
            read = self.read  # ahead of it
            source = in_workers(chunks, None, workers, self.timeout, prefetch=max(2, 2 * lanes // max(1, workers)))
            while parts := [part for _, part in zip(range(lanes), source)]:
                read += batch * world
                for part in parts:
                    self.report.add(self.split, part.bad, self.num_images, read)
                keys, images = (torch.cat([getattr(part, of) for part in parts]) for of in ("indices", "images"))
                yield [part.extra for part in parts], keys, images

        for positions, keys, images in ahead(joined(), self.device):
            self.positions, self.read = positions, self.read + batch * world
            yield keys, images


class _Chunks(IterableDataset):
    """What a worker does: for each of its lanes in turn, the next images of the lane as `Decoded`."""

    def __init__(self, stream: ImageStream, n: int, lanes: int, rank: int, world: int, positions: list[dict | None]):
        self.stream, self.n, self.lanes, self.rank, self.world = stream, n, lanes, rank, world
        self.positions = positions

    def __iter__(self) -> Iterator[Decoded | UserError]:
        worker = get_worker_info()
        mine = range(worker.id, self.lanes, worker.num_workers) if worker else range(self.lanes)
        lanes = [self._lane(lane, self.positions[lane]) for lane in mine]
        try:
            while True:
                for lane in lanes:
                    yield next(lane)
        except (UserError, *OF_THE_MACHINE) as error:
            yield as_user_error(error)

    def _lane(self, lane: int, position: dict | None) -> Iterator[Decoded]:
        stream, bad, keys, images = self.stream, [], [], []
        skip = position["emitted"] if position else 0
        for block in self._blocks(lane, position):
            if skip > len(block.indices):
                raise UserError(f"the checkpoint does not fit {stream.split!r}: {skip} images of {len(block.indices)}")
            for emitted in range(skip, len(block.indices)):
                stand_in = StandIn(torch.arange(len(block.indices)), stream.seed)
                place, pixels = emitted, self._pixels(block, bad, emitted)
                if pixels is None:
                    index = int(block.indices[emitted])
                    read = partial(self._pixels, block, bad)
                    place, pixels = stand_in.first(block.epoch, index, read)
                keys.append(bits("image of an epoch", block.epoch, block.indices[place]))
                images.append(pixels)
                if len(images) == self.n:
                    yield Decoded(torch.stack(keys), torch.stack(images), bad, block.start | {"emitted": emitted + 1})
                    bad, keys, images = [], [], []
            skip = 0

    def _pixels(self, block: _Block, bad: list[BadRow], place: int) -> Tensor | None:
        data, path = block.cells[place]
        try:
            return to_square(decode_cell(data, path, self.stream.folders), self.stream.size)
        except BadImageError as error:
            bad.append(BadRow(int(block.indices[place]), error.kind, error.reason, path))
            return None

    def _blocks(self, lane: int, position: dict | None) -> Iterator[_Block]:
        """The blocks of a lane from a position on, without end; a block lies within an epoch."""
        stream, shards = self.stream, self.stream.rows.num_shards
        shared = shards < self.world  # then all processes read all shards
        number, of = (0, 1) if shared else (self.rank * self.lanes + lane, self.world * self.lanes)
        position = position or {"epoch": stream.first_epoch, "place": 0, "row": 0, "shard": None}
        epoch, place, row, state = (position[name] for name in ("epoch", "place", "row", "shard"))
        size, empty, seen, enough = max(1, stream.block // self.lanes), 0, 0, False
        while True:
            order = permutation(shards, "order of shards", stream.seed, epoch)[number::of].tolist()
            source = None
            while place < len(order):
                start = {"epoch": epoch, "place": place, "row": row, "shard": state}
                indices, cells = [], []
                while len(cells) < size and place < len(order):
                    if source is None:
                        shard = stream.rows.shard(shards, order[place])
                        shard.load_state_dict(state) if state else None
                        source = shard.iter(1)  # plain iteration would divide the shard among workers again
                    if (found := next_row(source, stream.split, order[place])) is None:
                        source, state, place, row = None, None, place + 1, 0
                        continue
                    indices.append(order[place] << ROW_BITS | row)
                    cells.append(as_cell(found[stream.column][0]))
                    row += 1
                if source is not None:
                    state = shard.state_dict()
                indices = torch.tensor(indices, dtype=torch.int64)
                keep = ~is_held_out(indices, stream.held_out, stream.seed)
                if shared:
                    keep &= (indices % (1 << ROW_BITS)) % self.world == self.rank
                indices, chosen = indices[keep], keep.nonzero()[:, 0].tolist()
                seen += len(chosen)
                if chosen:
                    empty = 0
                    mixed = permutation(len(chosen), "block", stream.seed, epoch, int(indices[0]))
                    yield _Block(start, epoch, indices[mixed], [cells[chosen[i]] for i in mixed.tolist()])
            if seen < self.n and not enough:  # part of a batch is missing, and another epoch would repeat its images
                of_train = (stream.rows, stream.split, stream.held_out, stream.seed)
                refuse_fewer_than(self.n * self.lanes * self.world, *of_train)
                enough = True
            if empty > _EMPTY_EPOCHS:
                raise UserError(f"{stream.split!r} has no image for process {self.rank}: it is too small", exit_code=1)
            epoch, place, row, state, empty, seen = epoch + 1, 0, 0, None, empty + 1, 0
