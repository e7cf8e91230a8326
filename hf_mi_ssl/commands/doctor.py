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
from typing import TYPE_CHECKING

from ..errors import UserError, log_to_terminal
from ..training import parse_arguments

if TYPE_CHECKING:
    from .subject import Finding

_DEFAULTS = {"sdmi": "sdmi_ema", "jmi": "jmi"}  # of the recipes: the row where none is given


def main(argv: list[str]) -> int:
    log_to_terminal()
    parser = argparse.ArgumentParser(
        prog="hf-mi-ssl doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [config.yaml] [--recipe sdmi|jmi] [--num_images N] [--num_processes N] [--no_trial] "
        "[flags of the recipe]", allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--recipe", choices=_DEFAULTS, help="whose default row to take where no --method is given")
    parser.add_argument("--num_images", type=int, help="of the training split: the data stay closed, no step is taken")
    parser.add_argument("--num_processes", type=int, default=1, help="that the run will have; default: 1")
    parser.add_argument("--no_trial", action="store_true", help="take no step")
    try:
        own, flags = parser.parse_known_args(argv)
        if flags and not flags[0].startswith("-"):
            flags = ["--config", *flags]
        method = _DEFAULTS.get(own.recipe, "")
        args = parse_arguments(flags, "", method=method)
        if not args.method:
            raise UserError("which row? Give --method, or --recipe sdmi or jmi for its default")
        from .diagnosis import diagnose  # seconds of imports, now that the arguments are known to be right

        found = diagnose(args, own.num_images, own.num_processes, trial=not own.no_trial)
    except UserError as error:
        print(f"hf-mi-ssl doctor: {error}", file=sys.stderr)
        return error.exit_code
    print(table(found))
    return int(any(finding.level == "error" for finding in found))


def table(found: "list[Finding]") -> str:
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
