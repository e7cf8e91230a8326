"""The optimiser's steps, and what becomes of those whose loss or gradient is not finite: they change nothing, but that
a target which follows moves on, and are counted.

What is judged is the norm of the gradient after it has been summed over processes, so that all of them judge alike,
and the loss, which is of the images of all of them and the same for all.
"""

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from .plan import Plan

_SHARE = 0.01  # of all steps: with more skipped than that, something is wrong even if they never come in a row


class Updates:
    """`begin`, the forward and backward passes of one optimiser step, `step` after each: clip, update, clear.

    A step whose loss or gradient is not finite leaves parameters and the optimiser's averages as they are, and puts
    back what the forward passes wrote: running statistics, queue, centre, counters. With fp16 the scaler judges, on
    the host: kernels that skip a step by themselves do not say so, and leave averages that they have just made as they
    found that memory.

    On an accelerator the host does not wait to hear whether the gradient is finite. Optimisers that can be told on the
    device (those that are fused, as GradScaler tells them) are. Others that keep nothing but tensors there step in any
    case, and weights and averages are put back from copies. The host waits for those that count steps on the host, and
    in the first step of each parameter, which makes its averages.
    """

    def __init__(self, accelerator: Accelerator, model: nn.Module, optimizer, max_grad_norm: float | None = None):
        self.accelerator, self.model, self.optimizer = accelerator, model, optimizer
        self.max_grad_norm = max_grad_norm
        self.buffers = list(model.buffers())
        self.kept = [buffer.clone() for buffer in self.buffers]
        self.skipped: Tensor | bool = False
        self.waits = accelerator.device.type == "cpu"  # where nothing is waited for, copies would only cost
        self.settled: set[nn.Parameter] = set()  # of which the optimiser has, on their device, all that it keeps
        if accelerator.scaler is not None:
            optimizer.optimizer._step_supports_amp_scaling = False

    def begin(self) -> None:
        """Before the first forward pass of an optimiser step: note what the passes write."""
        if self.buffers:
            torch._foreach_copy_(self.kept, self.buffers)

    def step(self, loss: Tensor) -> None:
        """After the backward pass of a loss, (): update, if it was the last one that is accumulated."""
        self._spoil(loss)
        if not self.accelerator.sync_gradients:
            return
        if self.accelerator.scaler is not None:
            self._step_scaled()
        elif self._can_be_told:
            bad = ~self._norm().isfinite()
            self.optimizer.optimizer.found_inf = bad.float()
            self.optimizer.step()
            del self.optimizer.optimizer.found_inf
            self._put_back_if(bad)
        elif not self.waits and (learning := self._learning) <= self.settled:
            self._step_and_put_back(learning)
        elif self._norm().isfinite():
            self._step_and_look()
        else:
            self._put_back()
            self.skipped = True
        self.optimizer.zero_grad()

    def take_skipped(self) -> Tensor | bool:
        """Whether a step was skipped since the last call."""
        skipped, self.skipped = self.skipped, False
        return skipped

    def _step_and_look(self) -> None:
        """Step, and see what the optimiser keeps of the parameters that took it."""
        if self.waits:
            self.optimizer.step()
            return
        before, learning = self._of_groups(), self._learning
        self.optimizer.step()
        kept = [(p, value) for p in learning for value in self.optimizer.optimizer.state.get(p, {}).values()]
        if self._of_groups() == before and all(isinstance(v, Tensor) and v.device == p.device for p, v in kept):
            self.settled |= learning

    def _step_and_put_back(self, learning: set[nn.Parameter]) -> None:
        """Step whatever the gradient is; if it is not finite, what was there before is there again."""
        state, bad = self.optimizer.optimizer.state, ~self._norm().isfinite()
        before = {p: (p.detach().clone(), {k: v.clone() for k, v in state.get(p, {}).items()}) for p in learning}
        self.optimizer.step()
        for p, (weights, averages) in before.items():
            for now, then in ((p.detach(), weights), *((state[p][key], then) for key, then in averages.items())):
                now.copy_(torch.where(bad, then, now))
        self._put_back_if(bad)

    def _put_back_if(self, bad: Tensor) -> None:
        if not self.waits:
            for buffer, kept in zip(self.buffers, self.kept, strict=True):
                buffer.copy_(torch.where(bad, kept, buffer))
        elif bad:
            self._put_back()
        self.skipped = self.skipped | bad

    @property
    def _learning(self) -> set[nn.Parameter]:
        return {p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None}

    def _of_groups(self) -> str:
        """What groups carry, in words: it changes in a step where steps are counted there."""
        groups = self.optimizer.param_groups
        return repr([{key: value for key, value in group.items() if key != "params"} for group in groups])

    def _step_scaled(self) -> None:
        if self.max_grad_norm:
            self._norm()
        self.optimizer.step()
        if self.optimizer.step_was_skipped:
            self._put_back()
            # An overflow is how the scaler finds its scale; one without any scaling is the gradient's own
            self.skipped = self.skipped | (self.accelerator.scaler.get_scale() < 1)

    @property
    def _can_be_told(self) -> bool:
        inner = self.optimizer.optimizer
        fused = all(group.get("fused") for group in inner.param_groups)  # a checkpoint may say otherwise
        begun = all(inner.state.get(p) for p in self._learning)  # the first step makes the averages
        return fused and begun and getattr(inner, "_step_supports_amp_scaling", False)

    def _spoil(self, loss: Tensor) -> None:
        """0 · loss into the gradient, so that who judges the one judges the other, the scaler too."""
        first = next((p.grad for p in self.model.parameters() if p.grad is not None), None)
        if first is not None:
            first.add_(0 * loss.detach())

    def _norm(self) -> Tensor:
        if self.max_grad_norm:
            return self.accelerator.clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
        return get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])

    def _put_back(self) -> None:
        if self.buffers:
            torch._foreach_copy_(self.buffers, self.kept)


class Skips:
    """How many steps were skipped, and when there are too many: `max_bad_steps` in a row, or 1 % of all steps of the
    run where that is more than `max_bad_steps`. A pure function of the log."""

    def __init__(self, plan: Plan):
        self.in_a_row, self.overall = plan.args.max_bad_steps, max(plan.args.max_bad_steps, _SHARE * plan.steps)
        self.total = self.streak = 0

    def add(self, record: dict, skipped: bool) -> None:
        """Count a step, and note the count in its record once there is one."""
        self.total, self.streak = self.total + skipped, self.streak + 1 if skipped else 0
        if self.total:
            record["skipped_steps"] = self.total

    def seen(self, record: dict) -> None:
        """Take up the count where a run that is resumed left it."""
        if "loss" in record:
            self.add(record, record.get("skipped_steps", 0) > self.total)

    @property
    def too_many(self) -> str | None:
        if self.streak >= self.in_a_row:
            return f"{self.streak} steps in a row"
        return f"{self.total} steps" if self.total > self.overall else None
