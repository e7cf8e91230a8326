"""Push a finished run to the Hub: the encoder and its card, the whole model in `pretraining/`, and the evidence.

    python recipes/push_to_hub.py runs/my_photos --hub_model_id me/my-photos

Files that are there already are not sent again: the same command finishes a push that failed. A run that was told
where to push needs no `--hub_model_id`. The token is that of `hf auth login`, or HF_TOKEN.
"""

import sys
from pathlib import Path

from hf_mi_ssl.errors import UserError
from hf_mi_ssl.training import RecipeParser, run_downstream

CARD = Path(__file__).resolve().parent.parent / "model_cards" / "pretraining_card.md"


def main() -> int:
    parser = RecipeParser(__doc__)
    parser.add_argument("run_dir", type=Path, help="the --output_dir of a finished run")
    parser.add_argument("--hub_model_id", help="repository to push to, OWNER/NAME; default: what the run was told")
    parser.add_argument("--hub_private_repo", action="store_true", help="make it private")
    args = parser.parse_args()
    # What takes seconds to import, now that the arguments are known to be right.
    from hf_mi_ssl.hub import check_hub, publish, render_card
    from hf_mi_ssl.hub.evidence import read_object

    if not (args.run_dir / "results.json").is_file():
        raise UserError(f"{args.run_dir} holds no finished run: results.json is missing")
    arguments = read_object(args.run_dir / "training_args.json")
    told = arguments.get("hub_model_id")
    repo_id = args.hub_model_id or told
    check_hub(repo_id)
    private = args.hub_private_repo or bool(arguments.get("hub_private_repo"))
    card = None if repo_id == told else render_card(args.run_dir, CARD, model_id=repo_id)
    print(*publish(args.run_dir, repo_id, private=private, card=card), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_downstream(main))
