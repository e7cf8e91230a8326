"""The model card, rendered from the files of a run and from nothing else: what was not measured is not mentioned.

Names in those files come from users and data sets. Every string is escaped on its way in, so the template may print
what it is given.
"""

import re
from pathlib import Path

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from ..configuration import SDMIConfig
from . import evidence
from .text import escaped, hub_id, number, plain, public

# The columns of a row, those of JMI among them; encoder and terms have places of their own on the card.
_ROW = [column for column in SDMIConfig.columns() if column not in ("encoder_config", "joint", "marginal")]
PLACES = {"output_dir", "data_dir", "data_files", "config", "resume_from_checkpoint", "imported"}
_FIGURES = {
    "training.png": "The objective and its terms against the training step.",
    "mi.png": "Mutual information of held-out views against the training step, with 95 % intervals and ceilings.",
    "quality.png": "Accuracy, rank and collapse against the training step.",
    "spectrum.png": "How much of the variance each direction holds, before and after training.",
    "neighbours.png": "Held-out images (left) and their nearest neighbours among the held-out images, by the cosine "
    "of representations h.",
    "embedding_map.png": "Representations h of held-out images in their two leading principal directions.",
}


def render_card(run_dir: str | Path, template_path: str | Path, *, model_id: str | None = None) -> str:
    """The text of README.md for the run in `run_dir`.

    Args:
        run_dir: holds what the pre-training recipes write, each file of it optional: `results.json`,
            `training_args.json`, `config.json`, `pretraining/config.json`, `figures/*.png`; and `knn.json`,
            `linear_probe.json`, `finetune.json` of the downstream recipes.
        template_path: a Jinja template, `model_cards/pretraining_card.md` of the repository. `citations.bib` beside it
            holds what is cited, by `eprint`.
        model_id: where the model is loaded from; default: `hub_model_id` of the arguments, else the directory.

    Raises:
        UserError: for a file that is not a JSON object.
    """
    run_dir, template_path = Path(run_dir), Path(template_path)
    results = evidence.read_object(run_dir / "results.json")
    arguments = evidence.read_object(run_dir / "training_args.json")
    columns = evidence.read_object(run_dir / "pretraining" / "config.json")
    model_type = evidence.read_object(run_dir / "config.json").get("model_type")
    row = results.get("row") if isinstance(results.get("row"), dict) else {}
    rows = evidence.measured(run_dir)
    model_id = hub_id(model_id or arguments.get("hub_model_id")) or "."
    table, protocols = evidence.accuracies(rows)
    facts = {
        "method": escaped(results.get("method")),
        **{key: number(results.get(key)) for key in ("steps", "images_seen", "seed")},
        "encoder": escaped(public(results.get("encoder"))),
        "started": (escaped(public(arguments["init_from"])) or "another encoder")
        if arguments.get("init_from")
        else "",
        "dataset": evidence.corpus(results.get("dataset")),
        "licence": escaped(results.get("dataset_license")),
        "kind": row.get("kind"),
        "relations": escaped(row.get("relations"), limit=400),
        "row": [(name, escaped(columns[name])) for name in _ROW if columns.get(name) is not None],
        "terms": list(_terms(columns, row.get("formulas"))),
        "measurements": table,
        "protocols": protocols,
        "information": evidence.information(rows),
        "geometry": evidence.geometry(rows),
        "growth": evidence.growth(results),
        "alarms": evidence.alarms(results),
        "arguments": [
            (escaped(name), escaped(value))
            for name, value in sorted(arguments.items())
            if public(value) not in (None, [], {}, "") and name not in PLACES
        ],
        "surroundings": [fact for key in ("hardware", "timing", "versions") for fact in _flat(results, key)],
        "figures": _figures(run_dir),
        "model_id": model_id,
        "whole": bool(columns),
        "trust": ", trust_remote_code=True" if model_type == "mi_resnet" else "",
        "needs_timm": model_type == "timm_wrapper",
        **_citations(template_path.with_name("citations.bib"), row.get("arxiv")),
    }
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    template = environment.from_string(template_path.read_text(encoding="utf-8"))
    return template.render(card_data=_card_data(results, rows, model_id).to_yaml(), **facts)


