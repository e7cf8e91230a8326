"""The training step: every faster form computes what the plain form computes."""

import copy
import os
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from torch.utils.flop_counter import FlopCounterMode
from transformers import ConvNextV2Config, Dinov2Config

from hf_mi_ssl.distributed import globalize_batch_norm
from hf_mi_ssl.encoders import build_encoder, checkpoint_activations, encoder_config
from hf_mi_ssl.errors import UserError
from hf_mi_ssl.methods import METHODS
from hf_mi_ssl.nn.target import EMATarget
from hf_mi_ssl.training import (
    Plan,
    PretrainingArguments,
    build_optimizer,
    forward_backward,
    set_schedules,
    step_record,
)
from hf_mi_ssl.training.launch import build_accelerator, precision
from tests.conftest import forward, small_model
from tests.test_distributed import run_processes

ROOT = Path(__file__).resolve().parent.parent


def step(model, optimizer, plan, pair, number: int = 0) -> dict:
    """What a recipe does between the views and the log."""
    rate = set_schedules(optimizer, plan, number)
    for phase in getattr(model, "phases_at", lambda number: ("E",))(number):
        outputs = forward_backward(Accelerator(cpu=pair[0].device.type == "cpu"), model, pair, len(pair[0]), phase)
        optimizer.step()
        optimizer.zero_grad()
    if hasattr(model, "update_target"):
        model.update_target(0.9)
    return step_record(number + 1, plan, outputs, rate)


def plan_of(**arguments) -> Plan:
    return Plan(PretrainingArguments(per_device_train_batch_size=12, max_train_steps=4, **arguments), 48)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_fused_updates_are_the_plain_ones(name, views):
    models = [small_model("simclr").double() for _ in range(2)]
    plans = [plan_of(optimizer=name, weight_decay=0.1)] * 2
    optimizers = [build_optimizer(model, plan.args) for model, plan in zip(models, plans)]
    assert optimizers[0].defaults["fused"]
    for group in optimizers[1].param_groups:
        group["fused"], group["foreach"] = False, False
    pair = [view.double() for view in views]
    for number in range(3):
        for model, optimizer, plan in zip(models, optimizers, plans):
            step(model, optimizer, plan, pair, number)
    for one, other in zip(*(model.parameters() for model in models)):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


def test_the_target_follows_in_one_call_as_it_does_parameter_by_parameter():
    online, followed = (small_model("simclr", seed) for seed in (0, 1))
    target = EMATarget(copy.deepcopy(online.encoder), copy.deepcopy(online.projector))
    expected = [0.9 * own + 0.1 * other for own, other in zip(online.parameters(), followed.parameters())]
    target.follow((followed.encoder, followed.projector), 0.9)
    for own, other in zip(target.parameters(), expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-6, atol=1e-7)
    assert all(torch.equal(*pair) for pair in zip(target.encoder.buffers(), followed.encoder.buffers()))


# One forward for both views

WITHOUT_BATCH_NORM = {
    "encoder_config": ConvNextV2Config(depths=[1, 1], hidden_sizes=[8, 16], num_stages=2),
    "projector_hidden_norm": False,
    "projector_output_norm": False,
}


def gradients(model, pair):
    forward(model, *pair).loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", ["jmi", "simclr", "sdmi", "sdmi_ema", "vicreg"])
def test_one_forward_changes_nothing_without_batch_norm(name, views):
    pair = [view.double() for view in views]
    one, other = (small_model(name, **WITHOUT_BATCH_NORM, one_forward=flag).double() for flag in (False, True))
    for (key, gradient), (_, together) in zip(gradients(one, pair).items(), gradients(other, pair).items()):
        torch.testing.assert_close(together, gradient, rtol=1e-8, atol=1e-10, msg=lambda m, key=key: f"{key}: {m}")


def test_with_batch_norm_one_forward_has_the_statistics_of_both_views(method, views):
    pair = [view.double() for view in views]
    apart, together = (small_model(method, one_forward=flag).double() for flag in (False, True))
    with FlopCounterMode(display=False) as of_two:
        forward(apart, *pair)
    with FlopCounterMode(display=False) as of_one:
        forward(together, *pair)
    assert of_one.get_total_flops() == of_two.get_total_flops() > 0
    if METHODS[method].columns.get("symmetric", True) and not METHODS[method].columns.get("batch_norm_group_size"):
        norm = next(m for m in together.encoder.modules() if isinstance(m, torch.nn.BatchNorm2d))
        seen = {}
        norm.register_forward_pre_hook(lambda module, inputs: seen.setdefault("x", inputs[0]))
        before = norm.running_mean.clone()
        forward(together, *pair)
        n = len(seen["x"])
        expected = 0.9 * before + 0.1 * seen["x"].mean((0, 2, 3))
        assert n in (len(pair[0]), 2 * len(pair[0]))
        torch.testing.assert_close(norm.running_mean, expected)


