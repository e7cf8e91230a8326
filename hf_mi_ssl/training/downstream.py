"""The command line and the file of recipes that measure an encoder which exists already."""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from ..errors import UserError, unknown
from .arguments import PretrainingArguments
from .records import environment, write_json

DATA_FLAGS = ("dataset_name", "data_files", "data_dir", "train_split", "eval_split", "image_column_name",
              "label_column_name", "image_size", "streaming", "data_placement", "data_cache_dir",
              "dataloader_num_workers", "dataloader_timeout", "on_bad_image", "max_bad_fraction", "seed",
              "output_dir")  # fmt: skip


class DownstreamParser(argparse.ArgumentParser):
    """`--model` and the recipe's own flags; what `parse` leaves over are data flags, for `parse_arguments`.

    `data_flags` are those that the recipe takes, also from the arguments of a run by `--config`.
    """

    def __init__(self, description: str, data_flags: Sequence[str] = DATA_FLAGS):
        of_field = {field.name: field.metadata["help"] for field in fields(PretrainingArguments) if field.metadata}
        of_field["image_size"] = "side of the images in pixels; default: what the encoder's image processor says"
        of_field["train_split"] = "split to learn from"
        of_field["seed"] = "of what is held out where no split is, and of the order of batches"
        of_field["output_dir"] = "default: the encoder's directory; of a Hub id, runs/ and its name"
        of_field["label_column_name"] = "column of the labels; default: the only label column"
        of_field["config"] = "YAML or JSON file of flags, e.g. the training_args.json of a run: its data"
        self.flags = [f"--{name}" for name in (*data_flags, "config")]
        super().__init__(
            description=description,
            epilog="the data:\n" + "\n".join(f"  {flag:25} {of_field[flag[2:]]}" for flag in self.flags),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument("--model", required=True, help="directory or Hub id of an encoder")

    def error(self, message: str):
        raise UserError(message)

    def parse(self, argv: list[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
        """The own flags, and the others. Raises UserError for a flag that would do nothing here."""
        own, left = self.parse_known_args(argv)
        own.model = str(Path(own.model).expanduser()) if own.model.startswith("~") else own.model
        training = {f"--{field.name}" for field in fields(PretrainingArguments)} - {*self.flags}
        for flag in (word.split("=")[0] for word in left if word.startswith("--")):
            if flag in training:
                raise UserError(f"{flag} is a flag of training and does nothing here; --help lists those that do")
            if flag not in self.flags:
                raise unknown("argument", flag, [*self.flags, *self._option_string_actions])
        return own, left


def run_downstream(main: Callable[[], None]) -> int:
    """Call `main`; returns the exit code. What a user can put right is one line, and 2 where it is an argument."""
    if not sys.stderr.isatty():
        disable_progress_bar()
    try:
        main()
    except (UserError, OSError) as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 1)
    return 0


def default_output_dir(model: str) -> str:
    """The encoder's directory; of a Hub id, `runs/` and its name."""
    return model if Path(model).is_dir() else f"runs/{model.split('/')[-1]}"


def encoder_name(model: str) -> str:
    """A Hub id, or what the directory is called: where it lies is nobody's business."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def write_evaluations(
    path: Path, model: str, args: PretrainingArguments, device: torch.device, evaluations: list[dict], **facts
) -> None:
    """Write `evaluations`, rows as in `results.json`, under the keys of `results.json`, with `facts` beside them."""
    hardware, versions = environment(device, 1)
    about = {
        "encoder": encoder_name(model),
        "dataset": args.dataset_name,
        "image_size": args.image_size,
        "seed": args.seed,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, about | facts | {"hardware": hardware, "versions": versions, "evaluations": evaluations})
