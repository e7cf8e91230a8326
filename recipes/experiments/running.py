"""Many runs: one JSON file each, written whole, and what has a file with the same arguments is not run again."""

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from photographs import take_from
from reporting import Report, write_report

from hf_mi_ssl.errors import UserError
from hf_mi_ssl.training import write_json

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.append(str(ROOT / "recipes"))  # from here on, what recipes/reproduce.py is made of can be imported
RESULTS = ROOT / "model_cards" / "results" / "paper"
SEEDS = tuple(range(5))


@dataclass(frozen=True)
class Job:
    """A call of `function` with `arguments`, JSON both ways; its result goes to <experiment>/<name>.json."""

    experiment: str
    name: str
    function: Callable[..., dict]
    arguments: dict[str, Any]


def replicated(
    experiment: str, function: Callable[..., dict], arms: Mapping[str, dict], seeds: Sequence[int], **common: Any
) -> list[Job]:
    """A job for each arm and seed; the arguments of an arm go before the common ones."""
    return [
        Job(experiment, f"{arm}-seed{seed}", function, common | arguments | {"seed": seed})
        for arm, arguments in arms.items()
        for seed in seeds
    ]


def twice(seeds: Sequence[int]) -> range:
    """The seeds of arms that decide a primary claim which the first ones could not tell."""
    return range(2 * len(seeds))


def _execute(job: Job) -> dict | Exception:
    """The job's result, or what went wrong: the others go on."""
    torch.set_num_threads(1)
    began = time.process_time()
    try:
        return job.function(**job.arguments) | {"seconds": round(time.process_time() - began, 2)}
    except Exception as error:
        return error


def path_of(job: Job, runs: Path) -> Path:
    return runs / job.experiment / f"{job.name}.json"


def result_of(job: Job, runs: Path) -> dict | None:
    """What the job's file says, None if there is none or it is of other arguments."""
    try:
        written = json.loads(path_of(job, runs).read_text())
    except (OSError, ValueError):
        return None
    return _of_arguments(job, written)


def kept_of(job: Job, results: Path) -> dict | None:
    """The same, of the evidence beside a report that was written before."""
    path = results / "evidence" / f"{job.experiment}.json"
    return _of_arguments(job, _evidence(path).get(job.name)) if path.exists() else None


@cache
def _evidence(path: Path) -> dict:
    return json.loads(path.read_text())


def _of_arguments(job: Job, written: dict | None) -> dict | None:
    return written["result"] if written and written["arguments"] == json.loads(json.dumps(job.arguments)) else None


def run_all(jobs: Sequence[Job], runs: Path, parallel: int) -> int:
    """Run what has no file yet, so many at a time; returns how many failed."""
    unique = {path_of(job, runs): job for job in jobs}  # experiments share some
    left, failed, began = [job for job in unique.values() if result_of(job, runs) is None], 0, time.monotonic()
    for experiment in {job.experiment for job in left}:
        (runs / experiment).mkdir(parents=True, exist_ok=True)
    for n, (job, result) in enumerate(_results(left, parallel), 1):
        if isinstance(result, Exception):
            failed += 1
            print(f"{job.experiment}/{job.name} failed: {type(result).__name__}: {result}", file=sys.stderr)
        else:
            write_json(path_of(job, runs), {"arguments": job.arguments, "result": result})
        minutes = (time.monotonic() - began) / n * (len(left) - n) / 60
        if sys.stderr.isatty() or n % 20 == 0 or n == len(left):
            print(f"[{n}/{len(left)}] {job.experiment}/{job.name}; {minutes:.0f} min left", flush=True)
    return failed


def _results(jobs: Sequence[Job], parallel: int) -> Iterator[tuple[Job, dict | Exception]]:
    """Each job with its result, or with what went wrong, as they come; one at a time, they run in this process."""
    if parallel == 1:
        yield from ((job, _execute(job)) for job in jobs)
        return
    with ProcessPoolExecutor(parallel, multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(_execute, job): job for job in jobs}
        try:
            yield from ((futures[future], future.result()) for future in as_completed(futures))
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def parser_of(doc: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/paper"), help="where the result of each run lies")
    parser.add_argument(
        "--results", type=Path, help="where reports, figures and evidence are written; of --tiny runs beside them"
    )
    parser.add_argument("--parallel", type=int, default=2, help="runs side by side, one thread each")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="replicates; intervals need two")
    parser.add_argument("--tiny", action="store_true", help="a few steps, to try the code: says nothing")
    parser.add_argument("--report_only", action="store_true", help="write the report of what is done")
    parser.add_argument("--data_files", nargs="+", help="CIFAR-10's parquet files, where it is not read from the Hub")
    evidence = RESULTS.with_name("evidence")
    parser.add_argument(
        "--reproduced", type=Path, default=evidence, help="evidence of recipes/reproduce.py, by matrix"
    )
    return parser


def run_experiments(modules: Sequence[ModuleType], args: argparse.Namespace) -> int:
    """The jobs of all, then the report of each; returns how many jobs failed."""
    if args.parallel < 1 or args.seeds < 1:
        raise UserError("--parallel and --seeds must be at least 1")
    if args.data_files:
        take_from(args.data_files)
    args.results = args.results or (args.runs / "results" if args.tiny else RESULTS)
    torch.set_num_threads(1)
    jobs = {module: module.jobs(range(args.seeds), args.tiny) for module in modules}
    failed = (
        0 if args.report_only else run_all([job for own in jobs.values() for job in own], args.runs, args.parallel)
    )
    for module, own in jobs.items():
        found = [result_of(job, args.runs) for job in own]
        # Of runs that are gone, or that failed this time, what was kept of them
        found = [kept_of(job, args.results) if one is None else one for job, one in zip(own, found)]
        done = {job.name: (job.arguments, result) for job, result in zip(own, found) if result is not None}
        if not done:
            print(f"{module.NAME}: no run is done, so that its page stays as it is", file=sys.stderr)
            continue
        report: Report = module.report(done, args)
        command = f"python recipes/experiments/{Path(module.__file__).name}"
        evidence = {job.name: done[job.name] for job in own if job.experiment == report.name and job.name in done}
        path = write_report(report, args.results, command, evidence, (len(done), len(own)), args.tiny)
        print(f"{path}: {report.last_line()}", flush=True)
    return failed


def main(module: ModuleType) -> int:
    """The command line of one experiment."""
    try:
        return int(run_experiments([module], parser_of(module.__doc__).parse_args()) > 0)
    except (UserError, OSError) as error:
        print(f"{Path(module.__file__).name}: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 1)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 1
