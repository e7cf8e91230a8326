"""What a matrix declares: runs, each a pre-training with a directory of its own and the fine-tunes that follow it."""

import itertools
import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from finetune import FLAGS

from hf_mi_ssl import JMIConfig, SDMIConfig
from hf_mi_ssl.errors import UserError, refuse_unknown, unknown
from hf_mi_ssl.methods import METHODS, get_method
from hf_mi_ssl.training import PretrainingArguments, latest_checkpoint, parse_arguments

CONFIGS = {"sdmi": SDMIConfig, "jmi": JMIConfig}
KEYS = {"name": str, "methods": list, "first": list, "datasets": dict, "seeds": (list, dict), "flags": dict,
        "overrides": dict, "finetune": dict, "choice": bool, "notes": str}  # fmt: skip
DECIDED = {"method", "seed", "output_dir", "resume_from_checkpoint"}  # by the place of a run in its matrix
# What a run and its declaration need not share: where it and its data lie, how it is watched and kept.
FREE = {"output_dir", "resume_from_checkpoint", "data_dir", "data_files", "report_to", "dataloader_num_workers",
        "checkpointing_steps", "checkpoints_total_limit", "stop_on_collapse", "show_images", "push_to_hub",
        "hub_model_id", "hub_private_repo", "hub_revision_epochs", "imported", "max_hours", "max_bad_steps",
        "process_timeout"}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A run as it is declared; its directory has what is done of it. `kind` is that of its J − M: bound or surrogate.
    `finetunes` are the settings of each fine-tune, those from an encoder at random with `random_encoder`."""

    name: str
    dataset: str
    method: str
    seed: int
    kind: str
    flags: dict
    args: PretrainingArguments
    directory: Path
    finetunes: list[dict] = field(default_factory=list)

    @property
    def trained(self) -> bool:
        return bool(read_json(self.directory / "results.json"))

    @property
    def finetunes_left(self) -> list[dict]:
        """The fine-tunes that `finetune.json` does not have, with these settings and the seed of the run."""
        rows = (read_json(self.directory / "finetune.json") or {}).get("evaluations", [])
        return [one for one in self.finetunes if not any(self.has(row, one) for row in rows)]

    def has(self, row: dict, settings: dict) -> bool:
        """Whether a row of `finetune.json` is that fine-tune of this run."""
        settings = settings.copy()
        start = "random" if settings.pop("random_encoder", False) else "trained"
        return (row.get("settings"), row.get("seed"), row.get("encoder")) == (settings, self.seed, start)

    def changes(self, recorded: dict) -> str:
        """What differs between the arguments that a run had and those that are declared. An argument that is younger
        than the run had its default's effect."""
        theirs = PretrainingArguments().to_dict() | recorded
        mine = json.loads(json.dumps(self.args.to_dict()))
        free = FREE | {"dataset_name"} if "parquet" in (theirs["dataset_name"], mine["dataset_name"]) else FREE
        keys = [key for key in theirs if key not in free and theirs[key] != mine.get(key)]
        return ", ".join(f"{key} {theirs[key]!r} → {mine.get(key)!r}" for key in keys)

    def state(self) -> str:
        if self.trained:
            changes = self.changes(read_json(self.directory / "training_args.json") or {})
            left = f", {len(self.finetunes_left)} fine-tunes to do" if self.finetunes_left else ""
            return f"done with other arguments ({changes})" if changes else f"done{left}"
        checkpoint = latest_checkpoint(self.directory / "checkpoints")
        return f"interrupted, goes on from {checkpoint.name}" if checkpoint else "to do"


