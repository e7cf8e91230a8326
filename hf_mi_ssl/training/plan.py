"""How long a run is and what happens when, as pure functions of the step."""

import itertools
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import UserError
from .arguments import PretrainingArguments

_IMAGES_PER_PAIR = 20


@dataclass(frozen=True)
class Plan:
    """A run of `steps` optimiser steps on `num_processes`, each of `accumulation` batches of `global_batch` images. Of
    an unknown number of images, --num_train_epochs are the parts of --max_train_steps that stand for epochs.

    Raises:
        UserError: if the images do not fill one batch, or the run would have no step.
    """

    args: PretrainingArguments
    num_images: int | None
    num_processes: int = 1

    def __post_init__(self):
        if self.global_batch % self.at_once:
            raise UserError(
                f"--contrast_batch_size {self.global_batch} must be a multiple of {self.at_once}, the images that all "
                f"processes hold at once (--per_device_train_batch_size times processes)"
            )
        views = 2 * 3 * 4 * self.args.image_size**2 * self.global_batch // self.num_processes  # bytes, of float32
        if views > (memory := os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")):
            raise UserError(
                f"two views of {self.global_batch:,} images of {self.args.image_size} pixels are {views:,} bytes in a "
                f"process, and this machine has {memory:,}: lower --per_device_train_batch_size or "
                f"--contrast_batch_size"
            )
        if self.num_images is None and self.args.max_train_steps is None:
            raise UserError("the data do not say how many images they hold: give --max_train_steps")
        if self.num_images is not None and self.num_images < self.global_batch:
            raise UserError(
                f"a batch of {self.global_batch} images is larger than the data set of {self.num_images}: "
                f"lower --per_device_train_batch_size or --contrast_batch_size"
            )
        if self.steps < 1:
            raise UserError(f"{self.args.num_train_epochs:g} epochs of {self.steps_per_epoch:g} steps make no step")

    @property
    def global_batch(self) -> int:
        """N: the images that one loss compares, over all processes."""
        return self.args.contrast_batch_size or self.at_once

    @property
    def at_once(self) -> int:
        """The images that all processes hold at once: those that share batch norm."""
        return self.args.per_device_train_batch_size * self.num_processes

    @property
    def accumulation(self) -> int:
        return self.args.gradient_accumulation_steps

    @property
    def steps_per_epoch(self) -> float:
        if self.num_images is None:
            return self.args.max_train_steps / self.args.num_train_epochs
        return (self.num_images // self.global_batch) / self.accumulation

    @property
    def steps(self) -> int:
        return self.args.max_train_steps or round(self.args.num_train_epochs * self.steps_per_epoch)

    @property
    def warmup_steps(self) -> int:
        return min(round(self.args.warmup_epochs * self.steps_per_epoch), self.steps // 2)

    @property
    def images_per_step(self) -> int:
        return self.global_batch * self.accumulation

    def batches_from(self, step: int) -> range:
        """The numbers of the batches from optimiser step `step` to the end."""
        return range(step * self.accumulation, self.steps * self.accumulation)

    def take(self, batches: Iterator) -> Iterator:
        """The batches of one optimiser step."""
        return itertools.islice(batches, self.accumulation)

    def epoch(self, step: int) -> float:
        """Epochs done after `step` steps."""
        return round(step / self.steps_per_epoch, 4)

    def evaluates(self, step: int) -> bool:
        """Whether an evaluation follows the `step`-th step (0: before the first)."""
        return step in (0, self.steps) or self._every(self.args.eval_steps, step)

    def measures_mi(self, step: int, pairs: int = 0) -> bool:
        """Whether MI is measured, on so many pairs of views, after the `step`-th step.

        Where neither --mi_steps nor --eval_steps says when, 20 images are trained for each pair that is measured, in
        whole epochs: a pair, embedded without a way back and estimated, costs less than an image in training, so that
        MI costs less than 5 % of it. Start and end are measured besides.
        """
        if self.args.mi_steps is not None:
            return self.args.mi_steps > 0 and (step in (0, self.steps) or step % self.args.mi_steps == 0)
        if step in (0, self.steps) or self.args.eval_steps is not None:
            return self.evaluates(step)
        epochs = max(1, math.ceil(_IMAGES_PER_PAIR * pairs / (self.steps_per_epoch * self.images_per_step)))
        return int(step / self.steps_per_epoch) // epochs != int((step - 1) / self.steps_per_epoch) // epochs

    def checkpoints(self, step: int) -> bool:
        """Whether a checkpoint follows the `step`-th step."""
        return step > 0 and (step == self.steps or self._every(self.args.checkpointing_steps, step))

    def revision(self, step: int) -> str | None:
        """The name of the revision that follows the `step`-th step, if one does."""
        every, epoch = self.args.hub_revision_epochs, int(step / self.steps_per_epoch)
        follows = every and step > 0 and self._every(None, step) and epoch % every == 0
        return f"epoch-{epoch:03d}" if follows else None

    def _every(self, interval: int | None, step: int) -> bool:
        if interval is not None:
            return step % interval == 0
        return int(step / self.steps_per_epoch) != int((step - 1) / self.steps_per_epoch)  # an epoch has ended
