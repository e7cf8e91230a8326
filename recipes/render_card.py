"""Render the card of a run again, from its files: after a figure was removed, or evidence was added.

python recipes/render_card.py runs/my_photos
python recipes/render_card.py runs/my_photos --add runs/tuned/finetune.json
"""

import sys
from pathlib import Path

from hf_mi_ssl.errors import UserError
from hf_mi_ssl.training import RecipeParser, run_downstream

CARD = Path(__file__).resolve().parent.parent / "model_cards" / "pretraining_card.md"


def main() -> int:
    parser = RecipeParser(__doc__)
    parser.add_argument("run_dir", nargs="+", help="what a pre-training recipe wrote")
    parser.add_argument(
        "--add", nargs="+", default=[], metavar="FILE", help="knn.json, linear_probe.json, finetune.json"
    )
    args = parser.parse_args()
    # What takes seconds to import, now that the arguments are known to be right.
    from hf_mi_ssl.hub import add_evidence, write_card

    for run_dir in args.run_dir:
        for file in args.add:
            add_evidence(run_dir, file)
        if not write_card(run_dir, CARD):
            raise UserError(f"{run_dir} holds no results.json: give the --output_dir of a run")
    return 0


if __name__ == "__main__":
    sys.exit(run_downstream(main))
