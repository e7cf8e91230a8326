"""The page of a matrix, rendered of the evidence of its runs and of nothing else."""

import json
from pathlib import Path

import jinja2

from hf_mi_ssl.methods import METHODS
from hf_mi_ssl.training import PretrainingArguments

from .comparison import by_method, correlation_table, cost_table, spread
from .evidence import Evidence
from .figures import comparison_figure
from .matrix import DECIDED, FREE, Run
from .published import published_table
from .tracked import growth_table, mi_figure, rows_figure

TEMPLATE = Path(__file__).resolve().parent.parent.parent / "model_cards" / "results" / "template.md"


def write_page(matrix: dict, runs: list[Run], done: list[Evidence], path: Path, page: Path) -> None:
    """The page and, beside it in a folder of the matrix's name, its figures; a choice of settings has none."""
    figures = {}
    for dataset in matrix["datasets"]:
        here = [run for run in done if run.dataset == dataset]
        place = page.with_name(matrix["name"]) / f"{dataset}.png"
        if len(by_method(here)) > 1 and not matrix["choice"]:
            place.parent.mkdir(exist_ok=True)
            comparison_figure(here, place)
            figures[dataset] = f"{matrix['name']}/{dataset}.png"
            if mi_figure(here, place.with_name(f"{dataset}_mi.png")):
                rows_figure(here, place.with_name(f"{dataset}_tracked.png"))
                figures[f"{dataset}_mi"] = f"{matrix['name']}/{dataset}_mi.png"
                figures[f"{dataset}_tracked"] = f"{matrix['name']}/{dataset}_tracked.png"
    page.write_text(render(matrix, runs, done, path, figures))


def render(matrix: dict, runs: list[Run], done: list[Evidence], path: Path, figures: dict[str, str]) -> str:
    facts: dict[str, dict[str, list[str]]] = {}  # for each fact, the names of the runs by what it is for them
    defaults = {key: value for key, value in PretrainingArguments().to_dict().items() if key not in FREE}
    for run in done:
        rows = [*run.results["evaluations"], *(row for row in run.finetunes if row["encoder"] == "trained")]
        protocols = {e["name"]: f"{e['protocol']}; n = {e['n']:,} of {e['split']}" for e in rows}
        for key, value in (defaults | run.arguments | run.results | protocols).items():
            text = json.dumps(value, ensure_ascii=False).replace('"', "")
            facts.setdefault(key, {}).setdefault(text, []).append(run.name)
    finetunes = {row["label_fraction"]: row["name"] for run in done for row in run.finetunes}
    left = {run.name: run.state() for run in runs if run.name not in {one.name for one in done}}
    finetuned = {one.name: len(one.finetunes) for one in done}
    for run in runs:
        if missing := len(run.finetunes) - finetuned.get(run.name, len(run.finetunes)):
            left[run.name] = f"{missing} of {len(run.finetunes)} fine-tunes"
    names = {
        "matrix": matrix, "path": path, "done": done, "left": left, "facts": facts, "figures": figures,
        "arguments": [key for key in defaults if key not in DECIDED], "finetunes": dict(sorted(finetunes.items())),
        "methods": METHODS, "cell": _cell, "cost_table": cost_table, "correlation_table": correlation_table,
        "growth_table": growth_table, "published_table": published_table, "commands": _commands(matrix, done, path),
        "rows": lambda here: len(by_method(here)),
    }  # fmt: skip
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    return environment.from_string(TEMPLATE.read_text()).render(names)


def _commands(matrix: dict, done: list[Evidence], path: Path) -> list[str]:
    """The command; where files were given for a data set, the command with their names."""
    command = f"python recipes/reproduce.py --matrix {path.name if path.is_absolute() else path}"
    found = []
    for dataset, flags in matrix["datasets"].items():
        given = [run.arguments.get("data_files") for run in done if run.dataset == dataset][:1]
        if given and given[0] and not (flags or {}).get("data_files"):
            named = ((split, one.split("/")[-1] if isinstance(one, str) else "…") for split, one in given[0].items())
            names = [f"{split}={file}" for split, file in named]
            chosen = f" --datasets {dataset}" if len(matrix["datasets"]) > 1 else ""
            found.append(f"{command}{chosen} --data_files {' '.join(names)}")
        elif given or len(matrix["datasets"]) == 1:
            found.append(command)
    return list(dict.fromkeys(found))


def _cell(runs: list[Evidence], name: str, digits: int = 1, scale: float = 1, encoder: str = "trained") -> str:
    """A value with its interval; of several seeds, the mean and the standard deviation."""
    rows = {(run.seed, e["value"]): e for run in runs if (e := run.measured(name, encoder)).get("value") is not None}
    values = [scale * value for _, value in rows]
    text = spread(values, digits)
    first, ceilings = next(iter(rows.values()), {}), [row["ceiling"] for row in rows.values() if "ceiling" in row]
    if len(values) == 1 and first.get("low") is not None:
        text += f" ({scale * first['low']:.{digits}f} to {scale * first['high']:.{digits}f})"
    return f"{text}; ceiling {sum(ceilings) / len(ceilings):.{digits}f}" if ceilings else text
