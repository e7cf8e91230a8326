"""The host never waits for the device: no operation of a step needs a result, and no copy is one that waits."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from hf_mi_ssl.data import training_batches
from hf_mi_ssl.data.parts import Part
from hf_mi_ssl.data.store import ImageStore
from hf_mi_ssl.training import (
    Updates,
    build_optimizer,
    build_seeded,
    forward_backward,
    seed_everything,
    set_schedules,
    step_record,
)
from hf_mi_ssl.views import RandomViews, view_recipes
from tests.conftest import forward, small_model
from tests.test_step import plan_of, step

WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique")


class Waits(TorchDispatchMode):
    """Notes the operations for whose result the host would wait, if it were on another device, and copies from one
    device to another that are not told not to wait."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if any(function.__name__.startswith(name) for name in WAITS):
            self.found.append(function.__name__)
        if function is torch.ops.aten._to_copy.default and result.device.type != args[0].device.type:
            self.found += [] if kwargs.get("non_blocking") else [function.__name__]
        return result


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_no_step_waits_for_the_device(method, optimizer, views):
    model, plan = small_model(method), plan_of(optimizer=optimizer)
    optimizer = build_optimizer(model, plan.args)
    step(model, optimizer, plan, views)  # the first makes the optimiser's averages
    with Waits() as waits:
        record = step(model, optimizer, plan, views, 1)
    # One term draws its directions by a generator on the host, which has to know how many it has drawn
    allowed = ["_local_scalar_dense.default"] if "sketched_gaussianity" in model.config.marginal else []
    assert waits.found == allowed
    assert all(value.ndim == 0 for value in record.values() if isinstance(value, torch.Tensor))
    with waits:
        float(record["loss"])
    assert waits.found  # the count can fail


def test_no_copy_of_a_batch_or_a_forward_pass_waits_for_the_gpu(method):
    """On tensors that say that they are on a GPU and have no numbers."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cuda"):
        model = small_model(method)
        store = ImageStore(torch.zeros(40, 3, 16, 16, dtype=torch.uint8), None, "cuda")
        x = torch.zeros(12, 3, 16, 16)
    if "sketched_gaussianity" in model.config.marginal:
        pytest.skip("its term waits, and says so")
    with FakeTensorMode(allow_non_fake_inputs=True), Waits() as waits:
        [(_, images)] = store.batches([torch.arange(12, device="cpu")])
        forward(model, x, x)
        assert images.device == x.device == torch.device("cuda", 0)
        assert not waits.found
        x.cpu()
    assert waits.found  # the count can fail


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("optimizer", ["adamw", "momentum", "lars"])
def test_no_step_of_a_recipe_waits_for_the_gpu(method, optimizer):
    """From the batch to the record, with pixels on the GPU, in bf16."""
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._reset_state()
    accelerator, plan = Accelerator(mixed_precision="bf16"), plan_of(optimizer=optimizer, max_grad_norm=1.0)
    model = build_seeded(0, small_model, method)
    network, optimizer = accelerator.prepare(model, build_optimizer(model, plan.args))
    images = torch.randint(0, 256, (48, 3, 32, 32), dtype=torch.uint8)
    train = Part(ImageStore(images, None, accelerator.device).on_device(), torch.arange(48), "train")
    batches = training_batches(train, plan.batches_from(0), plan.global_batch, 0)
    views, updates = RandomViews(view_recipes("moco", 32), 0), Updates(accelerator, model, optimizer, 1.0)
    waits = "sketched_gaussianity" in model.config.marginal
    try:
        for number in range(4):  # in the first two, averages are made, and kernels
            torch.cuda.set_sync_debug_mode("error" if number > 1 and not waits else "default")
            seed_everything(0, number)
            rate = set_schedules(optimizer, plan, number)
            pairs = views.of_step(plan.take(batches))
            for phase in getattr(model, "phases_at", lambda number: ("E",))(number):
                updates.begin()
                for pair in pairs:
                    with accelerator.accumulate(network):
                        outputs = forward_backward(accelerator, network, pair, len(pair[0]), phase)
                        updates.step(outputs.loss)
            if hasattr(model, "update_target"):
                model.update_target(0.9)
            record = step_record(number + 1, plan, outputs, rate) | {"skipped": updates.take_skipped()}
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert record["loss"].isfinite()
    assert not record["skipped"]