def one_forward_of(rank, world, views):
    model = globalize_batch_norm(small_model("jmi", one_forward=True, projection_size=8).double())
    wrapped = torch.nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
    wrapped(*[view.chunk(world)[rank] for view in views]).loss.backward()
    return {name: p.grad for name, p in model.named_parameters()}, dict(model.named_buffers())


def test_one_forward_is_the_same_on_two_processes(views):
    pair = [view.double() for view in views]
    found, buffers = run_processes(2, one_forward_of, pair)[0]
    model = small_model("jmi", one_forward=True, projection_size=8).double()
    for name, gradient in gradients(model, pair).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-8, atol=1e-11)
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffers[name], buffer, rtol=1e-10, atol=1e-12)


# Memory and precision


@pytest.mark.parametrize("of", ["transformers", "timm"])
def test_checkpointed_activations_leave_the_gradients_as_they_are(of):
    config = Dinov2Config(hidden_size=24, num_hidden_layers=3, num_attention_heads=2, image_size=16, patch_size=8)
    if of == "timm":
        config = encoder_config("timm/convnext_atto", 32)
    torch.manual_seed(0)
    plain = build_encoder(config).train()
    checkpointed, x = copy.deepcopy(plain), torch.randn(2, 3, 32, 32)
    checkpoint_activations(checkpointed)
    saved = []
    for encoder in (plain, checkpointed):
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.numel()) or t, lambda t: t):
            h = encoder(x).pooler_output
        h.square().sum().backward()
        saved.append(sum(kept))
    assert saved[1] < saved[0] / 2
    for one, other in zip(plain.parameters(), checkpointed.parameters()):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize(("name", "said"), [("resnet_tiny", "does not offer it"), ("timm/resnet18", "batch norm")])
def test_an_encoder_that_cannot_checkpoint_costs_one_line(name, said):
    with pytest.raises(UserError, match=said) as raised:
        checkpoint_activations(build_encoder(encoder_config(name, 32)))
    assert "\n" not in str(raised.value)


def test_precision_is_bf16_where_the_gpu_has_it_and_nothing_else_was_asked_for(monkeypatch):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (precision(None), precision("no"), precision("fp16")) == (None, "no", "fp16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for has, expected in ((True, "bf16"), (False, None)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, has=has: has)
        assert (precision(None), precision("no"), precision("fp16")) == (expected, "no", "fp16")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    for name, value, expected in (
        ("ACCELERATE_MIXED_PRECISION", "fp16", None),
        ("ACCELERATE_MIXED_PRECISION", "no", "bf16"),
        ("ACCELERATE_USE_CPU", "true", None),
    ):
        monkeypatch.setitem(os.environ, name, value)
        assert precision(None) == expected
        monkeypatch.delitem(os.environ, name)


# Launching


@pytest.mark.parametrize("file", sorted((ROOT / "recipes" / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_its_configurations(file):
    config = load_config_from_file(str(file))
    assert config.distributed_type == "MULTI_GPU"
    assert config.num_processes == 8 * config.num_machines
    args = launch_command_parser().parse_args(["--config_file", str(file), "recipes/pretrain_jmi.py", "--seed", "1"])
    args, *_ = _validate_launch_command(args)
    assert (args.multi_gpu, args.mixed_precision, args.num_processes) == (True, "bf16", config.num_processes)


@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED"])
def test_a_sharded_model_is_refused_in_one_line(name, monkeypatch, tmp_path):
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(UserError, match=f"{name} is not supported.*--multi_gpu"):
        build_accelerator(PretrainingArguments(output_dir=str(tmp_path)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["simclr", "sdmi"])
def test_a_compiled_model_computes_the_same(name, views):
    pair = [view.double() for view in views]
    plain, compiled = (small_model(name).double() for _ in range(2))
    network = torch.compile(compiled, backend="aot_eager")
    forward(plain, *pair).loss.backward()
    (network(*pair, phase="E") if name == "sdmi" else network(*pair)).loss.backward()
    for one, other in zip(plain.parameters(), compiled.parameters()):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None:
            torch.testing.assert_close(other.grad, one.grad, rtol=1e-8, atol=1e-10)
