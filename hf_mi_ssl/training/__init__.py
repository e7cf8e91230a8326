"""What a run consists of besides the method: arguments, schedules, checkpoints, records."""

from .arguments import PretrainingArguments, parse_arguments
from .cached_gradients import forward_backward
from .checkpoints import latest_checkpoint, load_checkpoint, save_checkpoint
from .classification import ViewTrainer, classes_of, fine_tune, score
from .data_state import DataState
from .downstream import (
    DATA_FLAGS,
    DownstreamParser,
    default_output_dir,
    encoder_name,
    run_downstream,
    write_evaluations,
)
from .launch import announce, build_accelerator, run_recipe
from .optimization import build_optimizer, cosine_momentum, cosine_with_warmup, set_schedules
from .plan import Plan
from .records import MetricsLog, read_records, results, step_record, write_json
from .state import TrainingState, build_seeded, seed_everything

__all__ = [
    "DATA_FLAGS",
    "DataState",
    "DownstreamParser",
    "MetricsLog",
    "Plan",
    "PretrainingArguments",
    "TrainingState",
    "ViewTrainer",
    "announce",
    "build_accelerator",
    "build_optimizer",
    "build_seeded",
    "classes_of",
    "cosine_momentum",
    "cosine_with_warmup",
    "default_output_dir",
    "encoder_name",
    "fine_tune",
    "forward_backward",
    "latest_checkpoint",
    "load_checkpoint",
    "parse_arguments",
    "read_records",
    "results",
    "run_downstream",
    "run_recipe",
    "save_checkpoint",
    "score",
    "seed_everything",
    "set_schedules",
    "step_record",
    "write_evaluations",
    "write_json",
]
