"""The console script `hf-mi-ssl`."""

import argparse
import sys

from . import methods


def _check_data(arguments: list[str]) -> int:
    from .training.check_data import check_data  # it takes a while to import

    return check_data(arguments)


COMMANDS = {"methods": methods.main, "check-data": _check_data}


def main() -> int:
    parser = argparse.ArgumentParser(prog="hf-mi-ssl", description="self-supervised pre-training as MI maximisation")
    parser.add_argument(
        "command",
        choices=COMMANDS,
        help="methods: the table of methods, or one row of it; check-data: which images of a data set cannot be read",
    )
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the command; `--help` explains them")
    args = parser.parse_args()
    return COMMANDS[args.command](args.arguments)


if __name__ == "__main__":
    sys.exit(main())
