"""The model card, rendered from the files of a run and from nothing else: what was not measured is not mentioned.

Names in those files come from users and datasets. Every string is escaped on its way in, so the template may print
what it is given.
"""

import json
import math
import re
import unicodedata
from pathlib import Path

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from ..configuration import SDMIConfig
from ..errors import UserError

_OF = {"pixels": "pixels", "random": "random encoder", "trained": "trained encoder"}
# What the two sides of a pair are, by the first part of an evaluation's name.
_SPACES = {"mi": "embeddings z", "mi_h": "representations h", "mi_target": "embeddings z, online and target"}
# Estimators whose value is a lower bound on MI unless the evaluation's own `kind` says otherwise.
_BOUNDS = {"cos_dv", "cos_dv_calibrated", "info_nce", "jsd"}
# The columns of a row, those of JMI among them; encoder and terms have places of their own on the card.
_ROW = [column for column in SDMIConfig.columns() if column not in ("encoder_config", "joint", "marginal")]
# Where files lay on the machine of the run is no fact about the model.
_PLACES = {"output_dir", "data_dir", "data_files", "config", "resume_from_checkpoint", "imported"}


def render_card(
    run_dir: str | Path,
    template_path: str | Path,
    *,
    formulas: dict[str, str] | None = None,
    kind: str | None = None,
    arxiv: str | None = None,
    relations: str | None = None,
) -> str:
    """The text of README.md for the run in `run_dir`.

    Args:
        run_dir: holds `results.json`, `training_args.json`, `config.json`, `pretraining/config.json` and
            `figures/*.png`, each of them optional.
        template_path: a Jinja template, `model_cards/pretraining_card.md` of the repository.
        formulas: the formula line of the critic and of each term, by name.
        kind: whether the method's J − M is a `bound` on mutual information or a `surrogate`.
        arxiv: the id of the paper that the method comes from.
        relations: what the method's row in the table equals, or how it relates to others.

    Raises:
        UserError: for a file that is not a JSON object.
    """
    run_dir = Path(run_dir)
    results = _read(run_dir / "results.json")
    arguments = _read(run_dir / "training_args.json")
    row = _read(run_dir / "pretraining" / "config.json")
    model_type = _read(run_dir / "config.json").get("model_type")
    evaluations = [e for e in results.get("evaluations") or [] if isinstance(e, dict) and _number(e.get("value"))]
    evaluations = [e for e in evaluations if isinstance(e.get("name"), str)]
    shared = [e for e in evaluations if e["name"].partition("/")[0] in _SPACES]
    model_id = str(arguments.get("hub_model_id"))
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", model_id, re.ASCII):
        model_id = "."
    facts = {
        **{key: _text(results.get(key)) for key in ("method", "encoder", "dataset", "steps", "images_seen", "seed")},
        "kind": kind,
        "relations": _text(relations, limit=400),
        "row": [(name, _text(row[name])) for name in _ROW if row.get(name) is not None],
        "terms": list(_terms(row, formulas or {})),
        "measurements": [_measurement(e) for e in sorted(evaluations, key=_place) if e not in shared],
        "information": [_information(e) for e in sorted(shared, key=_place)],
        "arguments": [
            (_text(name), _text(value))
            for name, value in sorted(arguments.items())
            if value not in (None, [], {}, "") and name not in _PLACES
        ],
        "surroundings": _flat(results, "hardware") + _flat(results, "timing") + _flat(results, "versions"),
        "figures": sorted(
            path.name for path in run_dir.glob("figures/*.png") if re.fullmatch(r"[\w-]+\.png", path.name)
        ),
        "model_id": model_id,
        "remote_code": model_type == "mi_resnet",
        "needs_timm": model_type == "timm_wrapper",
        "arxiv": arxiv if arxiv != "2510.01345" and re.fullmatch(r"\d{4}\.\d{4,5}", arxiv or "", re.ASCII) else None,
    }
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    template = environment.from_string(Path(template_path).read_text(encoding="utf-8"))
    return template.render(card_data=_card_data(results, evaluations, model_id).to_yaml(), **facts)


def _read(path: Path) -> dict:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}", exit_code=1) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object", exit_code=1)
    return content


