"""Images decoded batch by batch, in worker processes that may die or hang without the run hanging with them."""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Thread
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import OF_THE_MACHINE, UserError, as_user_error
from .bad import BadImages, BadRow, StandIn
from .corpora import Corpus
from .shapes import ShapesCorpus

_CHUNK = 64  # images that a worker reads at once
_POLL = 1  # seconds between looks at the workers
TIMEOUT = 120.0  # seconds for a batch

T = TypeVar("T")


class Decoded(NamedTuple):
    """What a worker hands over: indices (n,), their squares uint8 (n, 3, S, S), and what could not be decoded."""

    indices: Tensor
    images: Tensor
    bad: list[BadRow]
    extra: object = None


class Squares(Dataset):
    """What a worker does with a batch: (epoch, indices) to `Decoded`. Bad images are left out or, with a `StandIn`,
    replaced. An error is returned, for the parent to raise: DataLoader would make its text a traceback."""

    def __init__(self, corpus: Corpus | ShapesCorpus, size: int, stand_in: StandIn | None = None):
        self.corpus, self.size, self.stand_in = corpus, size, stand_in

    def __getitems__(self, order: tuple[int | None, Tensor]) -> Decoded | UserError:
        epoch, indices = order
        bad: dict[int, BadRow] = {}
        try:
            images = self.corpus.squares(indices, self.size, bad)
            rows = list(bad.values())
            if bad and self.stand_in:
                indices = indices.clone()
                for i, row in bad.items():
                    indices[i], images[i] = self.stand_in.first(epoch, row.row, lambda other: self._one(other, rows))
            elif bad:
                good = torch.tensor([i not in bad for i in range(len(indices))])
                indices, images = indices[good], images[good]
        except (UserError, *OF_THE_MACHINE) as error:
            return as_user_error(error)
        return Decoded(indices, images, rows)

    def _one(self, row: int, rows: list[BadRow]) -> Tensor | None:
        bad: dict[int, BadRow] = {}
        images = self.corpus.squares(torch.tensor([row]), self.size, bad)
        rows += bad.values()
        return None if bad else images[0]


def _as_it_is(batch: T) -> T:
    return batch


def in_workers(
    dataset: Dataset, orders: Iterable | None, num_workers: int, timeout: float = TIMEOUT, prefetch: int = 2
) -> Iterator:
    """What the dataset makes of each of `orders`, or, where it is iterable, yields, by `num_workers` processes (0: by
    this one), each `prefetch` ahead.

    Raises:
        UserError: that came from a worker; with exit code 1, for a worker that died, or gave nothing in `timeout`
            seconds.
    """
    asked: deque = deque()  # what is not answered yet

    def noted() -> Iterator:
        for order in orders:
            asked.append(order)
            yield order

    loader = DataLoader(
        dataset,
        num_workers=num_workers,
        collate_fn=_as_it_is,
        timeout=_POLL if num_workers else 0,
        prefetch_factor=prefetch if num_workers else None,
        generator=torch.Generator(),  # or it would draw its workers' seeds from the ambient generator
        **({"batch_size": None} if orders is None else {"batch_sampler": noted()}),
    )
    iterator = _made_aside(loader)
    workers = getattr(iterator, "_workers", [])
    while True:
        start = time.monotonic()
        while True:
            try:
                batch = next(iterator, None)
                break
            except (RuntimeError, OSError, EOFError) as error:
                late = time.monotonic() - start
                if not workers or not _is_of_a_worker(error):
                    raise
                died = [worker.exitcode for worker in workers if worker.exitcode]
                if died or late >= timeout:
                    for worker in workers:
                        worker.kill()
                    raise UserError(_what_happened(died, late, asked), exit_code=1) from error
        if batch is None:
            return
        if orders is not None:
            asked.popleft()
        if isinstance(batch, UserError):
            raise batch
        yield batch


def _made_aside(loader: DataLoader) -> Iterator:
    """Made in the main thread, it would raise a death wherever training just is. Nor in an executor's: its threads are
    joined at exit, and a worker that is forked from one cannot join itself, so that it would never end with code 0."""
    made: Future = Future()

    def make() -> None:
        try:
            made.set_result(iter(loader))
        except BaseException as error:
            made.set_exception(error)

    Thread(target=make).start()
    return made.result()


