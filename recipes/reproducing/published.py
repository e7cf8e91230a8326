"""What others published of the same rows, data and encoder, beside what ours reached."""

import math
from collections.abc import Sequence
from pathlib import Path

import yaml

from .comparison import by_method, markdown, spread
from .evidence import Evidence

PUBLISHED = Path(__file__).with_name("published.yaml")
MEASURES = {"knn_top1": "kNN", "linear_top1": "linear probe"}


def published_table(place: dict | None, done: Sequence[Evidence]) -> str:
    """Each row beside every source that has it with the data set of `place`, the flags of a data set in a matrix, and
    with the encoder of the runs; of a source that has several lengths of training, the one nearest in ratio. Empty
    where no source has any."""
    name = (place or {}).get("dataset_name")
    lines = [["method", "measure", "ours, %", "epochs", "published, %", "epochs", "by", "their protocol"]]
    lines.append(["---"] * len(lines[0]))
    sources = [one for one in yaml.safe_load(PUBLISHED.read_text()) if one["dataset"] == name]
    for method, runs in by_method(done).items():
        for source in sources:
            lengths = [length for length, rows in source["values"].items() if method in rows]
            measured = [run.measured(source["measure"]).get("value") for run in runs]
            values = [100 * value for value in measured if value is not None]
            if not lengths or not values or source["encoder"] != runs[0].arguments.get("encoder"):
                continue
            ours = (runs[0].curve("epoch")[1] or [runs[0].arguments["num_train_epochs"]])[-1]
            theirs = min(lengths, key=lambda length: abs(math.log(length / ours)))
            cells = [f"`{method}`", MEASURES[source["measure"]], spread(values), f"{ours:g}"]
            cells += [source["values"][theirs][method], theirs, f"[{source['source']}]({source['url']})"]
            lines.append([*cells, source["protocol"]])
    return markdown(lines) if len(lines) > 2 else ""
