"""Every experiment at toy size, on two processes of one thread each, and the page that gathers their reports.

    python recipes/experiments/all.py

The same command goes on where it was interrupted. CIFAR-10 is not trained here: the evidence of recipes/reproduce.py
is taken up, of the matrices below `--reproduced`.
"""

import sys
from pathlib import Path

import canonical_vs_established
import information_without_accuracy
import label_free_selection
import marginal_ablation
import mi_tracking
import non_gaussian_laws
import nonconcave_critics
import other_modalities
import predictor_capacity
import regulariser_weights
import surrogate_training
import two_modalities
from harness import parser_of, run_experiments

from hf_mi_ssl.errors import UserError

EXPERIMENTS = (
    mi_tracking,
    marginal_ablation,
    regulariser_weights,
    canonical_vs_established,
    nonconcave_critics,
    predictor_capacity,
    two_modalities,
    other_modalities,
    information_without_accuracy,
    non_gaussian_laws,
    surrogate_training,
    label_free_selection,
)


def gather(results: Path) -> Path:
    """README.md: each question with its claims and its verdict, from the reports."""
    parts = [
        "# The paper as commands",
        "What arXiv 2510.01345 claims, what the literature says around it, and what we derived from it, each as a "
        "command that runs in minutes on two cores. `python recipes/experiments/all.py` makes these pages and goes "
        "on where it was interrupted. Protocols, thresholds and seeds were fixed before the runs, but for what a page "
        "says of itself: which claims of `non_gaussian_laws` are primary was said when the numbers were known. What a "
        "first look made us add, arms or claims, is marked as added, and what it made us read otherwise as changed; "
        "verdicts are computed from 95 % intervals, never typed; a claim that fails is a finding. *Held*: the "
        "interval lies on the claimed side of its threshold; *did not hold*: on the other; else the runs *cannot "
        "tell*, and say what they could have told. The verdict of a page is that of its primary claims. These are "
        "toys: they show where a claim can fail, not how often it does.",
    ]
    for module in EXPERIMENTS:
        path = results / f"{module.NAME}.md"
        if not path.exists():
            continue
        text = path.read_text()
        question = text.split("\n\n")[1]
        claims = text.split("## Claims\n\n")[1].split("\n\n")[0]
        verdict = text.strip().splitlines()[-1]
        missing = [part for part in text.split("\n\n") if part.startswith("**") and "not done" in part]
        parts += [f"## [{module.NAME.replace('_', ' ')}]({path.name})", question, *missing, claims, f"**{verdict}**"]
    page = results / "README.md"
    page.write_text("\n\n".join(parts) + "\n")
    return page


def main() -> int:
    args = parser_of(__doc__).parse_args()
    try:
        failed = run_experiments(EXPERIMENTS, args)
    except (UserError, OSError) as error:
        print(f"all.py: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 1)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 1
    print(f"the page is {gather(args.results)}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
