"""The evidence of a run: one JSON file that holds all that a page is made of, and no path of the machine it ran on.

It is compact: numbers have six digits, the records of `metrics.jsonl` are columns, every evaluation is kept, and of
the training steps some hundred.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from hf_mi_ssl.errors import UserError
from hf_mi_ssl.files import whole
from hf_mi_ssl.training import PretrainingArguments, read_records

from .costs import cost_of
from .matrix import FREE, Run, read_json

STEPS = 100  # records of training steps that are kept
DIGITS = 6


@dataclass(frozen=True)
class Evidence:
    """A run that is done. `kind` is that of its J − M: bound or surrogate. `evaluated` and `steps` are its records by
    key, lists of one length, None where there was no number. `cost` is that of `cost_of`."""

    name: str
    dataset: str
    method: str
    seed: int
    kind: str
    arguments: dict
    results: dict
    finetunes: list[dict]
    evaluated: dict[str, list]
    steps: dict[str, list]
    cost: dict[str, float] | None

    def measured(self, name: str, encoder: str = "trained") -> dict:
        """What was measured under that name, of the online branch; `value` is J − M of the last step."""
        if name == "value":
            return {"value": next(iter(self.steps.get("value", [])[-1:]), None)}
        if name in self.results["timing"]:
            return {"value": self.results["timing"][name]}
        wanted = {"name": name, "encoder": encoder, "branch": "online"}
        rows = [*self.results["evaluations"], *self.finetunes]
        return next((row for row in rows if wanted.items() <= row.items()), {})

    def curve(self, key: str) -> tuple[list[int], list[float]]:
        """Steps and values of the evaluations that have the key."""
        seen = zip(self.evaluated.get("step", []), self.evaluated.get(key, []))
        pairs = [(step, value) for step, value in seen if value is not None]
        return [step for step, _ in pairs], [value for _, value in pairs]

    def records(self) -> list[dict]:
        """The evaluations as `metrics.jsonl` has them."""
        rows = (zip(self.evaluated, values) for values in zip(*self.evaluated.values()))
        return [{key: value for key, value in row if value is not None} for row in rows]


def evidence_of(run: Run) -> Evidence | None:
    """What the directory of a run holds; None until it is trained."""
    results = read_json(run.directory / "results.json")
    if not results:
        return None
    arguments = read_json(run.directory / "training_args.json") or {}
    records = read_records(run.directory / "metrics.jsonl")
    steps = [record for record in records if "value" in record]
    kept = {round(i * (len(steps) - 1) / (STEPS - 1)) for i in range(STEPS)} if steps else ()
    rows = (read_json(run.directory / "finetune.json") or {}).get("evaluations", [])
    finetunes = [row for row in rows if any(run.has(row, settings) for settings in run.finetunes)]
    return Evidence(
        run.name,
        run.dataset,
        run.method,
        run.seed,
        run.kind,
        _public({key: value for key, value in arguments.items() if key not in FREE - {"data_files"}}),
        _public(results),
        _public(finetunes),
        _columns(record for record in records if "value" not in record),
        _columns(steps[i] for i in sorted(kept)),
        cost_of(PretrainingArguments().to_dict() | arguments),
    )


def collect(runs: list[Run], directory: Path) -> list[Evidence]:
    """The evidence of the runs that are done: from their own directories, and then it is written below `directory`;
    of others, what lies there from before.

    Raises:
        UserError: for a run with other arguments than it is declared with.
    """
    found = []
    for run in runs:
        path = directory / f"{run.name}.json"
        place, way_out = run.directory, "declare those, or give another --output_dir"
        if (evidence := evidence_of(run)) is None and path.exists():
            evidence, place, way_out = read_evidence(path), path, "declare those, or remove it"
        if evidence is None:
            continue
        if changes := run.changes(evidence.arguments):
            raise UserError(f"{place} done with other arguments ({changes}): {way_out}")
        if place == run.directory:
            write_evidence(evidence, path)
        found.append(evidence)
    return found


def write_evidence(evidence: Evidence, path: Path) -> None:
    lines = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in asdict(evidence).items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as file:
        file.write("{\n" + ",\n".join(lines) + "\n}\n")


def read_evidence(path: Path) -> Evidence:
    """
    Raises:
        UserError: for a file that holds no evidence.
    """
    try:
        return Evidence(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} holds no evidence of a run: {error}") from error


def read_all(directory: Path) -> list[Evidence]:
    """The evidence of every run of a matrix, from the files below a directory."""
    return [read_evidence(path) for path in sorted(directory.rglob("*.json"))]


def _columns(records: Iterable[dict]) -> dict[str, list]:
    records = list(records)
    keys = dict.fromkeys(key for record in records for key in record)
    return {key: [_public(record.get(key)) for record in records] for key in keys}


def _public(value):
    """The value with six digits and without places: of a path from the root, the name of its file."""
    if isinstance(value, dict):
        return {key: _public(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_public(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return Path(value).name if isinstance(value, str) and value.startswith("/") else value
