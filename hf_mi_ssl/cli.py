"""The console script `hf-mi-ssl`."""

import argparse
import importlib
import sys

COMMANDS = {  # name: (module with a `main`, what it does)
    "methods": ("hf_mi_ssl.methods", "the table of methods, or one row of it"),
    "check-data": ("hf_mi_ssl.commands.check_data", "which images of a data set cannot be read"),
    "doctor": ("hf_mi_ssl.commands.doctor", "a recipe checked before it runs"),
    "view": ("hf_mi_ssl.commands.view", "a run as a page: curves, map, nearest neighbours"),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="hf-mi-ssl", description="self-supervised pre-training as MI maximisation")
    what = "; ".join(f"{name}: {does}" for name, (_, does) in COMMANDS.items())
    parser.add_argument("command", choices=COMMANDS, help=what)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the command; `--help` explains them")
    args = parser.parse_args()
    return importlib.import_module(COMMANDS[args.command][0]).main(args.arguments)


if __name__ == "__main__":
    sys.exit(main())
