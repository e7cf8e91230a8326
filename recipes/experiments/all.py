"""Every experiment at toy size, on two processes of one thread each, and the page that gathers their reports.

    python recipes/experiments/all.py

The same command goes on where it was interrupted. CIFAR-10 is not trained here: the page of cifar10_tracking.py is
taken up, and the evidence of recipes/reproduce.py, of the matrices below `--reproduced`.
"""

import sys
from pathlib import Path

import canonical_vs_established
import cifar10_tracking
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
from reporting import CANNOT_TELL, HELD, NOT_HELD, SOURCES, markdown

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
APART = cifar10_tracking  # not run here, but its page is taken up
READ_SO = """\
What arXiv 2510.01345 claims, so far as its abstract, a summary and its reviews say (its full text we have not read),
what the literature says around it, and what we derived from it, each as a command that runs in minutes on two cores.
`python recipes/experiments/all.py` makes these pages and goes on where it was interrupted; CIFAR-10 is trained by
`recipes/experiments/cifar10_tracking.py` and `recipes/reproduce.py`. Protocols, thresholds and seeds were fixed
before the first runs, but for what a page says of itself. What a look at them made us add, arms or claims, is marked
as added, and what it made us read otherwise, or call primary, as changed; verdicts are computed from 95 % intervals,
never typed; a claim that fails is a finding. *Held*: the interval lies on the claimed side of its threshold; *did not
hold*: on the other; else the runs *cannot tell*, and say what they could have told. The verdict of a page is that of
its primary claims, of which one that did not hold decides. How a claim is measured, its threshold and its data are
ours, and so are *extensions*. These are toys: they show where a claim can fail, not how often it does."""


LOOKS = "A share of steps depends on how often one looks; the pages say how often, and what less often shows."


def gather(results: Path) -> Path:
    """README.md: each question with its claims and its verdict, from the reports."""
    parts, summary, failed = [], [], []
    for module in (EXPERIMENTS[0], APART, *EXPERIMENTS[1:]):
        path = results / f"{module.NAME}.md"
        if not path.exists():
            continue
        text, title = path.read_text(), module.NAME.replace("_", " ")
        question = text.split("\n\n")[1]
        claims = text.split("## Claims\n\n")[1].split("\n\n")[0]
        verdict = text.strip().splitlines()[-1]
        missing = [part for part in text.split("\n\n") if part.startswith("**") and "not done" in part]
        parts += [f"## [{title}]({path.name})", question, *missing, claims, f"**{verdict}**"]
        rows = [line.strip("| ").split(" | ") for line in claims.splitlines()[2:]]
        found = [row[5].split(" (")[0] for row in rows]  # a verdict ends with what could be told, or without
        counts = [found.count(one) for one in (HELD, NOT_HELD, CANNOT_TELL)]
        against = [row for row, one in zip(rows, found) if row[1] == SOURCES["paper"] and one == NOT_HELD]
        failed += [f"- [{title}]({path.name}): {row[0]}: {row[2]}, has to be {row[3]}" for row in against]
        asked = module.__doc__.splitlines()[0]
        summary.append([f"[{title}]({path.name})", asked, verdict.split(": ")[1].split(" (")[0], *counts])
    page = results / "README.md"
    header = ["page", "question", "its primary claims", "of all claims held", "did not", "cannot be told"]
    verdicts = markdown([header, ["---", "---", "---", *["---:"] * 3], *summary])
    doubts = ["## What the paper claims and did not hold here", LOOKS, "\n".join(failed) or "Nothing."]
    page.write_text("\n\n".join(["# The paper as commands", READ_SO, verdicts, *doubts, *parts]) + "\n")
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
