"""Workers that die or hang end the run in one line, in time, whatever the main process is doing."""

import errno
import gc
import os
import signal
import time

import pytest
import torch

from hf_mi_ssl.data import readers
from hf_mi_ssl.data.readers import ImageReader
from hf_mi_ssl.data.store import ImageStore
from hf_mi_ssl.errors import UserError


@pytest.fixture(autouse=True)
def no_loader_before():
    """A loader made in the main thread, by an earlier test, has torch raise a death wherever that thread just is."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    yield
    gc.collect()  # the loaders of this test end, and their workers are nobody's any more
    signal.signal(signal.SIGCHLD, before)


class Numbers:
    """A corpus of 40 images of one colour, of which number 21 is fatal."""

    name, split, labels = "numbers", "train", None

    def __init__(self, fate):
        self.fate = fate

    def __len__(self):
        return 40

    def squares(self, indices, size, bad=None):
        if 21 in indices:
            self.fate()
        return indices.to(torch.uint8)[:, None, None, None].expand(-1, 3, size, size).contiguous()


ORDERS = [torch.arange(start, start + 4) for start in range(0, 40, 4)]


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def gone():
    os._exit(7)


@pytest.mark.parametrize(
    ("fate", "said"),
    [
        (killed, r"a data worker died \(signal 9, often out of memory\) while rows \d+, .* were awaited: lower"),
        (gone, r"a data worker died \(exit code 7\)"),
        (
            lambda: time.sleep(60),
            r"gave nothing in [34] seconds while rows 20, 21, 22, … were awaited: .* raise --dataloader_timeout",
        ),
    ],
    ids=["killed", "exits", "hangs"],
)
@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_worker_that_dies_or_hangs_is_one_line_in_time(fate, said, num_workers):
    start = time.monotonic()
    seen = []
    with pytest.raises(UserError, match=said) as error:
        for indices, images in ImageReader(Numbers(fate), 2, num_workers=num_workers, timeout=3).batches(ORDERS):
            time.sleep(0.05)  # a step: the death comes while the main process is here
            assert torch.equal(images[:, 0, 0, 0], indices)
            seen += indices.tolist()
    assert time.monotonic() - start < 12
    assert error.value.exit_code == 1
    assert "\n" not in str(error.value)
    assert seen == list(range(len(seen)))  # what a dead worker had ready may be lost
    assert len(seen) <= 20


def test_a_worker_that_dies_while_a_store_is_built_is_one_line():
    with pytest.raises(UserError, match=r"a data worker died \(signal 9.*while rows 0, 1, 2"):
        ImageStore.build(Numbers(killed), 2, num_workers=1, timeout=3)


def test_slow_is_not_stuck():
    slow = ImageReader(Numbers(lambda: time.sleep(2.5)), 2, num_workers=1, timeout=10)
    assert torch.cat([indices for indices, _ in slow.batches(ORDERS)]).tolist() == list(range(40))


def test_what_is_wrong_with_the_code_is_not_blamed_on_workers():
    def broken():
        raise RuntimeError("a mistake")

    with pytest.raises(RuntimeError, match="a mistake"):
        list(ImageReader(Numbers(broken), 2, num_workers=1, timeout=3).batches(ORDERS))


def test_workers_that_end_as_they_should_are_no_death_to_a_program_that_watches_its_own(monkeypatch):
    """torch raises every exit that is not 0, of any of its workers, once the main thread has made a loader."""
    made = []
    real = readers.DataLoader.__iter__

    def noted(loader):
        made.append(real(loader))
        return made[-1]

    monkeypatch.setattr(readers.DataLoader, "__iter__", noted)
    read = list(ImageReader(Numbers(lambda: None), 8, "cpu", 2).batches(ORDERS))
    assert [indices.tolist() for indices, _ in read] == [order.tolist() for order in ORDERS]
    workers = made[0]._workers
    for worker in workers:
        worker.join(20)
    assert [worker.exitcode for worker in workers] == [0, 0]


def unreadable():
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def no_memory():
    raise MemoryError


@pytest.mark.parametrize(("fate", "said"), [(unreadable, "Input/output error"), (no_memory, "no memory left")])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_of_the_machine_ends_a_run_and_drops_no_batch(fate, said, num_workers):
    seen = []
    with pytest.raises(UserError, match=f"the data cannot be read now .*{said}.*resume") as error:
        for indices, _ in ImageReader(Numbers(fate), 2, num_workers=num_workers, timeout=3).batches(ORDERS):
            seen += indices.tolist()
    assert error.value.exit_code == 1
    assert seen == list(range(20))
