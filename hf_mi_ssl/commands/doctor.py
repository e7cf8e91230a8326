"""`hf-mi-ssl doctor`: a recipe checked before it costs a day.

    hf-mi-ssl doctor recipes/configs/barlow_twins_imagenet.yaml --num_processes 8 --num_images 1281167
    hf-mi-ssl doctor --method simclr --dataset_name imagefolder --data_dir my_photos

takes the flags of the pre-training recipes, opens the data as they do, takes ten steps and prints what it found. Exit
code 1 where a line says error.
"""

import argparse
import shutil
import sys
import textwrap

import torch

from ..configuration import JMIConfig, SDMIConfig
from ..data import open_train_and_held_out
from ..encoders import encoder_config, load_encoder
from ..errors import UserError, log_to_terminal
from ..methods import get_method
from ..modeling_jmi import JMIForPreTraining
from ..modeling_sdmi import SDMIForPreTraining
from ..training import Plan, PretrainingArguments, parse_arguments
from .checks import examine
from .subject import Finding, Subject, memory
from .trial import findings, try_steps

_PARADIGMS = {"sdmi": (SDMIConfig, SDMIForPreTraining, "sdmi_ema"), "jmi": (JMIConfig, JMIForPreTraining, "jmi")}


def main(argv: list[str]) -> int:
    log_to_terminal()
    parser = argparse.ArgumentParser(
        prog="hf-mi-ssl doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [config.yaml] [--recipe sdmi|jmi] [--num_images N] [--num_processes N] [--no_trial] "
        "[flags of the recipe]", allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--recipe", choices=_PARADIGMS, help="whose default row to take where no --method is given")
    parser.add_argument("--num_images", type=int, help="of the training split: the data stay closed, no step is taken")
    parser.add_argument("--num_processes", type=int, default=1, help="that the run will have; default: 1")
    parser.add_argument("--no_trial", action="store_true", help="take no step")
    try:
        own, flags = parser.parse_known_args(argv)
        if flags and not flags[0].startswith("-"):
            flags = ["--config", *flags]
        method = _PARADIGMS[own.recipe][2] if own.recipe else ""
        args = parse_arguments(flags, "", method=method)
        if not args.method:
            raise UserError("which row? Give --method, or --recipe sdmi or jmi for its default")
        found = diagnose(args, own.num_images, own.num_processes, trial=not own.no_trial)
    except UserError as error:
        print(f"hf-mi-ssl doctor: {error}", file=sys.stderr)
        return error.exit_code
    print(table(found))
    return int(any(finding.level == "error" for finding in found))


def diagnose(
    args: PretrainingArguments, num_images: int | None = None, num_processes: int = 1, trial: bool = True
) -> list[Finding]:
    """What every check finds. With `num_images` the data stay closed, and no step is taken.

    Raises:
        UserError: for a row, an encoder or data that do not exist. What exists and does not fit is a finding.
    """
    config_class, model_class, _ = _PARADIGMS[get_method(args.method).paradigm]
    encoder = load_encoder(args.init_from).config if args.init_from else encoder_config(args.encoder, args.image_size)
    config = config_class.from_method(args.method, encoder_config=encoder, **args.columns)
    with torch.device("meta"):  # shapes alone: no memory, no time
        model = model_class(config)
    train = held = None
    if num_images is None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        train, held = open_train_and_held_out(**args.data_arguments(), device=device)
        num_images = len(train)
    try:
        plan = Plan(args, num_images, num_processes)
        model.check_images(args.image_size, args.local_view_size, args.per_device_train_batch_size)
        subject = Subject(args, model, plan)
        found = list(examine(subject))
    except UserError as error:
        return [Finding("recipe", "error", str(error))]
    if train is None or not trial:
        return [*found, memory(subject)]
    return [*found, *findings(try_steps(args, plan, train, held, model_class, config), plan)]


def table(found: list[Finding]) -> str:
    """The findings in aligned columns, each with its way out on a line of its own; as wide as the terminal."""
    width = max(60, min(119, shutil.get_terminal_size((100, 24)).columns))
    lines = []
    for finding in found:
        start = f"{finding.level:<9}{finding.check:<15}"
        lines += textwrap.wrap(finding.text, width, initial_indent=start, subsequent_indent=" " * len(start))
        if finding.way_out:
            indent = " " * len(start)
            lines += textwrap.wrap(
                finding.way_out, width, initial_indent=f"{indent}→ ", subsequent_indent=f"{indent}  "
            )
    counts = {level: sum(finding.level == level for finding in found) for level in ("ok", "warning", "error")}
    lines += ["", ", ".join(f"{count} {level}" for level, count in counts.items())]
    return "\n".join(lines)
