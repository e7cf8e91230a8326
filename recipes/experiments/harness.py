"""What the experiments share: a run of the package's own models on a toy source, what is measured of it, many of them.

A job is a function and its arguments; its result is one JSON file, written whole, and a job whose file is there with
the same arguments is not run again. Replicates are seeds: of weights, of training data and of held-out pairs.
"""

import argparse
import json
import math
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import critics  # noqa: F401  (registers them)
import torch
from reporting import Report, write_report
from sources import SOURCES, Source, ToyConfig, Views
from torch import Tensor, nn
from transformers import ResNetConfig

from hf_mi_ssl import JMIConfig, JMIForPreTraining, SDMIConfig, SDMIForPreTraining
from hf_mi_ssl.encoders import build_encoder, representation_size
from hf_mi_ssl.errors import UserError
from hf_mi_ssl.estimators import ESTIMATORS, TRACKING_TEMPERATURE, track
from hf_mi_ssl.estimators.fixed import ESTIMATORS as FIXED
from hf_mi_ssl.estimators.fixed_critic import cross_fit_all
from hf_mi_ssl.evaluation import Alarm, knn_predict, ridge_probe
from hf_mi_ssl.evaluation.geometry import tracked_geometry
from hf_mi_ssl.methods import METHODS
from hf_mi_ssl.mi import CRITICS, bounds
from hf_mi_ssl.mi.critics import score_matrix
from hf_mi_ssl.nn.heads import Projector
from hf_mi_ssl.training import write_json

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.append(str(ROOT / "recipes"))  # from here on, what recipes/reproduce.py is made of can be imported
RESULTS = ROOT / "model_cards" / "results" / "paper"

# The protocol of every toy run, fixed before any verdict was computed; an experiment says where it departs from it.
BATCH, STEPS, LEARNING_RATE, EVALUATIONS = 256, 300, 3e-3, 10
HELD = 512  # held-out pairs; the probe learns from twice as many views
SIZES = {"projector_hidden_size": 64, "projection_size": 16}
# Nothing but the terms may keep embeddings apart: no batch norm, in place of the marginal term, at the projector's end
BARE = {"projector_hidden_norm": False, "projector_output_norm": False}
SEEDS = tuple(range(5))
# An E-step for each M-step; blocks of steps in one phase; both gradients at one point, then one step
SCHEDULES = ("turns", "blocks", "together")
_EXTRA_LENGTH = 7919  # separates the seeds of data from those of weights


@dataclass(frozen=True)
class Job:
    """A call of `function` with `arguments`, JSON both ways; its result goes to <experiment>/<name>.json."""

    experiment: str
    name: str
    function: Callable[..., dict]
    arguments: dict[str, Any]