def read_json(path: Path) -> dict | None:
    """The object in the file; None where there is none, or half of one."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def read_matrix(path: Path) -> dict:
    """The matrix with all of its keys: methods in their order, seeds by method, the settings of each fine-tune."""
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
            kinds = KEYS[key] if isinstance(KEYS[key], tuple) else (KEYS[key],)
            names = " or a ".join(kind.__name__ for kind in kinds)
            raise UserError(f"--matrix {path}: `{key}` must be a {names}, got {value!r}")
    empty = {key: kind[0]() if isinstance(kind, tuple) else kind() for key, kind in KEYS.items()}
    matrix = empty | {key: value for key, value in matrix.items() if value is not None}
    for name in [*matrix["first"], *matrix["methods"], *matrix["overrides"]]:
        get_method(name)
    methods = list(dict.fromkeys([*matrix["first"], *(matrix["methods"] or METHODS)]))
    return matrix | {"methods": methods, "finetune": declared_finetunes(matrix["finetune"])} | _groups(matrix, methods)


def _groups(matrix: dict, methods: list[str]) -> dict:
    """`groups` of methods with their seeds, in the order in which they run, and the `seeds` of each method."""
    seeds = matrix["seeds"] or [0]
    groups = [(methods, seeds)]
    if isinstance(seeds, dict):
        if seeds.keys() != {"first", "others"} or not all(isinstance(some, list) and some for some in seeds.values()):
            raise UserError(f"`seeds` of a matrix: a list, or {{first: [0, 1, 2], others: [0]}}; got {seeds!r}")
        others = [name for name in methods if name not in matrix["first"]]
        groups = [(matrix["first"], seeds["first"]), (others, seeds["others"])]
    return {"groups": groups, "seeds": {name: some for names, some in groups for name in names}}


def declared_finetunes(declared: dict) -> list[dict]:
    """The settings of one fine-tune for each of `label_fractions`, as recipes/finetune.py records them; then, with
    `random_encoder`, of the same ones from an encoder at random, which say so."""
    flags = FLAGS | {"freeze_encoder": (False, bool, "")}
    rest = {name: value for name, value in declared.items() if name not in ("label_fractions", "random_encoder")}
    known = {"label_fractions", "random_encoder", *flags} - {"label_fraction"}
    if not isinstance(at_random := declared.get("random_encoder", False), bool):
        raise UserError(f"`finetune` of a matrix: random_encoder must be true or false, got {at_random!r}")
    refuse_unknown("flag of a matrix's `finetune`", rest, known)
    found = []
    for fraction in declared.get("label_fractions") or ([1.0] if declared else []):
        settings = {}
        for name, (default, kind, _) in flags.items():
            value = fraction if name == "label_fraction" else rest.get(name, default)
            try:
                if isinstance(default, list):
                    settings[name] = [kind(one) for one in (value if isinstance(value, list) else [value])]
                else:
                    settings[name] = kind(value)
            except (TypeError, ValueError) as error:
                raise UserError(f"`finetune` of a matrix: {name} must be a {kind.__name__}, got {value!r}") from error
        if not 0 < settings["label_fraction"] <= 1:
            raise UserError(f"`finetune` of a matrix: label_fractions lie in (0, 1], got {fraction!r}")
        found.append(settings)
    return [*found, *({**settings, "random_encoder": True} for settings in found if at_random)]


def declared_runs(
    matrix: dict, output_dir: Path, data_files: list[str] | None = None, datasets: list[str] | None = None
) -> list[Run]:
    """The runs of the matrix, seed by seed and the `first` methods first; where these have seeds of their own, all of
    theirs come first. They are checked as the recipes will check them. `data_files` are parquet files to
    read the one data set of `datasets`, or of the matrix, from, in place of where the matrix has it from. Fine-tunes
    of an encoder at random follow the first run of each data set alone: one baseline for all of its rows."""
    theirs = datasets or matrix["datasets"]
    if data_files and len(theirs) > 1:
        raise UserError("--data_files are those of one data set: name it with --datasets")
    place = {name: {"dataset_name": "parquet", "data_files": data_files} for name in theirs} if data_files else {}
    runs = []
    order = (cell for names, seeds in matrix["groups"] for cell in itertools.product(seeds, matrix["datasets"], names))
    for seed, dataset, method in order:
        flags, columns = {}, {}
        layers = [matrix["flags"], matrix["datasets"][dataset], place.get(dataset), matrix["overrides"].get(method)]
        for layer in layers:
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
        begun = any(run.dataset == dataset for run in runs)
        finetunes = [one for one in matrix["finetune"] if not (begun and one.get("random_encoder"))]
        runs.append(Run(name, dataset, method, seed, kind, flags, args, directory, finetunes))
    return runs
