"""THE TABLE: one row of data per method. `python -m hf_mi_ssl.methods` prints it, `… simclr` prints one in full."""

from . import sdmi_rows, jmi_rows  # isort: skip  # the order of the table
from .printing import describe, main, markdown_table, summary
from .registry import METHODS, Method, get_method, import_file, jmi, sdmi

__all__ = [
    "METHODS",
    "Method",
    "describe",
    "get_method",
    "import_file",
    "jmi",
    "jmi_rows",
    "main",
    "markdown_table",
    "sdmi",
    "sdmi_rows",
    "summary",
]
