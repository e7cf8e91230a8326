"""The one exception for what a user can put right: its text is one line that says what is wrong and the way out."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Wrong arguments or unusable input. Recipes print the text and exit with `exit_code`, without a traceback.

    `exit_code` is 2 for wrong arguments and 1 for input that turned out unusable half-way (a corrupt image, say).
    """

    def __init__(self, message: str, exit_code: int = 2):
        super().__init__(" ".join(message.split()))
        self.exit_code = exit_code


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that does not exist: it gives the nearest known one, or all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    return UserError(f"unknown {kind} {name!r}; {hint}")
