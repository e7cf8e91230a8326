"""Leaving on request: SIGTERM, SIGINT, SIGUSR1 and `--max_hours` finish the step, save and end the run.

Processes leave together: their hosts agree once a second or so, over gloo, and no device waits for that. A second
signal ends the process at once; checkpoints are complete or absent, so nothing is damaged.
"""

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_HOURS = 1000  # above the number of any signal
_ONE = 1.0  # seconds within which signals are one request: launchers pass on what a terminal has sent to all already
_CADENCE = 1.0  # seconds between agreements
_TURN = 0.5  # seconds in which the handler of the second signal has its turn


class Stopped(KeyboardInterrupt):
    """The run was asked to stop. Not an `Exception`: nothing takes it for an error of its own."""


class EvaluationInterruptedError(Exception):
    """An evaluation that was broken off: the resumed run makes it."""


class StopSignals:
    """Handles the signals while it is entered. While `deferred` a request is only noted; otherwise `Stopped` is raised
    where the program is: nothing would be lost."""

    def __init__(self):
        self.asked, self.at, self.deferred, self.began = "", 0.0, False, time.monotonic()

    def __enter__(self) -> "StopSignals":
        self.asked, self.deferred, self.began, self.process = "", False, time.monotonic(), os.getpid()
        self.before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        told, self.tells = os.pipe()
        os.set_blocking(self.tells, False)
        self.told_before = signal.set_wakeup_fd(self.tells, warn_on_full_buffer=False)
        threading.Thread(target=_end_at_the_second, args=[told], daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        signal.set_wakeup_fd(self.told_before)
        os.close(self.tells)
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _) -> None:
        if os.getpid() != self.process:  # a worker that was forked: its parent ends it, with SIGTERM
            if number == signal.SIGTERM:
                _end_by(number)
        elif self.asked and time.monotonic() - self.at > _ONE:
            _end_by(number)
        elif not self.asked:
            self.asked, self.at = signal.Signals(number).name, time.monotonic()
            if not self.deferred:
                raise Stopped(self.asked)


SIGNALS = StopSignals()
os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))  # what a worker is told is not its parent's


def _end_at_the_second(told: int) -> None:
    """End this process at the second signal of those that `told` brings even where the handler has no turn: while the
    main thread waits, within a library, for a process that does not answer."""
    first = None
    with os.fdopen(told, "rb", buffering=0) as numbers:
        while number := numbers.read(1):
            if number[0] in _SIGNALS:
                first = first or time.monotonic()
                if time.monotonic() - first > _ONE:
                    time.sleep(_TURN)
                    os._exit(128 + number[0])


class Leaving:
    """The steps of a run, until it is asked to stop.

    Args:
        max_hours: after so many since the process started, as if by a signal.
        process_timeout: minutes in which all processes have to answer each other.
    """

    def __init__(self, max_hours: float | None, process_timeout: float):
        from ..distributed import Agreement

        self.seconds = math.inf if max_hours is None else 3600 * max_hours
        self.agreement = Agreement(process_timeout)
        self.agreed = 0  # the number of a signal, or `_HOURS`
        self.next = 0  # the step after which processes ask each other next

    def steps(self, start: int, steps: int, log, state) -> Iterator[int]:
        """`start` … `steps` − 1, under a progress bar. On request the log and the state of the last one are saved.

        Raises:
            Stopped: then.
        """
        from accelerate.utils import tqdm

        self.clock, self.last, self.next = time.monotonic(), start, start

        def leave_if_asked(done: int) -> None:
            if self._is_time(done, steps):
                log.flush()
                if done > start:
                    state.save(done)
                raise Stopped(f"{self._reason} after step {done:,} of {steps:,}")

        SIGNALS.deferred = True
        try:
            for step in tqdm(range(start, steps), initial=start, total=steps, disable=not sys.stderr.isatty()):
                leave_if_asked(step)
                yield step
            leave_if_asked(steps)
        finally:
            SIGNALS.deferred = False
        if SIGNALS.asked:
            raise Stopped(SIGNALS.asked)

    def interrupt(self) -> None:
        """Between batches of an evaluation: raise `EvaluationInterruptedError` if the run was asked to stop."""
        if SIGNALS.deferred:  # elsewhere the signal itself has interrupted it
            self.agreed, _ = self.agreement.largest(self._asked, 1)
            if self.agreed:
                raise EvaluationInterruptedError(self._reason)

    def _is_time(self, done: int, steps: int) -> bool:
        if not self.agreed and done >= min(self.next, steps):
            now = time.monotonic()
            of_a_cadence = int(_CADENCE * (done - self.last) / max(now - self.clock, 1e-3))
            self.agreed, ahead = self.agreement.largest(self._asked, max(1, of_a_cadence))
            self.next = done + (ahead if self.agreement.of_several else 1)
            self.clock, self.last = now, done
        return bool(self.agreed)

    @property
    def _asked(self) -> int:
        late = time.monotonic() - SIGNALS.began > self.seconds
        return signal.Signals[SIGNALS.asked] if SIGNALS.asked else _HOURS * late

    @property
    def _reason(self) -> str:
        return "--max_hours are over" if self.agreed == _HOURS else signal.Signals(self.agreed).name


def _end_by(number: int) -> None:
    """End this process as if it had no handler."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
