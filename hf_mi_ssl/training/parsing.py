"""The command line of the recipes: a YAML file of flags, overridden by flags."""

import difflib
import json
import logging
import os
from pathlib import Path

import yaml
from transformers import HfArgumentParser

from ..errors import MALFORMED, UserError
from ..methods import get_method, import_file
from .arguments import PretrainingArguments

logger = logging.getLogger(__name__)


class _Parser(HfArgumentParser):
    def error(self, message: str):
        raise UserError(message)


def parse_arguments(argv: list[str], description: str, **defaults) -> PretrainingArguments:
    """The arguments of a recipe, from `--config file.yaml` and the rest of the command line, which wins.

    Raises:
        UserError: for an unknown flag, key or method (the text gives the nearest one) or a value of the wrong type.
    """
    parser = _Parser(PretrainingArguments, description=description, allow_abbrev=False)
    parser.add_argument("--config", metavar="FILE", help="YAML file of these flags; the command line wins over it")
    own = "Python file that adds rows, terms or critics of your own"
    parser.add_argument("--import", dest="imported", metavar="FILE", action="append", default=[], help=own)
    parser.set_defaults(**defaults)
    path = _Parser(add_help=False, allow_abbrev=False, dataclass_types=[])
    path.add_argument("--config")
    file = path.parse_known_args(argv)[0].config
    from_file = _read_config(Path(file).expanduser()) if file else []
    if parser.parse_known_args(from_file)[0].imported:  # whatever key or value it came from
        raise UserError(f"--config {file} imports, which runs code: give --import on the command line")
    namespace, left = parser.parse_known_args([*from_file, *argv])
    if left:
        flags = [option for action in parser._actions for option in action.option_strings]
        near = difflib.get_close_matches(left[0].split("=")[0], flags, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else "; --help lists the flags"
        raise UserError(f"unknown argument {left[0]}{hint}")
    settings = vars(namespace)
    settings.pop("config")
    imported = [os.path.expanduser(file) for file in settings.pop("imported")]
    for file in imported:
        import_file(file)
    if settings["method"]:
        get_method(settings["method"])
    args = PretrainingArguments(**settings)
    args.imported = imported
    _refuse_unwritable(Path(args.output_dir))
    return args


def _refuse_unwritable(directory: Path) -> None:
    """Before hours are spent on what could then not be written."""
    there = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise UserError(f"--output_dir {directory} cannot be written to: you may not write into {there}")


def _read_config(path: Path) -> list[str]:
    """The YAML file as the flags it stands for, so that both are checked by one parser."""
    try:
        settings = yaml.safe_load(path.read_text()) or {}
    except OSError as error:
        raise UserError(f"--config {path}: {error.strerror}") from error
    except (yaml.YAMLError, *MALFORMED) as error:  # UnicodeError is a ValueError
        raise UserError(f"--config {path} is not YAML: {str(error)[:300]}") from error
    if not isinstance(settings, dict):
        raise UserError(f"--config {path} must hold `flag: value` lines")
    if "config" in settings:
        raise UserError(f"--config {path} names another file: config; give one file, and the rest as flags")
    if files := settings.pop("imported", None):  # of a run, which may be a stranger's: the command line alone imports
        logger.warning(
            "%s was of a run with --import: give it again, the file imports nothing (%s)", path, str(files)[:80]
        )
    flags = []
    for key, value in settings.items():
        if isinstance(value, dict):
            # JSON is YAML on one line; a string stands for itself
            value = [f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in value.items()]
        values = value if isinstance(value, list) else [value]
        if value is not None and values:
            flags += [f"--{key}", *("no" if one is False else str(one) for one in values)]  # as YAML 1.1 reads no
    return flags
