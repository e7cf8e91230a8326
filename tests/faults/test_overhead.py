"""What it costs that nothing is lost: ratios of medians of runs that take turns."""

import functools
import io
import statistics
import time

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import save_file

from hf_mi_ssl import JMIConfig, JMIForPreTraining
from hf_mi_ssl.data.images import decode
from hf_mi_ssl.encoders import encoder_config
from hf_mi_ssl.files import sync
from hf_mi_ssl.training import PretrainingArguments, build_optimizer, forward_backward, save_checkpoint
from hf_mi_ssl.training.updates import Updates

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def one_thread():
    """Threads that wait for each other beside other tests would be what is measured."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def ratio(one, other, rounds: int = 15, clock=time.process_time) -> float:
    """Of the seconds that they take, of CPU time unless told otherwise."""
    taken = [], []
    for _ in range(rounds):
        for seconds, act in zip(taken, (one, other)):
            began = clock()
            act()
            seconds.append(clock() - began)
    return statistics.median(taken[0]) / statistics.median(taken[1])


def test_decoding_a_photograph_costs_what_pil_costs(figure):
    generator, file = np.random.default_rng(0), io.BytesIO()
    pixels = generator.integers(0, 255, (28, 28, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((224, 224)).save(file, "JPEG")

    def plain():
        for _ in range(50):
            with Image.open(io.BytesIO(file.getvalue())) as image:
                image.convert("RGB")

    def guarded():
        for _ in range(50):
            decode(file.getvalue())

    found = ratio(guarded, plain)
    figure("decoding / without guards, 224 pixels", f"{found:.2f}")
    assert found < 1.2


def test_a_save_that_is_digested_and_checked_costs_little_more_than_one_that_is_only_synced(tmp_path, figure):
    state = {"model": {f"weight{i}": torch.rand(250_000) for i in range(100)}}  # 100 MB

    def plain():
        save_file(state["model"], tmp_path / "plain.safetensors")
        sync(tmp_path / "plain.safetensors")

    steps = iter(range(1, 100))
    save = functools.partial(save_checkpoint, tmp_path / "checkpoints", states=state, record={}, total_limit=1)
    found = ratio(lambda: save(next(steps)), plain, 9, time.monotonic)
    figure("a save / one that is only synced", f"{found:.1f}")
    assert found < 2.5


def test_a_step_is_judged_at_little_cost(figure):
    torch.manual_seed(0)
    config = JMIConfig.from_method("jmi", encoder_config=encoder_config("resnet_tiny", 32))
    model, pair = JMIForPreTraining(config), torch.rand(2, 128, 3, 32, 32)
    accelerator = Accelerator(cpu=True)
    optimizer = accelerator.prepare(build_optimizer(model, PretrainingArguments(method="jmi")))
    updates = Updates(accelerator, model, optimizer)

    def step():
        forward_backward(accelerator, model, tuple(pair), 128)
        optimizer.step()

    def judge():
        for _ in range(50):
            updates.begin()
            updates._put_back_if(~updates._norm().isfinite())

    step()
    found = ratio(judge, step, 7) / 50
    figure("judging a step / the step", f"{found:.4f}, resnet_tiny, 128 images")
    assert found < 0.02
