"""What is said on the terminal is one line that says what it shows, whatever files are called."""

import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_mi_ssl.errors import UserError, printable

HOSTILE = [
    "\x1b[31mERROR\x1b[0m",
    "a\nERROR all is lost",
    "\u202egnp.exe",
    "\x07",
    "\udc80",
    "a\rb",
    "\x9b31m",
    "\u2028",
]


@given(st.text())
def test_only_what_can_be_printed_is_left(text):
    said = printable(text)
    assert all(unicodedata.category(c)[0] not in "CZ" or c == " " for c in said)
    assert printable(said) == said
    said.encode()  # a lone surrogate, of a name that is no UTF-8, could not be written


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_does_not_reach_the_terminal(name):
    assert str(UserError(f"{name} is missing")).isprintable()
    program = "import logging; from hf_mi_ssl.errors import log_to_terminal; log_to_terminal(); "
    program += f"logging.getLogger('x').warning('file %s', {name!r})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.startswith("WARNING file ")
    assert done.stderr.removesuffix("\n").isprintable()
