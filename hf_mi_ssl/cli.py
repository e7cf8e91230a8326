"""The console script `hf-mi-ssl`."""

import argparse
import sys

from . import methods

COMMANDS = {"methods": methods.main}


def main() -> int:
    parser = argparse.ArgumentParser(prog="hf-mi-ssl", description="self-supervised pre-training as MI maximisation")
    parser.add_argument("command", choices=COMMANDS, help="methods: the table of methods, or one row of it")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the command; `--help` explains them")
    args = parser.parse_args()
    return COMMANDS[args.command](args.arguments)


if __name__ == "__main__":
    sys.exit(main())