def build(
    method: str, towers: list, seed: int, columns: dict, asymmetric: bool = False, hidden: int = 64
) -> SDMIForPreTraining | JMIForPreTraining:
    """The model of that row, of the package, with a small encoder; without towers it is one of images.

    With `asymmetric` the online branch has the first tower only and the target the second, in half the width.
    """
    torch.manual_seed(seed)
    config_class, model_class = (
        (SDMIConfig, SDMIForPreTraining) if METHODS[method].paradigm == "sdmi" else (JMIConfig, JMIForPreTraining)
    )
    encoder = ToyConfig(towers=towers[:1] if asymmetric else towers, hidden_size=hidden)
    if not towers:
        encoder = ResNetConfig(depths=[1, 1], hidden_sizes=[16, 32], embedding_size=16, layer_type="basic")
    model = model_class(config_class.from_method(method, encoder_config=encoder, **(SIZES | columns)))
    if asymmetric:
        other = ToyConfig(towers=towers[1:], hidden_size=hidden // 2)
        model.target.encoder = build_encoder(other)
        c = model.config
        model.target.projector = Projector(
            representation_size(other),
            c.projector_hidden_size,
            c.projection_size,
            c.projector_num_layers,
            c.projector_output_norm,
            c.projector_hidden_norm,
            c.projector_activation,
        )
    return model.train()


def train(
    source: dict,
    method: str,
    seed: int,
    columns: dict | None = None,
    steps: int = STEPS,
    batch_size: int = BATCH,
    learning_rate: float = LEARNING_RATE,
    schedule: str = "turns",
    block: int = 1,
    evaluations: int = EVALUATIONS,
    fine: int = 0,
    pool: int | None = None,
    held: int = HELD,
    asymmetric: bool = False,
    probes: bool = False,
    measure: Sequence[str] = (),
) -> dict:
    """Train a row and measure it: curves by name with their steps, the end, and what the alarm said when.

    Args:
        source: the name in `SOURCES` under "name", and its arguments.
        schedule, block: one of `SCHEDULES`, and the steps of a block.
        fine: how often cos-DV and InfoNCE alone are followed between; they cost little.
        held: held-out pairs; the probe learns from twice as many views.
        pool: training pairs drawn in all; by default none comes twice.
        probes: whether accuracies are followed; they are always measured at the end.
        measure: names in `MEASURES`, what else is measured at the end.
    """
    law = make_source(source)
    model = build(method, law.towers, seed, columns or {}, asymmetric)
    generator = torch.Generator().manual_seed(seed + _EXTRA_LENGTH)
    pairs, labelled = law.draw(held, generator), law.draw(2 * held, generator)
    data = law.draw(pool or steps * batch_size, generator)
    optimizer = torch.optim.Adam(model.parameters(), learning_rate, fused=True)
    alarm, curves, finer = Alarm(model.config, steps, batch_size), Curves(), Curves()
    initial = embed(model, pairs)
    curves.add(0, follow(model, pairs, labelled, law, probes))
    finer.add(0, cheap(model, pairs))
    alarm(curves.record(0))
    every, often = ({round(steps * (i + 1) / n) for i in range(n)} for n in (evaluations, fine))
    for step in range(steps):
        rows = torch.arange(step * batch_size, (step + 1) * batch_size) % len(data.a)
        batch = data.a[rows], data.b[rows]
        outputs = []
        for phase in phases_of(model, schedule, step, block):
            outputs.append(model(*batch, phase=phase))
            outputs[-1].loss.backward()
            if schedule != "together":
                optimizer.step()
                optimizer.zero_grad()
        if schedule == "together":
            optimizer.step()
            optimizer.zero_grad()
        if isinstance(model, SDMIForPreTraining):
            model.update_target()
        loss = outputs[0].loss.item()
        alarm({"step": step + 1, "loss": loss, "value": -loss if math.isfinite(loss) else None})
        if step + 1 in often:
            finer.add(step + 1, cheap(model, pairs))
        if step + 1 in every:
            if not all(parameter.isfinite().all() for parameter in model.parameters()):
                return rounded({"diverged": step + 1, "curves": curves.kept(), "alarm": {"diverged": step + 1}})
            curves.add(step + 1, follow(model, pairs, labelled, law, probes))
            curves.raised |= dict.fromkeys(alarm(curves.record(step + 1)), step + 1)
    found = {"curves": curves.kept(), "alarm": curves.raised, "collapsed": bool(alarm.collapsed)}
    if fine:
        found["fine"] = finer.values
    found["end"] = accuracies(model, pairs, labelled, law)
    for name in measure:
        found[name] = MEASURES[name](model, law, pairs, initial, seed)
    return rounded(found)


def phases_of(model: nn.Module, schedule: str, step: int, block: int) -> tuple[str, ...]:
    """The phases of a step: with `blocks` one of them, so that twice the steps make as many updates."""
    return model.phases[(step // block) % 2 :][:1] if schedule == "blocks" else model.phases


def make_source(source: dict) -> Source:
    arguments = dict(source)
    return SOURCES[arguments.pop("name")](**arguments)


def truth_of(source: dict) -> float:
    """The MI of the source's two views, in nats; integrated once in a process."""
    return _truth(json.dumps(source, sort_keys=True))


@cache
def _truth(source: str) -> float:
    return make_source(json.loads(source)).truth()


class Curves:
    """Numbers by name, and the steps at which they were measured."""

    def __init__(self):
        self.values: dict[str, list[float]] = {"step": []}
        self.raised: dict[str, int] = {}

    def add(self, step: int, numbers: dict[str, float]) -> None:
        self.values["step"].append(step)
        for name, number in numbers.items():
            self.values.setdefault(name, []).append(number)

    def kept(self) -> dict[str, list[float]]:
        """Without the ends of intervals, which only the alarm asks for."""
        ends = ("/low", "/high", "/ceiling")
        return {name: numbers for name, numbers in self.values.items() if not name.endswith(ends)}

    def record(self, step: int) -> dict[str, float]:
        """The last numbers as a line of `metrics.jsonl`."""
        return {"step": step} | {f"eval/{name}": numbers[-1] for name, numbers in self.values.items()}


@torch.no_grad()
def embed(model: nn.Module, views: Views) -> dict[str, Tensor]:
    """h and z of both views; where there are, t of the target's own branch and the prediction p."""
    model.eval()
    found = {}
    own = model.branches.get("target")
    sides = {"a": views.a, "b": views.b}
    for side, view in sides.items():
        two = own and _sizes(model.encoder) and str(view[0].numel()) not in _sizes(model.encoder)
        encoder, projector = own if two else model.branches["online"]  # f does not take what g takes
        found[f"h_{side}"] = encoder(view).pooler_output.flatten(1)
        found[f"z_{side}"] = projector(found[f"h_{side}"])
    if own:
        encoder, projector = own
        found["t_b"] = projector(encoder(views.b).pooler_output.flatten(1))
    if getattr(model, "predictor", None) is not None:
        found["p_a"] = model.predictor(found["z_a"])
    model.train()
    return found


def _sizes(encoder: nn.Module) -> list[str]:
    return list(getattr(encoder, "towers", {}))


def follow(model: nn.Module, held: Views, labelled: Views, law: Source, probes: bool) -> dict[str, float]:
    """What is followed in training, on the same held-out pairs: MI of (f_θ, f_θ) and of (f_θ, g_ξ), and geometry."""
    found = embed(model, held)
    numbers = {}
    for name, estimate in track(found["z_a"], found["z_b"], "held-out").items():
        numbers |= {f"mi/{name}": estimate.value, f"mi/{name}/ceiling": estimate.ceiling}
        numbers |= {f"mi/{name}/low": estimate.low, f"mi/{name}/high": estimate.high}
    for name, a in (("mi_target/cos_dv", "z_a"), ("mi_predicted/cos_dv", "p_a")):
        if a in found and "t_b" in found:
            numbers[name] = cos_bounds(found[a], found["t_b"])["cos_dv"]
    numbers |= tracked_geometry(found["z_a"], found["z_b"])
    if "t_b" in found:
        numbers["rank/effective_rank_target"] = tracked_geometry(found["t_b"], found["t_b"])["rank/effective_rank"]
    if probes:
        numbers |= accuracies(model, held, labelled, law)
    return numbers


def cos_bounds(a: Tensor, b: Tensor) -> dict[str, float]:
    """cos-DV and InfoNCE at the tracking temperature, of all pairs at once."""
    scores = score_matrix(CRITICS["cosine"], a, b) / TRACKING_TEMPERATURE
    return {"cos_dv": bounds.dv(scores).item(), "info_nce": bounds.info_nce(scores).item()}


def cheap(model: nn.Module, held: Views) -> dict[str, float]:
    """Those of (z_a, z_b), and with the target's own branch of (z_a, t_b)."""
    found = embed(model, held)
    numbers = cos_bounds(found["z_a"], found["z_b"])
    if "t_b" in found:
        numbers |= {f"{name}_target": value for name, value in cos_bounds(found["z_a"], found["t_b"]).items()}
    return numbers


def accuracies(model: nn.Module, held: Views, labelled: Views, law: Source) -> dict[str, float]:
    """Linear (ridge) accuracy and kNN of h and of z, on held-out views."""
    train, test = embed(model, labelled), embed(model, held)
    numbers = {}
    for space in ("h", "z"):
        a, b = train[f"{space}_a"], test[f"{space}_a"]
        try:
            numbers[f"linear_{space}"] = ridge_probe(a, labelled.labels, b, held.labels, law.classes, 0).accuracy
            hits = knn_predict(a, labelled.labels, b, law.classes) == held.labels
            numbers[f"knn_{space}"] = hits.double().mean().item()
        except UserError:  # embeddings that are not finite
            numbers |= {f"linear_{space}": math.nan, f"knn_{space}": math.nan}
    return numbers


def every_estimator(model: nn.Module, law: Source, held: Views, initial: dict, seed: int) -> dict:
    """Every fixed-critic and closed-form estimate of (z_a, z_b), of pairs that nothing was followed on."""
    fresh = embed(model, law.draw(2 * len(held.a), torch.Generator().manual_seed(seed + 2 * _EXTRA_LENGTH)))
    a, b = fresh["z_a"], fresh["z_b"]
    found = cross_fit_all({name: make() for name, make in FIXED.items()}, a, b)
    for name in ("gaussian", "gaussian_copula"):
        try:
            found[name] = ESTIMATORS[name]().estimate(a, b)
        except UserError:
            continue
    return {name: [one.value, one.low, one.high, one.ceiling] for name, one in found.items()}


def separation(model: nn.Module, law: Source, held: Views, initial: dict, seed: int) -> dict:
    """Silhouette, and Fisher ratio tr Σ_between / tr Σ_within, of the label in x, in z at the start, and in z."""
    from sklearn.metrics import calinski_harabasz_score, silhouette_score

    found, y = {}, held.labels.numpy()
    places = {"x": held.a.flatten(1), "start": initial["z_a"], "z": embed(model, held)["z_a"]}
    for name, place in places.items():
        place = place.double().numpy()
        fisher = calinski_harabasz_score(place, y) * (law.classes - 1) / (len(y) - law.classes)
        found[name] = {"silhouette": float(silhouette_score(place, y)), "fisher": float(fisher)}
    return found


MEASURES: dict[str, Callable[..., Any]] = {"estimators": every_estimator, "separation": separation}


def rounded(value: Any, digits: int = 5) -> Any:
    """Numbers to so many digits, and None for those that JSON does not know."""
    if isinstance(value, dict):
        return {key: rounded(one, digits) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(one, digits) for one in value]
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    return value


# Many jobs


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
    return written["result"] if written["arguments"] == json.loads(json.dumps(job.arguments)) else None


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
        "--results", type=Path, default=RESULTS, help="where reports, figures and evidence are written"
    )
    parser.add_argument("--parallel", type=int, default=2, help="runs side by side, one thread each")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="replicates; intervals need two")
    parser.add_argument("--tiny", action="store_true", help="a few steps, to try the code: says nothing")
    parser.add_argument("--report_only", action="store_true", help="write the report of what is done")
    evidence = RESULTS.with_name("evidence")
    parser.add_argument(
        "--reproduced", type=Path, default=evidence, help="evidence of recipes/reproduce.py, by matrix"
    )
    return parser


def run_experiments(modules: Sequence[ModuleType], args: argparse.Namespace) -> int:
    """The jobs of all, then the report of each; returns how many jobs failed."""
    if args.parallel < 1 or args.seeds < 1:
        raise UserError("--parallel and --seeds must be at least 1")
    torch.set_num_threads(1)
    jobs = {module: module.jobs(range(args.seeds), args.tiny) for module in modules}
    failed = (
        0 if args.report_only else run_all([job for own in jobs.values() for job in own], args.runs, args.parallel)
    )
    for module, own in jobs.items():
        done = {job.name: (job.arguments, found) for job in own if (found := result_of(job, args.runs)) is not None}
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


Done = dict[str, tuple[dict, dict]]
Replicates = dict[int, float | None]


def replicates(done: Done, arm: str, read: Callable[[dict], float | None]) -> Replicates:
    """`read` of the result of each replicate of an arm, by seed; None where a run has no such number."""
    found = {}
    for name, (arguments, result) in done.items():
        if name.rsplit("-seed", 1)[0] == arm:
            try:
                found[arguments["seed"]] = read(result)
            except (KeyError, IndexError):
                found[arguments["seed"]] = None
    return found


def last(key: str) -> Callable[[dict], float | None]:
    """Reads the end of a curve."""
    return lambda result: result["curves"][key][-1]


def over(arms: Sequence[Replicates]) -> Replicates:
    """The mean over arms, seed by seed, of the seeds that all have."""
    seeds = set.intersection(*(set(arm) for arm in arms)) if arms else set()
    found = {seed: [arm[seed] for arm in arms] for seed in sorted(seeds)}
    return {seed: None if None in values else sum(values) / len(values) for seed, values in found.items()}
