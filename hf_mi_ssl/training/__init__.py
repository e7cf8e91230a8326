"""What a run consists of besides the method: arguments, schedules, checkpoints, records."""

from ..lazy import lazy_names

__getattr__, __all__ = lazy_names(
    __name__,
    {
        ".arguments": ("PretrainingArguments",),
        ".cached_gradients": ("forward_backward",),
        ".checkpoints": ("latest_checkpoint", "save_checkpoint"),
        ".classification": ("ViewTrainer", "classes_of", "fine_tune", "score"),
        ".data_state": ("DataState", "memory_of_all"),
        ".downstream": (
            "DownstreamParser", "RecipeParser", "arguments_of", "data_of", "default_output_dir", "encoder_name",
            "evidence_of", "output_of", "run_downstream",
        ),
        "..files": ("write_json",),
        ".launch": ("announce", "build_accelerator", "run_recipe"),
        ".leaving": ("Leaving",),
        ".optimization": ("build_optimizer", "cosine_schedule", "cosine_with_warmup", "set_schedules"),
        ".parsing": ("parse_arguments",),
        ".plan": ("Plan",),
        ".records": ("MetricsLog", "read_records", "results", "step_record"),
        ".restoring": ("load_checkpoint",),
        ".state": ("TrainingState", "build_seeded", "seed_everything"),
        ".updates": ("Skips", "Updates"),
    },
)  # fmt: skip
