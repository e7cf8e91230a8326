"""The command line and the file of recipes that measure an encoder which exists already."""

import argparse
import json
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from transformers.utils.logging import disable_progress_bar

from ..errors import MALFORMED, NOT_WRITTEN, ExitCode, UserError, log_to_terminal, printable, unknown
from .arguments import PretrainingArguments
from .parsing import parse_arguments

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

DATA_FLAGS = ("dataset_name", "data_files", "data_dir", "train_split", "eval_split", "image_column_name",
              "label_column_name", "streaming", "data_placement", "data_cache_dir", "dataloader_num_workers",
              "dataloader_timeout", "on_bad_image", "max_bad_fraction", "seed")  # fmt: skip


class RecipeParser(argparse.ArgumentParser):
    """A parser whose errors are one line, like all others. Raises UserError."""

    def __init__(self, description: str, **more):
        more = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False} | more
        super().__init__(description=description, **more)

    def error(self, message: str):
        raise UserError(f"{message}; --help lists the flags")


class DownstreamParser(RecipeParser):
    """`--model`, `--image_size`, `--output_dir` and the recipe's own flags; what `parse` leaves over are data flags,
    for `arguments_of`.

    `data_flags` are those that the recipe takes, also from the arguments of a run by `--config`: its data, and neither
    the size of its encoder's images nor the place of its results.
    """

    def __init__(
        self,
        description: str,
        data_flags: Sequence[str] = DATA_FLAGS,
        output_dir: str = "the encoder's directory; of a Hub id, runs/ and its name",
    ):
        of_field = {field.name: field.metadata["help"] for field in fields(PretrainingArguments) if field.metadata}
        of_field["train_split"] = "split to learn from"
        of_field["seed"] = "of what chooses, of few labels and of the order of batches"
        of_field["label_column_name"] = "column of the labels; default: the only label column"
        of_field["config"] = "YAML or JSON file of which these flags are read, e.g. the training_args.json of a run"
        self.flags = [f"--{name}" for name in (*data_flags, "config")]
        super().__init__(
            description,
            epilog="the data:\n" + "\n".join(f"  {flag:25} {of_field[flag[2:]]}" for flag in self.flags),
        )
        self.add_argument("--model", required=True, help="directory or Hub id of an encoder")
        size = "side of the images in pixels (default: what the encoder's image processor says)"
        self.add_argument("--image_size", type=int, help=size)
        self.add_argument("--output_dir", help=f"where the results go (default: {output_dir})")

    def parse(self, argv: list[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
        """The own flags, and the others. Raises UserError for a flag that would do nothing here."""
        own, left = self.parse_known_args(argv)
        own.model = str(Path(own.model).expanduser()) if own.model.startswith("~") else own.model
        if own.output_dir == "":
            raise UserError("--output_dir is empty: name a directory")
        training = {f"--{field.name}" for field in fields(PretrainingArguments)} - {*self.flags}
        for flag in (word.split("=")[0] for word in left if word.startswith("--")):
            if flag in training:
                raise UserError(f"{flag} is a flag of training and does nothing here; --help lists those that do")
            if flag not in self.flags:
                raise unknown("argument", flag, [*self.flags, *self._option_string_actions])
        return own, left


def run_downstream(main: Callable[[], int | None]) -> int:
    """Call `main`; returns the exit code (`ExitCode`). What a user can put right is one line."""
    if not sys.stderr.isatty():
        disable_progress_bar()
    log_to_terminal()
    name = Path(sys.argv[0]).name
    try:
        return main() or 0
    except (UserError, OSError) as error:
        print(f"{name}: {printable(str(error))}", file=sys.stderr)
        full = isinstance(error, OSError) and error.errno in NOT_WRITTEN
        return ExitCode.NOT_WRITTEN if full else getattr(error, "exit_code", ExitCode.UNUSABLE)
    except KeyboardInterrupt:
        print(f"{name}: interrupted; the same command goes on from here", file=sys.stderr)
        return 128 + signal.SIGINT


def default_output_dir(model: str) -> str:
    """The encoder's directory; of a Hub id, `runs/` and its name."""
    return model if Path(model).is_dir() else f"runs/{model.split('/')[-1]}"


def arguments_of(
    own: argparse.Namespace, left: list[str], description: str, size: int, output_dir: Path
) -> PretrainingArguments:
    """The data flags, with images of `--image_size`, else of this `size`, the encoder's."""
    size = size if own.image_size is None else own.image_size
    return parse_arguments([*left, "--image_size", str(size), "--output_dir", str(output_dir)], description)


def output_of(own: argparse.Namespace) -> Path:
    """`--output_dir`, or the default one.

    Raises:
        UserError: if another encoder lies there: the card of a run shows what lies beside it.
    """
    output = Path(default_output_dir(own.model) if own.output_dir is None else own.output_dir).expanduser()
    try:
        published = json.loads((output / "training_args.json").read_text()).get("hub_model_id")
    except (OSError, *MALFORMED):
        published = None
    another = output.resolve() != Path(own.model).resolve() and published != own.model
    if another and (output / "config.json").exists():
        raise UserError(f"{output} holds another encoder, whose card would show these results: give an --output_dir")
    return output


def encoder_name(model: str) -> str:
    """A Hub id, or what the directory is called: where it lies is nobody's business."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def data_of(model: str, args: PretrainingArguments) -> dict:
    """`args.data_arguments()` with the seed that chose what is held out: of a run, its own, whatever `args.seed` is.
    Another one would hold out what the run has trained on.

    Raises:
        UserError: as `locate`, and for a `training_args.json` that is not one.
    """
    from huggingface_hub import try_to_load_from_cache
    from transformers.utils import cached_file

    from ..encoders import locate

    quiet = {f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "connection_errors")}
    place = locate(model)
    file = cached_file(place, "training_args.json", **quiet)
    if file is None and not Path(place).is_dir() and try_to_load_from_cache(place, "training_args.json") is None:
        logger.warning(
            "whether %s held images out cannot be told without the Hub: without a split of their own, --seed %d draws "
            "them, and what it has trained on may be among them",
            model,
            args.seed,
        )
    try:
        own = json.loads(Path(file).read_text()).get("seed", args.seed) if file else args.seed
        if type(own) is not int or not 0 <= own < 2**63:
            raise ValueError(f"seed={str(own)[:20]}")
    except MALFORMED as error:
        raise UserError(f"training_args.json of {model!r} does not say which seed held images out: {error}") from error
    return args.data_arguments() | {"seed": own}


def evidence_of(model: str, args: PretrainingArguments, device: "torch.device", evaluations: list[dict]) -> dict:
    """What a recipe writes: `evaluations`, rows as in `results.json`, each with its data set, size of images and seed,
    under the keys of `results.json`."""
    from .records import environment

    hardware, versions = environment(device, 1)
    about = {"dataset": args.dataset_name, "image_size": args.image_size, "seed": args.seed}
    rows = [row | about for row in evaluations]
    return {"encoder": encoder_name(model), "hardware": hardware, "versions": versions, "evaluations": rows}
