"""A run as the page shows it: curves, alarms and results, from its files. Names stay as they are; the page escapes."""

import json
from collections.abc import Iterable
from pathlib import Path

from ..errors import MALFORMED, UserError
from ..estimators import TRACKED
from ..training import read_records

_POINTS = 400  # of a curve: more than its pixels
_SPACES = {"embeddings z": "eval/mi/", "representations h": "eval/mi_h/", "z, online and target": "eval/mi_target/"}
_KINDS = {"bound": "a lower bound on MI, in nats, of the batch", "surrogate": "a surrogate: not MI"}
_MI_NOTE = "lower bounds; dashed: what each can show at most; bands: 95 %"


def read_run(run_dir: Path) -> dict:
    """What `page.html` draws of a run, finished or in progress. Raises UserError for files that no run has written."""
    try:
        return _read_run(run_dir)
    except MALFORMED as error:
        reason = f"{type(error).__name__}: {str(error)[:100]}"
        raise UserError(f"the files of {run_dir} are not those of a run ({reason})") from error


def _read_run(run_dir: Path) -> dict:
    records = read_records(run_dir / "metrics.jsonl")
    arguments, results = (_json(run_dir / name) for name in ("training_args.json", "results.json"))
    row = results.get("row", {})
    done = records[-1]["step"] if records else 0
    steps = f"step {done:,} of {results['steps']:,}" if results else f"step {done:,}, in progress"
    alarms = [(r["step"], text) for r in records for text in r.get("alarm", {}).values()]
    return {
        "title": f"{arguments.get('method', 'a run')} on {Path(arguments.get('dataset_name', run_dir.name)).name}",
        "status": f"{arguments.get('encoder', '')} · {steps} · {run_dir.name}",
        "finished": bool(results),
        "alarms": [{"step": step, "text": text} for step, text in alarms],
        "panels": _panels(records, _KINDS.get(row.get("kind"), "")),
        "results": _table(results.get("evaluations", [])),
    }


def _panels(records: list[dict], kind: str) -> list[dict]:
    steps = [record for record in records if "loss" in record]
    steps = steps[:: -(-len(steps) // _POINTS) or 1]
    evaluations = [record for record in records if "loss" not in record]
    terms = sorted({key for record in steps for key in record if key.startswith(("joint/", "marginal/"))})
    found = [
        _panel("Objective J − M", steps, {"value": "J − M"}, kind),
        _panel("Its terms", steps, {key: key for key in terms}, "weighted"),
    ]
    for space, prefix in _SPACES.items():
        names = {f"{prefix}{name}": name for name in TRACKED}
        found.append(_panel(f"MI of {space}, nats", evaluations, names, _MI_NOTE))
    ranks = {"eval/rank/rankme": "RankMe", "eval/rank/effective_rank": "effective rank"}
    found.append(_panel("Rank of z", evaluations, ranks, "directions that embeddings use", zero=True))
    accuracies = {"eval/knn_top1": "kNN", "eval/linear_top1": "linear probe"}
    found.append(_panel("Top-1 accuracy, %", evaluations, accuracies, "tracked on a part of the images", 100, True))
    return [panel for panel in found if panel["series"]]


def _panel(
    title: str, records: Iterable[dict], names: dict[str, str], note: str, scale: float = 1, zero: bool = False
) -> dict:
    series = []
    for key, name in names.items():
        seen = [record for record in records if record.get(key) is not None]
        if not seen:
            continue
        curve = {"name": name, "x": [r["step"] for r in seen], "y": [scale * r[key] for r in seen]}
        if all(f"{key}/low" in r for r in seen):
            curve |= {end: [r[f"{key}/{end}"] for r in seen] for end in ("low", "high")}
            curve["ceiling"] = seen[-1][f"{key}/ceiling"]
        series.append(curve)
    return {"title": title, "series": series, "note": note, "zero": zero}


def _table(evaluations: list[dict]) -> dict[str, list]:
    """A line for each measurement, a column for each encoder: value and 95 % interval, ceiling, n and split."""
    found: dict[str, dict[str, dict]] = {}
    for row in evaluations:
        encoder = f"{row['encoder']}, target" if row.get("branch") == "target" else row["encoder"]
        found.setdefault(row["name"], {})[encoder] = row
    encoders = list(dict.fromkeys(encoder for rows in found.values() for encoder in rows))
    lines = []
    for name, rows in found.items():
        last = list(rows.values())[-1]
        ceiling = "" if last.get("ceiling") is None else f"{last['ceiling']:.2f}"
        values = [_value(rows[encoder]) if encoder in rows else "" for encoder in encoders]
        lines.append([name, *values, ceiling, f"{last['n']:,}", last["split"]])
    return {"head": ["measured", *encoders, "ceiling", "n", "of"], "rows": lines}


def _value(row: dict) -> str:
    scale, unit = (100, " %") if row["name"].endswith("_top1") else (1, "")
    interval = [f"{scale * row[end]:.3g}" for end in ("low", "high") if row.get(end) is not None]
    return f"{scale * row['value']:.3g}{unit}" + (f" ({' to '.join(interval)})" if interval else "")


def _json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):  # not there yet
        return {}
