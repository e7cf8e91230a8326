"""The arguments of the pre-training recipes: everything but the table."""

import math
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path

import yaml

from ..errors import MALFORMED, UserError
from ..views.recipes import VIEW_RECIPES


def _flag(help: str, default=None, **more):
    return field(default=default, metadata={"help": help} | more)


def _pairs(help: str):
    metadata = {"help": help, "nargs": "+", "action": "extend", "metavar": "KEY=VALUE"}
    return field(default_factory=list, metadata=metadata)


_MOST = {"num_train_epochs": 10**6, "warmup_epochs": 10**6, "freeze_prototypes_epochs": 10**6,
         "max_train_steps": 10**12, "gradient_accumulation_steps": 10**4, "local_views": 100,
         "process_timeout": 60 * 24 * 365, "dataloader_timeout": 60 * 60 * 24 * 365,
         "image_size": 4096, "local_view_size": 4096, "dataloader_num_workers": 1024}  # fmt: skip


@dataclass
class PretrainingArguments:
    """What a run is made of, apart from the row. Saved as `training_args.json`, never inside the model."""

    # the method
    method: str = _flag("a row of the table (`hf-mi-ssl methods` lists them)", "")
    set: list[str] = _pairs("columns of the row to override, e.g. temperature=0.1 projection_size=256")
    # the encoder
    encoder: str = _flag("an encoder by name, or timm/<name>, initialised at random", "resnet_tiny")
    init_from: str | None = _flag("continue from this encoder instead: a Hub id or a local directory")
    # the views
    image_size: int = _flag("side of the views in pixels", 64)
    views: str = _flag("published recipe that the two views are drawn from", "moco", choices=[*VIEW_RECIPES])
    local_views: int = _flag("small views of each image beside the two", 0)
    local_view_size: int | None = _flag("side of local views in pixels; default: about 3/7 of --image_size")
    views_batch_size: int | None = _flag("images whose views are made at once, to save memory; default: the batch")
    # the data
    dataset_name: str = _flag(
        "Hub id, local directory, imagefolder, parquet, webdataset, or shapes (embedded)", "shapes"
    )
    data_files: list[str] = _pairs("files of a split, e.g. train=a.parquet test=b.parquet, or train='[a, b]'")
    data_dir: str | None = _flag("directory of an imagefolder, parquet or webdataset")
    train_split: str = _flag("split to train on; its labels are never used for that", "train")
    eval_split: str | None = _flag("split to evaluate on; default: validation or test, else a part of train")
    image_column_name: str | None = _flag("column of the images; default: the only image column")
    label_column_name: str | None = _flag("column of the labels, for evaluation only; default: the only label column")
    streaming: bool = _flag("read shards as they come, never the whole; where the number of images is unknown, "
                            "give --max_train_steps", False)  # fmt: skip
    shuffle_buffer_size: int = _flag("images of a process that are shuffled together in streaming", 4096)
    data_placement: str = _flag(
        "where pixels are: on the device, in memory (a file, decoded once), or streamed (decoded for each batch); "
        "auto: the first that fits", "auto", choices=["auto", "device", "memory", "stream"],
    )  # fmt: skip
    data_cache_dir: str | None = _flag("directory of those files; default: in the cache of `datasets`")
    dataloader_num_workers: int = _flag("processes that decode images", 2)
    dataloader_timeout: float = _flag("seconds that they may take for a batch", 120.0)
    on_bad_image: str = _flag("an image that cannot be read: skip (another stands in) or error", "skip",
                              choices=["skip", "error"])  # fmt: skip
    max_bad_fraction: float = _flag("of the images of a split that may be bad; above it the run ends", 0.01)
    # the optimisation
    per_device_train_batch_size: int = _flag("images per process and step; N is this times the processes", 64)
    contrast_batch_size: int | None = _flag("images that one loss compares; more than fit: in parts, cached gradients")
    gradient_accumulation_steps: int = _flag("batches per optimiser step; negatives stay one batch's", 1)
    num_train_epochs: float = _flag("passes over the training images", 20.0)
    max_train_steps: int | None = _flag("optimiser steps, in place of --num_train_epochs")
    learning_rate: float = _flag("peak learning rate, as used (not scaled by the batch size)", 5e-3)
    optimizer: str = _flag("any optimiser of timm: adamw, sgd (with Nesterov), momentum (without), …", "adamw")
    weight_decay: float = _flag("weight decay of matrices and filters; norms and biases have none", 1e-4)
    weight_decay_end: float | None = _flag("weight decay at the end of a cosine; default: it is constant")
    momentum: float = _flag("momentum of SGD-like optimisers", 0.9)
    warmup_epochs: float = _flag("epochs of linear warm-up before the cosine", 1.0)
    max_grad_norm: float | None = _flag("clip the norm of the gradient to this; default: no clipping")
    freeze_prototypes_epochs: float = _flag("epochs at the start in which prototypes do not learn", 0.0)
    mixed_precision: str | None = _flag(
        "no, bf16 or fp16; default: accelerate's, and bf16 where that is none and the GPU has it",
        choices=["no", "bf16", "fp16"],
    )
    gradient_checkpointing: bool = _flag("compute activations again instead of keeping them, to save memory", False)
    compile: bool = _flag("compile the model", False)
    seed: int = _flag("of initialisation, order and views: one seed, one run", 0)
    # the output
    output_dir: str = _flag("where everything is written", "runs/pretraining")
    checkpointing_steps: int | None = _flag("steps between checkpoints; default: each epoch")
    checkpoints_total_limit: int = _flag("checkpoints to keep", 2)
    resume_from_checkpoint: str | None = _flag("`latest`, or a checkpoint directory")
    report_to: str = _flag("tensorboard, wandb, trackio, … or none", "none")
    eval_steps: int | None = _flag("steps between evaluations (kNN, linear probe, ranks, MI); default: each epoch")
    mi_steps: int | None = _flag(
        "steps between measurements of MI; default: with each evaluation, but where neither this nor --eval_steps is "
        "given and epochs are short, after so many of them that it costs below 5 %% of training; 0: never"
    )
    show_images: bool | None = _flag("draw held-out images for the card; default: where they are public already")
    stop_on_collapse: bool = _flag("end a run whose alarm says collapse or divergence, with exit code 3", False)
    max_hours: float | None = _flag("after so many hours: finish the step, save and end with exit code 75")
    max_bad_steps: int = _flag("steps without a finite gradient, all skipped, in a row that end a run", 3)
    process_timeout: float = _flag("minutes in which all processes have to reach the same point", 30.0)
    push_to_hub: bool = _flag("push encoder, whole model, card and evidence to the Hub at the end", False)
    hub_model_id: str | None = _flag("repository to push to, OWNER/NAME; made if it is not there")
    hub_private_repo: bool = _flag("make it private", False)
    hub_revision_epochs: int | None = _flag("also push the encoder every so many epochs, as revision epoch-010 …")

    imported: list[str] = field(init=False, default_factory=list)  # --import, which is no name for a field

    def __post_init__(self):
        for name, value in vars(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"--{name} must be a finite number, got {value}")
            if any("\0" in one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)):
                raise UserError(f"--{name} holds a zero byte, which no name has: {str(value)[:80]!r}")
            if isinstance(value, str):  # what a shell leaves alone within quotes, and never sees of a file
                setattr(self, name, os.path.expanduser(value))
        for name in ("image_size", "per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs",
                     "max_train_steps", "max_grad_norm", "contrast_batch_size", "checkpointing_steps",
                     "checkpoints_total_limit", "eval_steps", "hub_revision_epochs", "views_batch_size", "max_hours",
                     "max_bad_steps", "process_timeout", "dataloader_timeout", "shuffle_buffer_size"):  # fmt: skip
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise UserError(f"--{name} must be above 0, got {getattr(self, name)}")
        for name in ("learning_rate", "weight_decay", "weight_decay_end", "warmup_epochs", "freeze_prototypes_epochs",
                     "mi_steps", "dataloader_num_workers", "local_views"):  # fmt: skip
            if getattr(self, name) is not None and getattr(self, name) < 0:
                raise UserError(f"--{name} must not be negative, got {getattr(self, name)}")
        for name, most in _MOST.items():
            if getattr(self, name) is not None and getattr(self, name) > most:
                raise UserError(f"--{name} must be at most {most:,}, got {getattr(self, name):g}")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"--seed must be from 0 to 2**63 - 1, got {self.seed}")
        if not self.output_dir:
            raise UserError("--output_dir is empty: give a directory, or . for this one")
        if not 0 <= self.max_bad_fraction <= 1:
            raise UserError(f"--max_bad_fraction must be from 0 to 1, got {self.max_bad_fraction}")
        if not 0 <= self.momentum < 1:
            raise UserError(f"--momentum must be at least 0 and below 1, got {self.momentum}")
        if self.local_views and self.local_view_size is None:
            # As 96 is to 224 in DINO (arXiv 2104.14294), and a whole number of patches of 8.
            self.local_view_size = max(8, 8 * round(self.image_size * 3 / 56))
        if self.local_views and self.local_view_size <= 0:
            raise UserError(f"--local_view_size must be above 0, got {self.local_view_size}")
        if self.per_device_train_batch_size < 2:
            raise UserError("--per_device_train_batch_size must be at least 2: a batch of one has no negative pairs")

    @property
    def columns(self) -> dict:
        """`--set` as a dictionary; values are read as YAML, so numbers are numbers and {} is empty."""
        columns = {key: _value("set", value) for key, value in _split_pairs("set", self.set)}
        for column, flag in (("method", "--method"), ("encoder_config", "--encoder")):
            if column in columns:
                raise UserError(f"--set {column}=… : use {flag}")
        return columns

    @property
    def files(self) -> dict[str, str | list[str]] | None:
        """`--data_files` as a dictionary from split to file, pattern or, written [a, b], files."""
        pairs = _split_pairs("data_files", self.data_files)
        files = {key: _value("data_files", text) if text.startswith("[") else text for key, text in pairs}
        for key, names in files.items():
            if isinstance(names, list) and not (names and all(isinstance(name, str) for name in names)):
                raise UserError(f"--data_files {key}: files are written [a.parquet, b.parquet], got {str(names)[:80]}")
        home = os.path.expanduser
        return {k: home(one) if isinstance(one, str) else [*map(home, one)] for k, one in files.items()} or None

    def data_arguments(self) -> dict:
        """What the data are opened with."""
        names = ("dataset_name", "data_dir", "train_split", "eval_split", "image_column_name", "label_column_name",
                 "image_size", "seed", "on_bad_image", "max_bad_fraction", "streaming",
                 "shuffle_buffer_size")  # fmt: skip
        chosen = {name: getattr(self, name) for name in names}
        chosen |= {"placement": self.data_placement, "cache_dir": self.data_cache_dir}
        chosen |= {"num_workers": self.dataloader_num_workers, "timeout": self.dataloader_timeout}
        return chosen | {"data_files": self.files}

    @property
    def draws_images(self) -> bool:
        """Whether figures show held-out images: as asked, and unasked those of the embedded corpus and of Hub ids."""
        hub_id = re.fullmatch(r"\w[\w.-]*/[\w.-]+", self.dataset_name) and not Path(self.dataset_name).exists()
        public = self.dataset_name == "shapes" or bool(hub_id)
        return public if self.show_images is None else self.show_images

    def to_dict(self) -> dict:
        """The arguments as JSON, with `set` and `data_files` as dictionaries."""
        return asdict(self) | {"set": self.columns, "data_files": self.files}

    def identity(self) -> dict:
        """The arguments that decide what a run computes: what a checkpoint must share with the run that resumes it."""
        free = {"output_dir", "resume_from_checkpoint", "report_to", "dataloader_num_workers", "checkpointing_steps",
                "data_placement", "data_cache_dir", "dataloader_timeout", "on_bad_image", "max_bad_fraction",
                "checkpoints_total_limit", "per_device_train_batch_size", "compile", "views_batch_size",
                "gradient_checkpointing",
                "data_dir", "data_files", "eval_steps", "mi_steps", "stop_on_collapse", "show_images", "imported",
                "max_hours", "max_bad_steps", "process_timeout",
                "push_to_hub", "hub_model_id", "hub_private_repo", "hub_revision_epochs"}  # fmt: skip
        free |= set() if self.streaming else {"streaming", "shuffle_buffer_size"}
        return {key: value for key, value in self.to_dict().items() if key not in free}


def _split_pairs(flag: str, pairs: list[str]) -> list[tuple[str, str]]:
    for pair in pairs:
        if "=" not in pair:
            raise UserError(f"--{flag} takes KEY=VALUE, got {pair[:80]!r}")
    return [tuple(pair.split("=", 1)) for pair in pairs]


def _value(flag: str, text: str):
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, *MALFORMED) as error:
        raise UserError(f"--{flag}: cannot read the value {text[:80]!r}") from error
    if isinstance(value, str):  # YAML 1.1 takes 1e-3 for a string
        try:
            return float(value)
        except ValueError:
            return value
    return value
