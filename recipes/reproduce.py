"""Train a declared matrix of runs, methods × data sets × seeds on one budget, and write what came out into one table.

    python recipes/reproduce.py --matrix recipes/reproduce/cifar10_cpu.yaml \\
        --data_files train=train.parquet test=test.parquet --parallel 2

Each run is a pre-training recipe with a directory of its own. The same command skips the runs that are done, continues
those that were interrupted, and starts the rest. The table is made of the files of the runs and of nothing else.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import jinja2
import yaml

from hf_mi_ssl import JMIConfig, SDMIConfig
from hf_mi_ssl.errors import UserError, unknown
from hf_mi_ssl.methods import METHODS, get_method
from hf_mi_ssl.training import (
    PretrainingArguments,
    RecipeParser,
    latest_checkpoint,
    parse_arguments,
    read_records,
    run_downstream,
)

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = ROOT / "model_cards" / "results" / "template.md"
CONFIGS = {"sdmi": SDMIConfig, "jmi": JMIConfig}
KEYS = {"name": str, "methods": list, "first": list, "datasets": dict, "seeds": list, "flags": dict,
        "overrides": dict, "notes": str}  # fmt: skip
DECIDED = {"method", "seed", "output_dir", "resume_from_checkpoint"}  # by the place of a run in its matrix
# What a run and its declaration need not share: where it and its data lie, how it is watched and kept.
FREE = {"output_dir", "resume_from_checkpoint", "data_dir", "data_files", "report_to", "dataloader_num_workers",
        "checkpointing_steps", "checkpoints_total_limit", "stop_on_collapse", "show_images", "push_to_hub",
        "hub_model_id", "hub_private_repo", "hub_revision_epochs", "imported", "max_hours", "max_bad_steps",
        "process_timeout"}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A run as it is declared, and what its directory has of it. `kind` is that of its J − M: bound or surrogate."""

    name: str
    dataset: str
    method: str
    seed: int
    kind: str
    flags: dict
    args: PretrainingArguments
    directory: Path

    @property
    def results(self) -> dict | None:
        """The content of `results.json`; None until the run is done."""
        return _read(self.directory / "results.json")

    @property
    def recorded(self) -> dict:
        """The arguments it ran with. An argument that is younger than the run had its default's effect."""
        return PretrainingArguments().to_dict() | (_read(self.directory / "training_args.json") or {})

    def changes(self) -> str:
        """The arguments in which a run that is done and its declaration differ."""
        theirs, mine = self.recorded, json.loads(json.dumps(self.args.to_dict()))
        free = FREE | {"dataset_name"} if "parquet" in (theirs["dataset_name"], mine["dataset_name"]) else FREE
        keys = [key for key in theirs if key not in free and theirs[key] != mine.get(key)]
        return ", ".join(f"{key} {theirs[key]!r} → {mine.get(key)!r}" for key in keys)

    def state(self) -> str:
        if self.results:
            return f"done with other arguments ({self.changes()})" if self.changes() else "done"
        checkpoint = latest_checkpoint(self.directory / "checkpoints")
        return f"interrupted, goes on from {checkpoint.name}" if checkpoint else "to do"

    def measured(self, name: str, encoder: str = "trained") -> dict:
        """What was measured under that name, of the online branch; `value` is J − M of the last step."""
        if name == "value":
            records = read_records(self.directory / "metrics.jsonl")
            return next((record for record in reversed(records) if "value" in record), {})
        if name in self.results["timing"]:
            return {"value": self.results["timing"][name]}
        wanted = {"name": name, "encoder": encoder, "branch": "online"}
        return next((row for row in self.results["evaluations"] if wanted.items() <= row.items()), {})


def _read(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def read_matrix(path: Path) -> dict:
    """The matrix with all of its keys, its methods in the order in which they are to run."""
    try:
        matrix = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError, UnicodeError) as error:
        raise UserError(f"--matrix {path}: {getattr(error, 'strerror', None) or error}") from error
    if not isinstance(matrix, dict) or not matrix.get("name") or not matrix.get("datasets"):
        raise UserError(f"--matrix {path} must be a mapping that has at least `name` and `datasets`")
    for key, value in matrix.items():
        if key not in KEYS:
            raise unknown("key of a matrix", str(key), KEYS)
        if value is not None and not isinstance(value, KEYS[key]):
            raise UserError(f"--matrix {path}: `{key}` must be a {KEYS[key].__name__}, got {value!r}")
    matrix = {key: matrix.get(key) or empty() for key, empty in KEYS.items()}
    for name in [*matrix["first"], *matrix["methods"], *matrix["overrides"]]:
        get_method(name)
    methods = list(dict.fromkeys([*matrix["first"], *(matrix["methods"] or METHODS)]))
    return matrix | {"methods": methods, "seeds": matrix["seeds"] or [0]}


def declared_runs(matrix: dict, output_dir: Path, data_files: list[str] | None = None) -> list[Run]:
    """The runs of the matrix in their order, checked as the recipes will check them; `data_files` are parquet files to
    read the data set from, in place of where the matrix has it from."""
    if data_files and len(matrix["datasets"]) > 1:
        raise UserError("--data_files is for a matrix of one data set: write `data_files` into the matrix instead")
    place = {"dataset_name": "parquet", "data_files": data_files} if data_files else {}
    runs = []
    for seed, dataset, method in itertools.product(matrix["seeds"], matrix["datasets"], matrix["methods"]):
        flags, columns = {}, {}
        for layer in (matrix["flags"], matrix["datasets"][dataset], place, matrix["overrides"].get(method)):
            flags |= layer or {}
            columns |= flags.pop("set", None) or {}  # columns are overridden one by one
        if decided := DECIDED & set(flags):
            raise UserError(f"{', '.join(decided)} follows from a run's place in the matrix: leave it out there")
        name = f"{dataset}/{method}-seed{seed}"
        directory = output_dir / matrix["name"] / name
        flags |= {"method": method, "seed": seed, "set": columns, "output_dir": str(directory)}
        try:
            with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
                yaml.safe_dump(flags, file)
                file.flush()
                args = parse_arguments(["--config", file.name], "")
            kind = CONFIGS[METHODS[method].paradigm].from_method(method, **args.columns).kind
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
        runs.append(Run(name, dataset, method, seed, kind, flags, args, directory))
    return runs


