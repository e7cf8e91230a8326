"""The one exception for what a user can put right: its text is one line that says what is wrong and the way out.

And how commands end: each kind of end has an exit code of its own, so that scripts can tell them apart.
"""

import difflib
import errno
import logging
from collections.abc import Iterable
from enum import IntEnum

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
NOT_WRITTEN = (*DISK_FULL, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.EFBIG)

OF_THE_MACHINE = (OSError, EOFError, MemoryError)  # what reading data raises that is no fault of the data
# What the parts of a file that is not ours raise where they are read: deep nesting and huge numbers too
MALFORMED = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


class ExitCode(IntEnum):
    """Exit codes beside 0, each with its `meaning`: the only list of them, of which the guides' table is made."""

    meaning: str

    def __new__(cls, value: int, meaning: str):
        member = int.__new__(cls, value)
        member._value_, member.meaning = value, meaning
        return member

    UNUSABLE = 1, "input turned out unusable half-way (a corrupt image, a damaged download); with a traceback: a bug"
    ARGUMENTS = 2, "wrong arguments, data set or configuration; no step was made"
    COLLAPSED = 3, "`--stop_on_collapse` ended the run; its last checkpoint is kept"
    OTHER_RUN = 65, "the checkpoint belongs to a run that computes something else; all differences are listed"
    NOT_PUSHED = 69, "`recipes/push_to_hub.py` did not succeed; the same command again sends what is missing"
    PROCESS_LOST = 71, "another process of the run died, or did not answer within `--process_timeout`"
    LOCKED = 73, "another run that is still going writes to the same `--output_dir`"
    NOT_WRITTEN = 74, "the disk is full or refuses to be written to; the last good checkpoint is intact"
    STOPPED = 75, "asked to stop (SIGTERM, SIGINT, SIGUSR1, `--max_hours`); saved: resume it"
    NOT_FINITE = 76, "gradients that stay not finite, or embeddings that are; the last good checkpoint is named"


class UserError(ValueError):
    """Wrong arguments or unusable input. Recipes print the text and exit with `exit_code`, without a traceback."""

    def __init__(self, message: str, exit_code: int = ExitCode.ARGUMENTS):
        super().__init__(printable(" ".join(message.split())))
        self.exit_code = exit_code


def as_user_error(error: BaseException) -> UserError:
    """An error of the machine while it reads data, which may be gone the next time, as one that says so."""
    if isinstance(error, UserError):
        return error
    what = "there is no memory left" if isinstance(error, MemoryError) else first_line(error)
    return UserError(f"the data cannot be read now ({what}): mend that, and resume", ExitCode.UNUSABLE)


def printable(text: str) -> str:
    """The text in one line, with what a terminal would obey rather than show written out: names of files may hold new
    lines, escapes, and marks that turn the direction of writing."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def first_line(error: BaseException) -> str:
    """What an error of a library says first, or of which kind it is where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _in_one_line(record: logging.LogRecord) -> bool:
    record.msg, record.args = printable(record.getMessage()), None
    return True


def log_to_terminal() -> None:
    """Have warnings appear on the terminal, each in one line."""
    handler = logging.StreamHandler()
    handler.addFilter(_in_one_line)
    logging.basicConfig(format="%(levelname)s %(message)s", handlers=[handler])


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that does not exist: it gives the nearest known one, or all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    return UserError(f"unknown {kind} {name!r}; {hint}")


def refuse_unknown(kind: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raises the error of `unknown` for the first of the names that does not exist."""
    known = list(known)
    for name in names:
        if name not in known:
            raise unknown(kind, name, known)


def markdown_table() -> str:
    """The exit codes as the guide has them."""
    rows = [f"| {code.value} | {code.meaning} |" for code in ExitCode]
    rows.append("| 128 + n | ended by signal n: the second one, or one that no process can handle |")
    return "\n".join(["| exit code | what happened |", "| --- | --- |", "| 0 | all is done |", *rows])


if __name__ == "__main__":
    print(markdown_table())
