"""What is timed, ours and others': for each (part, group) the cases by name, ours first.

A case is a function of the settings that prepares everything and returns one of no arguments: a round, which returns
what it did, {"images": …} at least. Each case runs in a process of its own, and a library that is not installed raises
ImportError there. Peers do what their examples do.
"""

from benchmarks import end_to_end, evaluation, loaders, machine, steps, views  # noqa: F401  (each registers its cases)
from benchmarks.registry import CASES, Round, Settings

__all__ = ["CASES", "Round", "Settings"]
