"""What was measured, as the rows of a card's tables: every cell is escaped, and what is missing is an empty cell."""

import json
import re
import statistics
from pathlib import Path

from ..errors import ExitCode, UserError
from ..files import whole
from .text import escaped, hub_id, number, public

# What the recipes write. Each holds `evaluations`, and may hold the `dataset` and the `seed` of all of them.
EVIDENCE = ("results.json", "knn.json", "linear_probe.json", "finetune.json")
_OF = {"pixels": "pixels", "random": "random encoder", "trained": "trained encoder"}
# What the two sides of a pair are, by the first part of an evaluation's name.
_SPACES = {"mi": "embeddings z", "mi_h": "representations h", "mi_target": "z, online and target"}
_GEOMETRY = ("rank", "rank_h", "collapse", "shape")
_TASKS = {"knn": "kNN", "linear": "linear probe", "ridge": "ridge probe", "finetune": "fine-tuning"}
# Estimators whose value is a lower bound on MI, for results that do not say of what kind it is.
_BOUNDS = {"cos_dv", "cos_dv_calibrated", "row_wise_dv", "info_nce", "nwj", "jsd"}
_SAME = ("name", "value", "n", "split", "protocol", "dataset", "image_size", "seed", "encoder", "branch")
_SEEDS = ("±", "standard deviation over seeds of the measurement; the encoder is that of one training run")


def read_object(path: Path) -> dict:
    """The JSON object in the file, empty where there is no file.

    Raises:
        UserError: for a file that is not a JSON object.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}", exit_code=1) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object", exit_code=1)
    return content


def read_evaluations(path: Path) -> list[dict]:
    """The evaluations in a file, each with the `dataset` and the `seed` that the file gives for all of them."""
    content = read_object(path)
    shared = {key: content[key] for key in ("dataset", "seed") if key in content}
    rows = content.get("evaluations")
    rows = [shared | row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return [row for row in rows if isinstance(row.get("name"), str) and number(row.get("value"))]


def replace_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        UserError: if it cannot be written.
    """
    try:
        with whole(path) as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}", exit_code=ExitCode.NOT_WRITTEN) from error


def add_evidence(run_dir: str | Path, file: str | Path) -> None:
    """Take what a downstream recipe wrote elsewhere into the run's file of that name, as `write_evidence` does.

    Raises:
        UserError: for a file of another name or another encoder, one without evaluations, or one that cannot be read
            or written.
    """
    file, mine = Path(file), Path(run_dir) / Path(file).name
    if file.name not in EVIDENCE[1:] or not read_evaluations(file):
        raise UserError(f"{file} holds no evaluations; give one of {', '.join(EVIDENCE[1:])}", exit_code=1)
    if file.resolve() == mine.resolve():
        return
    own = {Path(run_dir).resolve().name, read_object(Path(run_dir) / "training_args.json").get("hub_model_id")}
    if (whose := read_object(file).get("encoder")) not in {None, *own}:
        raise UserError(f"{file} is evidence of {whose!r}, not of the run in {run_dir}")
    name = read_object(mine).get("encoder", Path(run_dir).resolve().name)
    write_evidence(mine, read_object(file) | {"encoder": name, "evaluations": read_evaluations(file)})


def write_evidence(path: str | Path, found: dict) -> None:
    """Write what a downstream recipe found, with `evaluations`, into a file of `EVIDENCE`, whole or not at all. What
    the file has of the same `encoder` stays, unless it is the same measurement (data, protocol and seed); a file of
    another is set aside.

    Raises:
        UserError: for a file that is no JSON object, or if it cannot be written.
    """
    path = Path(path)
    earlier = read_object(path)
    if earlier and earlier.get("encoder", found["encoder"]) != found["encoder"]:
        path.replace(path.with_name(f"{path.stem}.before-{int(path.stat().st_mtime)}{path.suffix}"))
    same = ("name", "dataset", "image_size", "split", "protocol", "seed", "encoder", "branch")
    rows = [*read_evaluations(path), *found["evaluations"]]
    rows = {json.dumps([row.get(key) for key in same]): row for row in rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps(found | {"evaluations": list(rows.values())}, indent=2, ensure_ascii=False) + "\n")


def measured(run_dir: Path) -> list[dict]:
    """All evaluations of a run, those of downstream recipes among them, in the order in which a card shows them; with
    `image_size` where it is not that of the run."""
    usual = ("image_size", read_object(run_dir / "training_args.json").get("image_size"))
    rows = [row for name in EVIDENCE for row in read_evaluations(run_dir / name)]
    rows = [{key: fact for key, fact in row.items() if (key, fact) != usual} for row in rows]
    once = {json.dumps([row.get(key) for key in _SAME], sort_keys=True): row for row in reversed(rows)}
    rows = list(reversed(once.values()))  # a run's own probe, found again by the recipe, is one result
    order = [*_SPACES, *_GEOMETRY]
    return sorted(rows, key=lambda row: (_index(order, _space(row)), row["name"], _index([*_OF], row.get("encoder"))))


def task(row: dict) -> str:
    """What an accuracy is the accuracy of; empty for every other measurement."""
    found = re.fullmatch(r"(knn|linear|ridge|finetune)_(\w+_)?top1(_\w+)?", row["name"], re.ASCII)
    if not found:
        return ""
    parts = [part.strip("_").replace("_", " ") for part in found.group(2, 3) if part]
    share = re.compile(r"(\d+)p?(\d*)pct")  # 10pct, 0p5pct
    parts = [share.sub(lambda x: f"{'.'.join(filter(None, x.groups()))} % of the labels", part) for part in parts]
    return ", ".join([_TASKS[found[1]], *parts])


