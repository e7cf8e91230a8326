"""The table that `pytest --figures` prints says which goals were missed."""

import pytest

from tests.figures import GOALS, misses


@pytest.mark.parametrize(
    ("name", "reached", "missed"),
    [
        ("a save / one that is only synced", "2.1", True),
        ("a save / one that is only synced", "1.3", False),
        ("judging a step / the step", "0.0120, resnet_tiny, 128 images", True),
        ("processes 1, 4, 2, 1: difference in losses", "2.2e-16", False),
        ("rows at 2 and 3 processes: relative difference", "3.0e-09 at 2", True),
        ("steps lost on SIGTERM, SIGINT, SIGUSR1", "1", True),
        ("code run by hostile files", "1 of 130", True),
        ("code run by hostile files", "0 of 130", False),
        ("crash points of what a run writes survived", "156 of 156 (JSON, OSError)", False),
        ("SIGKILLs survived, bitwise, every log line once", "40 of 40 on 1", False),
        ("minutes of these tests", "9.5 on 2 processes", True),
        ("a published repository, to plain transformers", "not run", False),
    ],
)
def test_a_number_above_what_it_should_be_is_marked(name, reached, missed):
    assert misses(GOALS[name], reached) == missed
