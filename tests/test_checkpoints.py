"""Checkpoints: complete or absent, every bit back, damage noticed, no pickle."""

import json
import logging
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mi_ssl.errors import UserError
from hf_mi_ssl.training.checkpoints import latest_checkpoint, save_checkpoint, verify
from hf_mi_ssl.training.restoring import load_checkpoint
from hf_mi_ssl.training.trees import apart, join, split


def a_state(step=1):
    generator = torch.Generator().manual_seed(step)
    return {
        "model": {"weight": torch.rand(3, 2, generator=generator), "count": torch.tensor(step)},
        "optimizer": {
            "state": {0: {"exp_avg": torch.rand(3, generator=generator), "step": torch.tensor(float(step))}},
            "param_groups": [{"lr": 0.1 / 3, "betas": (0.9, 0.999), "params": [0], "fused": None, "amsgrad": False}],
        },
    }


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other) and one.dtype == other.dtype
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return one == other and type(one) is type(other)


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path):
    path = save_checkpoint(tmp_path, 7, a_state(), {"identity": {"seed": 0}}, total_limit=2)
    states, record = load_checkpoint(path)
    assert same(states, a_state())
    assert record == {"step": 7, "identity": {"seed": 0}}
    assert path.name == "checkpoint-7"


def test_tensors_that_share_memory_come_back_whole_and_those_that_do_not_are_not_copied(tmp_path):
    whole, tied = torch.arange(12.0).view(3, 4), torch.ones(5)
    state = {"parts": list(whole), "column": whole[:, 1], "one": tied, "other": tied, "none": torch.empty(0)}
    states, _ = load_checkpoint(save_checkpoint(tmp_path, 1, {"model": state}, {}, total_limit=1))
    assert same(states["model"], state)
    apart_of = apart({"tied": tied, "part": whole[0], "again": tied})
    assert apart_of["tied"] is tied
    assert len({tensor.data_ptr() for tensor in apart_of.values()}) == 3
    assert apart_of["part"].untyped_storage().nbytes() == 16


@pytest.mark.parametrize("name", ["adamw", "sgd", "adam", "lars", "lamb", "muon"])
def test_the_state_of_an_optimiser_goes_on_bit_for_bit(name, tmp_path):
    from timm.optim import create_optimizer_v2

    def build():
        torch.manual_seed(0)
        layer = torch.nn.Linear(4, 3)
        return layer, create_optimizer_v2(layer, opt=name, lr=0.1, weight_decay=0.01, momentum=0.9)

    def step(layer, optimizer, seed):
        torch.manual_seed(seed)
        layer(torch.randn(5, 4)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    layer, optimizer = build()
    step(layer, optimizer, 1)
    path = save_checkpoint(tmp_path, 1, {"m": layer.state_dict(), "o": optimizer.state_dict()}, {}, 1)
    states, _ = load_checkpoint(path)
    other_layer, other_optimizer = build()
    other_layer.load_state_dict(states["m"])
    other_optimizer.load_state_dict(states["o"])
    for seed in (2, 3):
        step(layer, optimizer, seed)
        step(other_layer, other_optimizer, seed)
    assert torch.equal(layer.weight, other_layer.weight)


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner)
        | st.dictionaries(st.integers() | st.text(max_size=3), inner, max_size=3),
        max_leaves=8,
    )
)  # fmt: skip
def test_any_tree_of_plain_values_survives(tree):
    tensors = {}
    written = json.loads(json.dumps(split(tree, "", tensors)))
    assert same(join(written, tensors), tree)


def test_what_a_checkpoint_cannot_hold_is_refused_by_its_place(tmp_path):
    with pytest.raises(TypeError, match="'/deep/1'"):
        save_checkpoint(tmp_path, 1, {"state": {"deep": [1, object()]}}, {}, 1)
    assert latest_checkpoint(tmp_path) is None


def test_only_the_newest_are_kept_and_the_newest_is_found(tmp_path):
    for step in (3, 20, 100):
        save_checkpoint(tmp_path, step, a_state(step), {}, total_limit=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-100", "checkpoint-20"]
    assert latest_checkpoint(tmp_path).name.endswith("100")


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.json", "record.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "remove"])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning_that_names_it(file, damage, tmp_path, caplog):
    for step in (1, 2):
        save_checkpoint(tmp_path, step, a_state(step), {}, total_limit=2)
    newest = tmp_path / "checkpoint-2"
    content = bytearray((newest / file).read_bytes())
    if damage == "remove":
        (newest / file).unlink()
    else:
        content[len(content) // 2] ^= 1
        cut = {"flip": len(content), "truncate": len(content) - 1, "empty": 0}[damage]
        (newest / file).write_bytes(content[:cut])
    with caplog.at_level(logging.WARNING):
        if file == "manifest.json" and damage == "flip" and verify(newest) is None:
            return  # the bit was in white space
        assert latest_checkpoint(tmp_path).name == "checkpoint-1"
    assert len(caplog.records) == 1
    assert str(newest) in caplog.text
    with pytest.raises(UserError, match="cannot resume from"):
        load_checkpoint(newest)


def test_nothing_is_unpickled(tmp_path):
    path = save_checkpoint(tmp_path, 1, a_state(), {}, 1)
    seen = []
    sys.addaudithook(lambda event, _: seen.append(event) if event == "pickle.find_class" else None)
    load_checkpoint(path)
    assert not seen
    assert {file.suffix for file in path.iterdir()} == {".json", ".safetensors"}