def run_all(runs: list[Run], parallel: int) -> int:
    """Run them, so many at a time; returns how many failed. When it is interrupted it ends them first."""
    stop, began, failed = threading.Event(), time.monotonic(), 0
    with ThreadPoolExecutor(parallel) as pool:
        futures = {pool.submit(_run, run, parallel, stop): run for run in runs}
        try:
            for n, future in enumerate(as_completed(futures), 1):
                failed += future.result() != "done"
                left = (time.monotonic() - began) / n * (len(runs) - n) / 60
                print(f"[{n}/{len(runs)}] {futures[future].name} {future.result()}; {left:.0f} min left", flush=True)
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
    return failed


def _run(run: Run, parallel: int, stop: threading.Event) -> str:
    """The recipe, in a process of its own; returns how it went. Output is unbuffered: an error is the last line."""
    config, log = run.directory / "run.yaml", run.directory / "log.txt"
    run.directory.mkdir(parents=True, exist_ok=True)
    config.write_text(yaml.safe_dump(run.flags, sort_keys=False, allow_unicode=True))
    recipe = ROOT / "recipes" / f"pretrain_{METHODS[run.method].paradigm}.py"
    command = [sys.executable, str(recipe), "--config", str(config), "--resume_from_checkpoint", "latest"]
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, os.cpu_count() // parallel)), "PYTHONUNBUFFERED": "1"}
    with log.open("a") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        while process.poll() is None:
            if stop.wait(0.1):
                process.terminate()
                process.wait()
    last = ["no output", *log.read_text(errors="replace").strip().splitlines()][-1]
    return f"failed, {process.returncode}: {last} ({log})" if process.returncode else "done"


def render(matrix: dict, runs: list[Run], path: Path) -> str:
    """The page with the table, from the files of the runs that are done."""
    done = [run for run in runs if run.results]
    facts = {}  # for each fact, the names of the runs by what it is for them
    for run in done:
        protocols = {e["name"]: f"{e['protocol']}; n = {e['n']:,} of {e['split']}" for e in run.results["evaluations"]}
        for key, value in (run.recorded | run.results | protocols).items():
            text = json.dumps(value, ensure_ascii=False).replace('"', "")
            facts.setdefault(key, {}).setdefault(text, []).append(run.name)
    names = {"matrix": matrix, "path": path, "runs": runs, "done": done, "facts": facts, "hidden": FREE | DECIDED}
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    return environment.from_string(TEMPLATE.read_text()).render(names, methods=METHODS, cell=_cell)


def _cell(runs: list[Run], name: str, digits: int = 1, scale: float = 1, encoder: str = "trained") -> str:
    """A value with its interval; of several seeds, the mean and the standard deviation."""
    rows = {(run.seed, e["value"]): e for run in runs if (e := run.measured(name, encoder)).get("value") is not None}
    values = [scale * value for _, value in rows]
    if not values:
        return "—"
    first, ceilings = next(iter(rows.values())), [row["ceiling"] for row in rows.values() if "ceiling" in row]
    text = f"{mean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {stdev(values):.{digits}f} (n = {len(values)})"
    elif first.get("low") is not None:
        text += f" ({scale * first['low']:.{digits}f} to {scale * first['high']:.{digits}f})"
    return f"{text}; ceiling {mean(ceilings):.{digits}f}" if ceilings else text


def main() -> int:
    parser = RecipeParser(__doc__)
    parser.add_argument("--matrix", type=Path, required=True, help="YAML file that declares the runs")
    parser.add_argument("--data_files", nargs="+", help="parquet files to read the data set from: train=… test=…")
    parser.add_argument("--methods", nargs="+", help="run these only; the table remains that of all")
    parser.add_argument("--parallel", type=int, default=1, help="runs side by side; they share the cores")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/reproduce"), help="where the runs lie")
    parser.add_argument("--results", type=Path, help="file of the table; default: model_cards/results/<name>.md")
    parser.add_argument("--dry_run", action="store_true", help="list the runs and their states")
    parser.add_argument("--table_only", action="store_true", help="write the table of what is done")
    args = parser.parse_args()
    matrix = read_matrix(args.matrix)
    for name in args.methods or ():
        if name not in matrix["methods"]:
            raise unknown("method of this matrix", name, matrix["methods"])
    runs = declared_runs(matrix, args.output_dir, args.data_files)
    chosen = [run for run in runs if run.method in (args.methods or matrix["methods"])]
    if args.dry_run:
        print(*(f"{run.name:<36} {run.state()}" for run in chosen), sep="\n")
        return 0
    if other := next((run for run in runs if run.results and run.changes()), None):
        raise UserError(f"{other.directory} {other.state()}: declare those, or give another --output_dir")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: no run outlives this command
    try:
        failed = run_all([run for run in chosen if not (run.results or args.table_only)], max(1, args.parallel))
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        failed = True
    if any(run.results for run in runs):
        page = args.results or TEMPLATE.with_name(f"{matrix['name']}.md")
        page.write_text(render(matrix, runs, args.matrix))
        print(f"the table is in {page}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(run_downstream(main))
