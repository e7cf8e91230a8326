"""`pytest tests/faults --figures` prints what the tests of faults reached, beside what they have to reach."""

import pytest

from tests.faults.harness import RECIPES  # noqa: F401  (the recipes import torch: once, before anything is timed)

# By figure, its goal; tests report what they reached under the same names.
GOALS = {
    "SIGKILLs survived, bitwise, every log line once": "80 of 80, 40 on two processes",
    "crash points of what a run writes survived": "100 % of at least 100",
    "crash points of a save on two processes survived": "100 %",
    "crash points of publishing survived": "100 %",
    "flipped and truncated files rejected by name": "100 % of at least 60",
    "steps lost on SIGTERM, SIGINT, SIGUSR1": "0",
    "resumed at every step, bitwise": "every row, 0 and 2 workers",
    "processes 1, 4, 2, 1: difference in losses": "at most 1e-12",
    "rows at 2 and 3 processes: relative difference": "at most 1e-10",
    "bad images: one line each, or read right": "at least 60",
    "bad arguments and data: one line, exit code 2": "at least 60",
    "code run by hostile files": "0 of at least 50",
    "pickle.find_class events on resume and load": "0",
    "requests caused by data or configuration": "0",
}


def pytest_addoption(parser):
    parser.addoption("--figures", action="store_true", help="print what was reached beside each goal")


def pytest_configure(config):
    config.stash[_REACHED] = {}


_REACHED = pytest.StashKey[dict]()


@pytest.fixture
def figure(request):
    """`figure(name, reached)`, once a test has measured it."""

    def report(name: str, reached) -> None:
        assert name in GOALS
        request.config.stash[_REACHED].setdefault(name, []).append(str(reached))

    return report


def pytest_terminal_summary(terminalreporter, config):
    if config.getoption("--figures"):
        terminalreporter.section("figures")
        for name, goal in GOALS.items():
            reached = "; ".join(config.stash[_REACHED].get(name, ["not run"]))
            terminalreporter.write_line(f"{name:50} {goal:36} {reached}")