def corpus(name: object) -> str:
    """A data set by its name on the Hub, with a link to it, or by what it is."""
    if hub_id(public(name)):
        return f"[{escaped(name)}](https://huggingface.co/datasets/{name})"
    local = {"imagefolder": "a folder of images", "parquet": "parquet files"}
    return local.get(name) or escaped(public(name)) if isinstance(name, str) else ""


def accuracies(rows: list[dict]) -> tuple[list[dict[str, str]], list[tuple[str, str]]]:
    """The rows of the table of results, and (measure, protocol) of what stands in it."""
    rows = [row for row in rows if _space(row) not in (*_SPACES, *_GEOMETRY)]
    table = [line for same in _by_seed(rows) for line in (*map(_row, same), *_over_seeds(same))]
    protocols = [(_row(row)["name"], escaped(row.get("protocol"), limit=300)) for row in rows]
    protocols += [_SEEDS] * any("±" in line["value"] for line in table)
    return table, [found for found in dict.fromkeys(protocols) if found[1]]


def _by_seed(rows: list[dict]) -> list[list[dict]]:
    """The rows, those together that may differ in value and seed alone."""
    groups: dict[str, list[dict]] = {}
    for row in rows:
        key = json.dumps([row.get(name) for name in _SAME if name not in ("value", "seed")], sort_keys=True)
        groups.setdefault(key, []).append(row)
    return list(groups.values())


def _over_seeds(same: list[dict]) -> list[dict[str, str]]:
    """A line with mean and standard deviation of an accuracy that was measured with two seeds or more."""
    seeds = {number(row.get("seed")) for row in same} - {""}
    if not task(same[0]) or len(seeds) < 2 or len(seeds) < len(same):
        return []
    values = [100 * row["value"] for row in same]
    value = f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f} %"
    return [_row(same[0]) | {"value": value, "interval": "", "seed": f"{len(seeds)} seeds"}]


def information(rows: list[dict]) -> list[dict[str, str]]:
    """The rows of the table of mutual information."""
    table = []
    for row in rows:
        if _space(row) in _SPACES:
            estimator, value, ceiling = row["name"].partition("/")[2], row["value"], row.get("ceiling")
            kind = row.get("kind", "lower_bound" if estimator in _BOUNDS else "plugin")
            saturated = row.get("saturated", bool(number(ceiling)) and value > 0.9 * ceiling)
            table.append(
                _row(row | {"branch": None})
                | {"name": escaped(estimator), "space": _SPACES[_space(row)], "ceiling": number(ceiling)}
                | {"kind": "lower bound" if kind in ("lower_bound", "bound") else "no bound"}
                | {"saturated": "yes" if saturated else "no" if number(ceiling) else ""}
            )
    return table


def geometry(rows: list[dict]) -> list[dict[str, str]]:
    """The rows of the table of rank and collapse: the random encoder beside the trained one."""
    table: dict[tuple, dict] = {}
    for row in rows:
        if _space(row) in _GEOMETRY:
            facts = {"name": escaped(row["name"]), "n": number(row.get("n"))}
            facts |= {"random": "", "trained": "", "protocol": escaped(row.get("protocol"), limit=200)}
            line = table.setdefault((row["name"], *facts.values()), facts)
            if row.get("encoder") in ("random", "trained"):
                line[row["encoder"]] = number(row["value"])
    return list(table.values())


def growth(results: dict) -> list[str]:
    """Whether mutual information grew, a sentence for each curve."""
    sentences = []
    verdicts = results.get("growth")
    for name, verdict in verdicts.items() if isinstance(verdicts, dict) else ():
        space, _, estimator = name.partition("/")
        if space not in _SPACES or not isinstance(verdict, dict):
            continue
        gain, error = (_quantity(verdict.get(key)) for key in ("gain", "standard_error"))
        reasons = verdict.get("because")
        said = f"grew by {gain} nats (standard error {error}, {number(verdict.get('evaluations'))} evaluations)"
        if not verdict.get("grew"):
            said = "did not grow: " + escaped("; ".join(map(str, reasons or ["no reason is given"])), limit=300)
        sentences.append(f"{_SPACES[space]}, {escaped(estimator)}: {said}")
    return sentences


def alarms(results: dict) -> list[str] | None:
    """What the alarm said, a sentence each; None where no alarm listened."""
    raised = results.get("alarms")
    if not isinstance(raised, list):
        return None
    raised = [alarm for alarm in raised if isinstance(alarm, dict)]
    return [f"step {number(alarm.get('step'))}: {escaped(alarm.get('message'), limit=500)}" for alarm in raised]


def _row(row: dict) -> dict[str, str]:
    of, name = row.get("encoder"), task(row)
    branch = f", {escaped(row['branch'])} branch" if row.get("branch") not in (None, "online") else ""
    size = f"{number(row['image_size'])} pixels" if number(row.get("image_size")) else ""
    data = ", ".join(filter(None, [corpus(row.get("dataset")), escaped(row.get("split")), size]))
    low, high = _quantity(row.get("low"), name), _quantity(row.get("high"), name)
    return {
        "name": name or escaped(row["name"]),
        "of": _OF.get(of if isinstance(of, str) else "", escaped(of)) + branch,
        "value": _quantity(row["value"], name) + (" %" if name else ""),
        "interval": f"{low} to {high}" if low and high else "",
        "n": number(row.get("n")),
        "data": data,
        "seed": number(row.get("seed")),
    }


def _quantity(value: object, accuracy: object = "") -> str:
    """In percent with one decimal, or with three decimals: what is left of sampling noise."""
    if not number(value) or abs(value) > 1e6:
        return number(value)
    return f"{100 * value:.1f}" if accuracy else f"{value:.3f}"


def _space(row: dict) -> str:
    return row["name"].partition("/")[0]


def _index(order: list, value: object) -> int:
    return order.index(value) if value in order else -1
