"""The table in print: for a terminal, for the README, and one row in full."""

import argparse
import inspect
import sys

from ..errors import UserError
from .registry import METHODS, get_method, import_file


def markdown_table() -> str:
    """The table as Markdown, sorted by paradigm, and below it what each row relates to, for which no cell has room.
    The README holds a copy and a test compares."""
    lines = [
        "| method | paradigm | critic / τ | objective L = J − M | target | J − M is | arXiv |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in METHODS.values():
        target = row.columns.get("target", "none: shared encoder")
        critic = f"{row.columns['critic']} / {row.columns['temperature']:g}"
        link = f"[{row.arxiv}](https://arxiv.org/abs/{row.arxiv})"
        kind = "a bound" if row.kind == "bound" else "a surrogate"
        cells = [f"`{row.name}`", row.paradigm.upper(), critic, row.formula, target, kind, link]
        lines.append(f"| {' | '.join(cells)} |")
    relations = [f"- `{row.name}`: {row.relations}." for row in METHODS.values()]
    return "\n".join([*lines, "", "Relations: what each row equals, or how it relates to the others.", "", *relations])


def describe(name: str) -> str:
    """One row in full: its columns, what it relates to, its formula and the source of its terms."""
    from ..mi import CRITICS, JOINT_TERMS, MARGINAL_TERMS  # torch, which the rows do without

    row = get_method(name)
    columns = row.columns
    lines = [f"{row.name} ({row.paradigm.upper()}, arXiv {row.arxiv}): L = {row.formula}", f"J − M is a {row.kind}"]
    lines += [f"  {column} = {value!r}" for column, value in columns.items()]
    lines += [f"Relations: {row.relations}.", ""]
    terms = [CRITICS[columns["critic"]]]
    terms += [JOINT_TERMS[term] for term in columns["joint"]] + [MARGINAL_TERMS[term] for term in columns["marginal"]]
    return "\n".join(lines) + "\n" + "\n".join(inspect.getsource(term) for term in terms)


def summary() -> str:
    """The table for a terminal: a line each."""
    lines = [f"{'method':<14} {'paradigm':<8} {'J − M is':<10} {'arXiv':<11} L = J − M"]
    for row in METHODS.values():
        lines.append(f"{row.name:<14} {row.paradigm.upper():<8} {row.kind:<10} {row.arxiv:<11} {row.formula}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="hf-mi-ssl methods", description="the table of methods, or one row of it")
    parser.add_argument("method", nargs="?", help="print this row in full: columns, formula, source of its terms")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument(
        "--import", dest="files", metavar="FILE", action="append", default=[], help="add your own rows"
    )
    args = parser.parse_args(arguments)
    try:
        for file in args.files:
            import_file(file)
        print(describe(args.method) if args.method else markdown_table() if args.markdown else summary())
    except UserError as error:
        print(f"hf-mi-ssl methods: {error}", file=sys.stderr)
        return error.exit_code
    return 0