def write_card(run_dir: str | Path, template_path: str | Path) -> bool:
    """Render the card of a run into its README.md, whole or not at all. False, and nothing is written, where the
    directory holds no `results.json`: it is the encoder of somebody else.

    Raises:
        UserError: as `render_card` does, or if the directory cannot be written to.
    """
    if not (Path(run_dir) / "results.json").is_file():
        return False
    evidence.replace_text(Path(run_dir) / "README.md", render_card(run_dir, template_path))
    return True


def update_card(run_dir: str | Path, file: str | Path, template_path: str | Path) -> None:
    """Take what a downstream recipe wrote into a run and onto its card. Nothing where the encoder is somebody else's.

    Raises:
        UserError: as `add_evidence` and `write_card` do.
    """
    if (Path(run_dir) / "results.json").is_file():
        evidence.add_evidence(run_dir, file)
        write_card(run_dir, template_path)


def _terms(columns: dict, formulas: object):
    """(role, name, weight, formula) of the critic and of each term of the row."""
    formulas = formulas if isinstance(formulas, dict) else {}
    if isinstance(columns.get("critic"), str):
        yield "critic", escaped(columns["critic"]), "", escaped(formulas.get(columns["critic"]), limit=300)
    for role in ("joint", "marginal"):
        terms = columns.get(role)
        for name, weight in terms.items() if isinstance(terms, dict) else ():
            yield role, escaped(name), number(weight), escaped(formulas.get(name), limit=300)


def _flat(results: dict, key: str) -> list[tuple[str, str]]:
    value = results.get(key)
    if isinstance(value, dict):
        return [(escaped(name), number(fact) or escaped(fact)) for name, fact in value.items() if fact is not None]
    return [] if value in (None, "", []) else [(key, number(value) or escaped(value))]


def _figures(run_dir: Path) -> list[tuple[str, str]]:
    """(file, caption) of each figure, the known ones first."""
    names = {path.name for path in run_dir.glob("figures/*.png") if re.fullmatch(r"[\w-]+\.png", path.name, re.ASCII)}
    known = [name for name in _FIGURES if name in names]
    return [(name, _FIGURES.get(name, "")) for name in [*known, *sorted(names.difference(known))]]


def _citations(path: Path, arxiv: object) -> dict:
    """The entry of this package's paper, that of the method's, and the id of the latter where it is another."""
    entries = path.read_text(encoding="utf-8").split("\n\n") if path.is_file() else []
    other = isinstance(arxiv, str) and arxiv != "2510.01345" and re.fullmatch(r"\d{4}\.\d{4,5}", arxiv, re.ASCII)
    cited = ["2510.01345", *([arxiv] if other else [])]
    found = [entry.strip() for id in cited for entry in entries if f"eprint = {{{id}}}" in entry]
    return {"arxiv": arxiv if other else None, "citations": found}


def _fact(value: object) -> object:
    return plain(value, 300) if isinstance(value, str) else value if number(value) else None


def _card_data(results: dict, rows: list[dict], model_id: str) -> ModelCardData:
    """The front matter. Its strings are plain, not escaped: YAML quotes them."""
    method, encoder = (plain(public(results.get(key)) or "") for key in ("method", "encoder"))
    scores = [
        EvalResult(
            task_type="image-classification",
            task_name="Image classification",
            dataset_type=plain(row["dataset"]),
            dataset_name=plain(row["dataset"]),
            dataset_split=plain(row["split"]) if row.get("split") else None,
            metric_type="accuracy",
            metric_name=evidence.task(row),
            metric_value=row["value"],
            metric_args={key: fact for key in ("protocol", "seed") if (fact := _fact(row.get(key))) not in (None, "")}
            or None,
        )
        for row in rows
        if evidence.task(row) and row.get("encoder") == "trained" and row.get("branch") in (None, "online")
        if isinstance(row.get("dataset"), str) and plain(public(row["dataset"]) or "")
    ]
    dataset, base = (hub_id(public(results.get(key))) for key in ("dataset", "encoder"))
    name = model_id if model_id != "." else "-".join(part for part in (method, encoder) if part)
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="image-feature-extraction",
        tags=["hf_mi_ssl", "self-supervised", "mutual-information", *([method] if method else [])],
        datasets=[dataset] if dataset else None,
        base_model=base if base and not base.startswith("timm/") else None,
        model_name=(name or "hf_mi_ssl encoder") if scores else None,
        eval_results=scores or None,
    )
