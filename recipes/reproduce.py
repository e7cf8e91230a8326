"""Train a declared matrix of runs, methods × data sets × seeds on one budget, and write what came out into one page.

    python recipes/reproduce.py --matrix recipes/matrices/cifar10_ten_epochs.yaml \\
        --data_files train=train.parquet test=test.parquet --parallel 2

Each run is a pre-training recipe with a directory of its own, and the fine-tunes that the matrix declares. The same
command skips what is done, continues what was interrupted, and starts the rest. The page is made of the files of the
runs and of nothing else: they are kept beside it, compactly, in `evidence/`, and `--table_only` needs no more.
"""

import signal
import sys
from pathlib import Path

from hf_mi_ssl.errors import refuse_unknown
from hf_mi_ssl.training import RecipeParser, run_downstream

RESULTS = Path(__file__).resolve().parent.parent / "model_cards" / "results"


def main() -> int:
    parser = RecipeParser(__doc__)
    parser.add_argument("--matrix", type=Path, required=True, help="YAML file that declares the runs")
    parser.add_argument("--data_files", nargs="+", help="parquet files to read the one data set from: train=… test=…")
    parser.add_argument("--methods", nargs="+", help="run these only; the table remains that of all")
    parser.add_argument("--datasets", nargs="+", help="run these only, by their names in the matrix")
    parser.add_argument("--parallel", type=int, default=1, help="runs side by side; they share the cores")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/reproduce"), help="where the runs lie")
    parser.add_argument("--results", type=Path, help="file of the table; default: model_cards/results/<name>.md")
    parser.add_argument("--dry_run", action="store_true", help="list the runs and their states")
    parser.add_argument("--table_only", action="store_true", help="write the page of what is done, or of its evidence")
    args = parser.parse_args()
    # What takes seconds to import, now that the arguments are known to be right.
    from reproducing.evidence import collect
    from reproducing.matrix import declared_runs, read_matrix
    from reproducing.page import write_page
    from reproducing.running import run_all

    matrix = read_matrix(args.matrix)
    refuse_unknown("method of this matrix", args.methods or (), matrix["methods"])
    refuse_unknown("data set of this matrix", args.datasets or (), matrix["datasets"])
    runs = declared_runs(matrix, args.output_dir, args.data_files, args.datasets)
    chosen = [run for run in runs if run.method in (args.methods or matrix["methods"])]
    chosen = [run for run in chosen if run.dataset in (args.datasets or matrix["datasets"])]
    if args.dry_run:
        print(*(f"{run.name:<36} {run.state()}" for run in chosen), sep="\n")
        return 0
    page = args.results or RESULTS / f"{matrix['name']}.md"
    evidence = page.parent / "evidence" / matrix["name"]
    collect(runs, evidence)  # other arguments are refused before anything runs
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: no run outlives this command
    try:
        left = [run for run in chosen if not run.trained or run.finetunes_left]
        failed = run_all([] if args.table_only else left, max(1, args.parallel))
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        failed = True
    if done := collect(runs, evidence):
        write_page(matrix, runs, done, args.matrix, page)
        print(f"the table is in {page}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(run_downstream(main))
