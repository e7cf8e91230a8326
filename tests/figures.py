"""`pytest --figures` prints what the tests of faults reached, beside what they have to reach."""

import re
import time

import pytest

# By figure, its goal; tests report what they reached under the same names.
GOALS = {
    "SIGKILLs survived, bitwise, every log line once": "80 of 80, 40 on two processes",
    "crash points of what a run writes survived": "100 % of at least 100",
    "crash points of a save on two processes survived": "100 %",
    "crash points of publishing survived": "100 %",
    "flipped and truncated files rejected by name": "100 % of at least 60",
    "steps lost on SIGTERM, SIGINT, SIGUSR1": "0",
    "most steps lost on SIGKILL, saved every 2": "at most 2",
    "resumed at every step, bitwise": "every row, 0 and 2 workers",
    "processes 1, 4, 2, 1: difference in losses": "at most 1e-12",
    "rows at 2 and 3 processes: relative difference": "at most 1e-10",
    "bad images: one line each, or read right": "at least 60",
    "bad arguments and data: one line, exit code 2": "at least 60",
    "code run by hostile files": "0 of at least 50",
    "pickle.find_class events on resume and load": "0",
    "requests caused by data or configuration": "0",
    "push faults: one line, the next push finishes": "all of at least 11",
    "a published repository, to plain transformers": "loads, no key missing, bit for bit",
    "a save / one that is only synced": "at most 1.3",
    "decoding / without guards, 224 pixels": "at most 1.03",
    "judging a step / the step": "at most 0.01",
    "minutes of these tests": "at most 8, fast ones 1.5",
}


_NUMBER = r"\d[\d.]*(?:e[+-]?\d+)?"
_AT_MOST = rf"(?:at most )?({_NUMBER})(?:$|,| of at least)"


def pytest_addoption(parser):
    parser.addoption("--figures", action="store_true", help="print what was reached beside each goal")


def pytest_configure(config):
    config.stash[_REACHED] = {}
    config.stash[_BEGAN] = time.monotonic()


_REACHED, _BEGAN = pytest.StashKey[dict](), pytest.StashKey[float]()


@pytest.fixture
def figure(request):
    """`figure(name, reached)`, once a test has measured it."""

    def report(name: str, reached) -> None:
        assert name in GOALS
        request.config.stash[_REACHED].setdefault(name, []).append(str(reached))

    return report


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):  # of xdist
        session.config.workeroutput["figures"] = session.config.stash[_REACHED]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    for name, reached in getattr(node, "workeroutput", {}).get("figures", {}).items():
        node.config.stash[_REACHED].setdefault(name, []).extend(reached)


def pytest_terminal_summary(terminalreporter, config):
    if config.getoption("--figures"):
        minutes = (time.monotonic() - config.stash[_BEGAN]) / 60
        processes = config.getoption("numprocesses", None) or 1
        config.stash[_REACHED]["minutes of these tests"] = [f"{minutes:.1f} on {processes} processes"]
        terminalreporter.section("figures")
        for name, goal in GOALS.items():
            reached = config.stash[_REACHED].get(name, ["not run"])
            mark = "  MISSED" if any(misses(goal, one) for one in reached) else ""
            terminalreporter.write_line(f"{name:50} {goal:36} {'; '.join(reached)}{mark}")


def misses(goal: str, reached: str) -> bool:
    """Whether the number that was reached is above the one that is to be kept below, where the goal is such."""
    most, found = re.match(_AT_MOST, goal), re.match(_NUMBER, reached)
    return bool(most and found) and float(found[0]) > float(most[1])
