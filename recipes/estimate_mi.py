"""Estimate mutual information: of laws where it is known, to judge the estimators, or of the two views of a model.

    python recipes/estimate_mi.py --task all                          # every task, the fast estimators
    python recipes/estimate_mi.py --task gaussian_20d_5 spiral_3d --estimators all --n 10000
    python recipes/estimate_mi.py --model runs/shapes-sdmi            # two views of held-out images, in h and z
    python recipes/estimate_mi.py --model facebook/dinov2-small --image_size 224 \\
        --dataset_name imagefolder --data_dir my_photos
    python recipes/estimate_mi.py --page                              # model_cards/results/estimators.md again

With `--model`, the data, the views and the seed have the flags of the pre-training recipes. Estimators that fit
anything fit three quarters of the pairs and are judged on the others; of a model, those with a fixed critic fit each
half and are judged on the other. Everything is in nats.
"""

import json
import sys
from pathlib import Path

from hf_mi_ssl.errors import UserError, unknown
from hf_mi_ssl.training import (
    PretrainingArguments,
    RecipeParser,
    data_of,
    parse_arguments,
    run_downstream,
    write_json,
)

RESULTS = Path(__file__).resolve().parent.parent / "model_cards" / "results"


def chosen(kind: str, names: list[str], groups: dict[str, list[str]]) -> list[str]:
    """The names, each group's name replaced by its members. Raises UserError for an unknown one."""
    for name in names:
        if name not in groups and name not in groups["all"]:
            raise unknown(kind, name, [*groups, *groups["all"]])
    return list(dict.fromkeys(one for name in names for one in groups.get(name, [name])))


def measure_model(name: str, estimators: list[str], n: int, args: PretrainingArguments) -> list[dict]:
    """The two views of held-out images: representations h, embeddings z where the checkpoint has a projector, and z
    against those of a target with parameters of its own."""
    from accelerate.utils import tqdm

    from hf_mi_ssl import metrics
    from hf_mi_ssl.estimators.fixed import ESTIMATORS as FIXED
    from hf_mi_ssl.evaluation.measuring import measure
    from hf_mi_ssl.evaluation.saved import embed_held_out

    _, z, split = embed_held_out(name, data_of(name, args), args.views, args.image_size, n, args.seed)
    spaces = {
        "representations h": ("h_a", "h_b"),
        "embeddings z": ("z_a", "z_b"),
        "z, online and target": ("z_a", "t_b"),
    }
    pairs = {space: (z[a], z[b]) for space, (a, b) in spaces.items() if b in z}
    fixed, bounds = [name for name in estimators if name in FIXED], metrics.load("mi_bounds")
    rows = []
    for space, (a, b) in tqdm(pairs.items(), disable=not sys.stderr.isatty()):
        found = bounds.compute(z_a=a.numpy(), z_b=b.numpy(), estimators=fixed, split=split) if fixed else {}
        for name in estimators:
            row = {"estimator": name} | found[name] if name in found else measure(name, a, b, split)
            rows.append({"space": space} | row)
    return rows


def main() -> int:
    parser = RecipeParser(__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--task", nargs="+", metavar="NAME", help="all, or names as in model_cards/results/estimators.md"
    )
    what.add_argument("--model", help="directory or Hub id of an encoder, or the directory of a run")
    what.add_argument("--page", action="store_true", help="write model_cards/results/estimators.md from its evidence")
    names = "all, fast, or names as in model_cards/results/estimators.md"
    parser.add_argument("--estimators", nargs="+", metavar="NAME", default=["fast"], help=names)
    parser.add_argument("--n", type=int, default=4096, help="the most pairs")
    parser.add_argument(
        "--output_dir", type=Path, default=Path("runs/estimate_mi"), help="where everything is written"
    )
    args, left = parser.parse_known_args()
    given = parse_arguments(left, __doc__)  # --seed, and with --model the data and the views
    # What takes seconds to import, now that the arguments are known to be right.
    from hf_mi_ssl.estimators import ESTIMATORS, TASKS
    from hf_mi_ssl.evaluation.estimate_tables import model_figure, model_table, task_figure, task_page, task_table
    from hf_mi_ssl.evaluation.measuring import is_fast, measure_tasks

    fast = [name for name in ESTIMATORS if is_fast(name)]
    if args.page:
        evidence = json.loads((RESULTS / "evidence" / "estimators.json").read_text())
        text = task_page((RESULTS / "estimators_template.md").read_text(), evidence, fast)
        (RESULTS / "estimators.md").write_text(text)
        return 0
    estimators = chosen("estimator", args.estimators, {"fast": fast, "all": [*ESTIMATORS]})
    if args.n < 32:
        raise UserError(f"--n {args.n} is too few pairs to fit and to measure: give at least 32")
    args.output_dir.mkdir(parents=True, exist_ok=True)
    if args.task:
        rows = measure_tasks(chosen("task", args.task, {"all": [*TASKS]}), estimators, args.n, given.seed)
        title = f"{args.n:,} pairs, seed {given.seed}"
        table, figure = task_table(rows), task_figure
    else:
        rows = measure_model(args.model, estimators, args.n, given)
        title = f"two views of {given.dataset_name} ({given.views}, {given.image_size} pixels) in {args.model}"
        table, figure = model_table(rows), model_figure
    write_json(args.output_dir / "estimates.json", {"title": title, "estimates": rows})
    (args.output_dir / "estimates.md").write_text(f"{title}\n\n{table}")
    figure(rows, args.output_dir / "estimates.png", title)
    print(f"{title}\n\n{table}\nwritten to {args.output_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(run_downstream(main))
