"""What fine-tuning needs beside transformers' Trainer: its batches, and the judgement."""

import sys
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from ..data import Part, training_batches
from ..distributed import num_processes, process_index
from ..encoders import build_classifier
from ..errors import UserError, first_line
from ..views import ViewRecipe, clean_view, random_view
from .state import build_seeded

_BATCH = 256  # images classified at once


class ViewTrainer(Trainer):
    """Trainer whose batches are random views of a part's labelled images: AdamW, a cosine after a warm-up over a tenth
    of the steps, bfloat16 on the GPUs that have it. Order and views are functions of the seed alone.

    It keeps no checkpoints: Trainer's optimiser states are pickles. `classes` are the labels, sorted, int64 (C,).
    """

    def __init__(
        self, model: PreTrainedModel, part: Part, classes: Tensor, recipe: ViewRecipe, batch_size: int, **settings
    ):
        args = TrainingArguments(
            per_device_train_batch_size=batch_size,
            warmup_steps=0.1,  # below 1 it is a fraction
            lr_scheduler_type="cosine",
            bf16=part.images.device.type == "cuda" and torch.cuda.is_bf16_supported(),
            use_cpu=part.images.device.type == "cpu",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=not sys.stderr.isatty(),
            **settings,
        )
        super().__init__(model=model, args=args)
        self.remove_callback(PrinterCallback)
        self.batches = _Batches(part, classes, recipe, batch_size, args.seed)

    def get_train_dataloader(self) -> "_Batches":
        """The batches of whichever epoch `set_epoch` says."""
        return self.batches


class _Batches:
    def __init__(self, part: Part, classes: Tensor, recipe: ViewRecipe, batch_size: int, seed: int):
        self.part, self.classes, self.recipe, self.seed, self.epoch = part, classes, recipe, seed, 0
        # The remainder of an epoch is dropped, so the batch is never larger than what there is
        self.global_batch = min(batch_size, len(part) // num_processes()) * num_processes()

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.part) // self.global_batch

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        steps = range(self.epoch * len(self), (self.epoch + 1) * len(self))
        place = process_index(), num_processes()
        for epoch, indices, images in training_batches(self.part, steps, self.global_batch, self.seed, *place):
            views = random_view(images, self.recipe, self.seed, epoch, indices)
            labels = torch.searchsorted(self.classes, self.part.images.labels[indices])
            yield {"pixel_values": views, "labels": labels.to(views.device)}


def classes_of(*parts: Part) -> tuple[Tensor, list[str]]:
    """The classes of labelled parts of one data set: their labels, sorted, int64 (C,), and their names.

    Raises:
        UserError: for a part without labels, and for fewer than two classes.
    """
    for part in parts:
        if not len(part):
            raise UserError(f"{part.split} has no labels: name their column with --label_column_name")
    names = parts[0].label_names
    found = torch.cat([part.labels for part in parts]).unique()
    classes = torch.arange(len(names)) if names else found
    if len(found) < 2:
        raise UserError("all labels are the same: there is nothing to tell apart; check --label_column_name")
    return classes, names or [str(label) for label in classes.tolist()]


def fine_tune(
    encoder: PreTrainedModel,
    part: Part,
    classes: Tensor,
    names: list[str],
    recipe: ViewRecipe,
    *,
    freeze_encoder: bool,
    batch_size: int,
    **settings,
) -> PreTrainedModel:
    """A classifier that starts from a copy of the encoder and has learnt from a part; `settings` are those of Trainer.

    Raises:
        UserError: for an encoder without a classifier, or a size of images that it refuses.
    """
    classifier = build_seeded(settings["seed"], build_classifier, encoder, names, freeze_encoder)
    score(classifier, replace(part, indices=part.indices[:8]), classes, recipe)  # refuses a wrong size at once
    ViewTrainer(classifier, part, classes, recipe, batch_size, **settings).train()
    return classifier


@torch.no_grad()
def score(classifier: PreTrainedModel, part: Part, classes: Tensor, recipe: ViewRecipe) -> tuple[int, float]:
    """How many clean images of a part it gets right, and its cross-entropy in nats, infinite where it diverged; it
    goes where the images are.

    Raises:
        UserError: for a size of images that the classifier refuses.
    """
    classifier.eval().to(part.images.device)
    logits, asked = [], []
    for indices, images in part.images.batches(part.indices.split(_BATCH)):
        asked.append(indices)
        try:
            logits.append(classifier(clean_view(images, recipe)).logits.double().cpu())
        except (RuntimeError, ValueError) as error:
            raise UserError(f"no images of {recipe.size} pixels: {first_line(error)}; see --image_size") from error
    logits, labels = torch.cat(logits), torch.searchsorted(classes, part.images.labels[torch.cat(asked)])
    loss = cross_entropy(logits, labels).nan_to_num(torch.inf, torch.inf).item()
    return int((logits.argmax(1) == labels).sum()), loss