def _plain(value: object, limit: int = 96) -> str:
    """One line without control, bidirectional or other invisible characters, at most `limit` characters long."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = "".join(" " if c in "\t\r\n" else c for c in text)
    text = "".join(
        c for c in text if unicodedata.category(c)[0] != "C" and unicodedata.category(c) not in ("Zl", "Zp")
    )
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _text(value: object, limit: int = 96) -> str:
    """`_plain` as Markdown that shows just these characters, in a paragraph and in a table; empty for None."""
    if value is None:
        return ""
    text = _plain(value, limit).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_\[\]|~#$:@!])", r"\\\1", text)
    return text.replace("www.", r"www\.")  # GitHub turns it into a link


def _number(value: object) -> str:
    """Four digits, or empty for what is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _interval(evaluation: dict) -> str:
    low, high = _number(evaluation.get("low")), _number(evaluation.get("high"))
    return f"{low} to {high}" if low and high else ""


def _place(evaluation: dict) -> tuple[str, int]:
    return evaluation["name"], [*_OF, evaluation.get("encoder")].index(evaluation.get("encoder"))


def _measurement(evaluation: dict) -> dict[str, str]:
    of = evaluation.get("encoder")
    branch = f", {_text(evaluation['branch'])} branch" if of == "trained" and evaluation.get("branch") else ""
    return {
        "name": _text(evaluation["name"]),
        "of": _OF.get(of if isinstance(of, str) else "", _text(of)) + branch,
        "value": _number(evaluation["value"]),
        "interval": _interval(evaluation),
        "n": _number(evaluation.get("n")),
        "split": _text(evaluation.get("split")),
        "protocol": _text(evaluation.get("protocol"), limit=200),
    }


def _information(evaluation: dict) -> dict[str, str]:
    space, _, estimator = evaluation["name"].partition("/")
    kind = evaluation.get("kind", "bound" if estimator in _BOUNDS else "surrogate")
    return _measurement(evaluation | {"name": estimator, "branch": None}) | {
        "space": _SPACES[space],
        "ceiling": _number(evaluation.get("ceiling")),
        "kind": "lower bound on MI" if kind == "bound" else "surrogate, not MI",
    }


def _terms(row: dict, formulas: dict[str, str]):
    """(role, name, weight, formula) of the critic and of each term of the row."""
    if isinstance(row.get("critic"), str):
        yield "critic", _text(row["critic"]), "", _text(formulas.get(row["critic"]), limit=300)
    for role in ("joint", "marginal"):
        for name, weight in (row.get(role) or {}).items():
            yield role, _text(name), _number(weight), _text(formulas.get(name), limit=300)


def _flat(results: dict, key: str) -> list[tuple[str, str]]:
    value = results.get(key)
    if isinstance(value, dict):
        return [(_text(name), _number(fact) or _text(fact)) for name, fact in value.items() if fact is not None]
    return [] if value in (None, "", []) else [(key, _number(value) or _text(value))]


def _card_data(results: dict, evaluations: list[dict], model_id: str) -> ModelCardData:
    """The front matter. Its strings are plain, not escaped: YAML quotes them."""
    dataset, method, encoder = (_plain(results.get(key) or "") for key in ("dataset", "method", "encoder"))
    tasks = {"knn_top1": "kNN on frozen representations", "linear_top1": "Linear probe on frozen representations"}
    scores = [
        EvalResult(
            task_type="image-classification",
            task_name=tasks[e["name"]],
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split=_plain(e["split"]) if e.get("split") else None,
            metric_type="accuracy",
            metric_name=e["name"],
            metric_value=e["value"],
        )
        for e in evaluations
        if e["name"] in tasks and e.get("encoder") == "trained" and e.get("branch") in (None, "online") and dataset
    ]
    name = model_id if model_id != "." else "-".join(part for part in (method, encoder) if part)
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="image-feature-extraction",
        tags=["hf_mi_ssl", "self-supervised", "mutual-information", *([method] if method else [])],
        datasets=[dataset] if re.fullmatch(r"[\w.-]+/[\w.-]+", dataset, re.ASCII) else None,
        model_name=(name or "hf_mi_ssl encoder") if scores else None,
        eval_results=scores or None,
    )
