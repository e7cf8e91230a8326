"""How far each surrogate of the marginal term is from the exact one on a checkpoint's own held-out embeddings.

    python recipes/surrogate_report.py --model runs/shapes-sdmi
    python recipes/surrogate_report.py --model facebook/dinov2-small --image_size 224 \\
        --dataset_name imagefolder --data_dir my_photos

The data, the views and the seed have the flags of the pre-training recipes. A saved run is measured in its embeddings
z and, where it has one, at its predictor; another encoder in its representations h. Everything is in nats.
"""

import math
import sys
from dataclasses import asdict
from pathlib import Path

from hf_mi_ssl.errors import UserError
from hf_mi_ssl.training import PretrainingArguments, RecipeParser, data_of, parse_arguments, run_downstream


def report(name: str, n: int, args: PretrainingArguments) -> dict:
    """The rows of every coordinates, the row's own coordinates and temperatures, and how white a predictor's target
    is."""
    from accelerate.utils import tqdm

    from hf_mi_ssl.evaluation.coordinates import own_coordinates, target_whiteness
    from hf_mi_ssl.evaluation.saved import embed_held_out
    from hf_mi_ssl.evaluation.surrogates import surrogate_rows

    model, found, split = embed_held_out(name, data_of(name, args), args.views, args.image_size, n, args.seed)
    a, b = (found[f"{'z' if 'z_a' in found else 'h'}_{side}"] for side in "ab")
    b = found.get("t_b", b)  # a target with parameters of its own
    own = dict([own_coordinates(model.config)]) if "z_a" in found else {}
    jobs = {place: (a, b) for place in ("cosine", "standardised", "whitened")}
    whiteness = None
    if "p_a" in found:
        jobs["predicted"], own["predicted"] = (found["p_a"], b), 1.0
        whiteness = target_whiteness(b)
    own = {place: tau for place, tau in own.items() if tau}
    rows = [
        row
        for place, pair in tqdm(jobs.items(), disable=not sys.stderr.isatty())
        for row in surrogate_rows(*pair, place, own=own.get(place))
    ]
    return {"split": split, "own": own, "target": whiteness, "rows": rows}


def jsonable(value):
    """The value with None for numbers that JSON does not know."""
    if isinstance(value, dict):
        return {key: jsonable(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main() -> int:
    parser = RecipeParser(__doc__)
    parser.add_argument("--model", required=True, help="directory of a run, or directory or Hub id of an encoder")
    parser.add_argument("--n", type=int, default=2048, help="the most pairs")
    parser.add_argument(
        "--output_dir", type=Path, default=Path("runs/surrogate_report"), help="where everything is written"
    )
    args, left = parser.parse_known_args()
    given = parse_arguments(left, __doc__)  # --seed, the data and the views
    if args.n < 32:
        raise UserError(f"--n {args.n} is too few pairs to compare marginal terms on: give at least 32")
    # What takes seconds to import, now that the arguments are known to be right.
    from hf_mi_ssl.evaluation.surrogate_report import surrogate_figure, surrogate_table
    from hf_mi_ssl.training import write_json

    found = report(args.model, args.n, given)
    title = f"surrogates of the marginal term on {given.dataset_name}, {found['split']}, in {args.model}"
    text = f"{title}\n\n{surrogate_table(found['rows'], found['own'])}"
    if found["target"]:
        white, mean = found["target"]
        text += f"\nThe predictor's target: ‖Σ_B − I‖/√D = {white:.2f}, ‖μ_B‖/√D = {mean:.2f}; both 0 if white.\n"
    args.output_dir.mkdir(parents=True, exist_ok=True)
    written = found | {"title": title, "rows": [asdict(row) for row in found["rows"]]}
    write_json(args.output_dir / "surrogates.json", jsonable(written))
    (args.output_dir / "surrogates.md").write_text(text)
    surrogate_figure(found["rows"], found["own"], args.output_dir / "surrogates.png", title)
    print(f"{text}\nwritten to {args.output_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(run_downstream(main))