def _is_of_a_worker(error: Exception) -> bool:
    """Rather than of what it does, which it hands over as `Caught …`."""
    if isinstance(error, RuntimeError):
        return str(error).startswith(("DataLoader timed out", "DataLoader worker"))
    return not str(error).startswith("Caught ")


def _what_happened(died: list[int], late: float, asked: deque) -> str:
    where = ""
    if asked:
        rows = asked[0][1].tolist()
        where = f" while rows {', '.join(map(str, rows[:3]))}{', …' if len(rows) > 3 else ''} were awaited"
    if died:
        how = "signal 9, often out of memory" if died[0] == -9 else f"signal {-died[0]}"
        how = how if died[0] < 0 else f"exit code {died[0]}"
        return f"a data worker died ({how}){where}: lower --dataloader_num_workers, and resume"
    return (
        f"data workers gave nothing in {late:.0f} seconds{where}: look at the disk or the network, raise "
        f"--dataloader_timeout, and resume"
    )


def ahead(batches: Iterator[tuple], device: torch.device) -> Iterator[tuple]:
    """The same batches, their last part on the device. On an accelerator each is fetched in a thread, and copied from
    pinned memory, while the one before it is computed with; elsewhere fetching takes the cores that compute, and
    OpenMP lets its threads sleep between operations once another thread has had some of its own."""
    return batches if device.type == "cpu" else _ahead(batches, device)


def _ahead(batches: Iterator[tuple], device: torch.device) -> Iterator[tuple]:
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def fetch() -> tuple | None:
        batch = next(batches, None)
        if batch is None or stream is None:
            return batch
        with torch.cuda.stream(stream):
            return *batch[:-1], batch[-1].pin_memory().to(device, non_blocking=True)

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(fetch)
        while (batch := coming.result()) is not None:
            if stream is not None:
                current = torch.cuda.current_stream(device)
                current.wait_stream(stream)
                batch[-1].record_stream(current)
            coming = pool.submit(fetch)
            yield batch


def read_all(corpus: Corpus | ShapesCorpus, num_workers: int, timeout: float, report: BadImages) -> Iterator[int]:
    """Decode every image and keep none, only the bad ones' names; the numbers of images read, as it goes on."""
    chunks = torch.arange(len(corpus)).split(_CHUNK)
    orders = ((None, chunk) for chunk in chunks)
    for chunk, batch in zip(chunks, in_workers(Squares(corpus, 8), orders, num_workers, timeout)):
        report.add(corpus.split, batch.bad, len(corpus))
        yield len(chunk)


class ImageReader:
    """A corpus decoded batch by batch, ahead of time in `num_workers` processes: the interface of `ImageStore`."""

    where = "decoded for each batch"

    def __init__(
        self,
        corpus: Corpus | ShapesCorpus,
        size: int,
        device: torch.device | str = "cpu",
        num_workers: int = 0,
        timeout: float = TIMEOUT,
        report: BadImages | None = None,
    ):
        self.corpus, self.size, self.num_workers, self.timeout = corpus, size, num_workers, timeout
        self.labels = corpus.labels
        self.device = torch.device(device)
        self.report = report or BadImages()

    def __len__(self) -> int:
        return len(self.corpus)

    def fetch(self, indices: Tensor) -> Tensor:
        """The images `indices` (n,): uint8 (n, 3, size, size) on the device. Raises `UserError` for a bad one."""
        try:
            return self.corpus.squares(indices.cpu(), self.size).to(self.device)
        except OF_THE_MACHINE as error:
            raise as_user_error(error) from error

    def batches(self, orders: Iterable, stand_in: StandIn | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """As those of `ImageStore`. `orders` may be endless; it is read a few batches ahead."""
        given = orders if stand_in else ((None, indices) for indices in orders)

        def decoded() -> Iterator[tuple[Tensor, Tensor]]:
            squares = Squares(self.corpus, self.size, stand_in)
            for batch in in_workers(squares, given, self.num_workers, self.timeout):
                self.report.add(self.corpus.split, batch.bad, len(self))
                if len(batch.indices):
                    yield batch.indices, batch.images

        return ahead(decoded(), self.device)
