"""Checkpoints from strangers: nothing they hold runs, nothing is fetched, and the answer is one line."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_mi_ssl import SDMIForPreTraining
from hf_mi_ssl.errors import ExitCode
from hf_mi_ssl.files import sync_and_digest
from hf_mi_ssl.hub import export_pretraining
from hf_mi_ssl.training import load_checkpoint
from tests.conftest import small_model
from tests.faults.harness import images_of, train
from tests.faults.hostile.strangers import BILLIONS, DEEP, EVIL, STEPS, changed, header, pipe, some_fast, written


@pytest.fixture(scope="module")
def checkpoint(flat, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    assert train("jmi", directory, *images_of(flat), *STEPS) == 0
    return directory / "checkpoints" / "checkpoint-1"


def sign(directory: Path, **more) -> None:
    """A manifest that is right about whatever lies there."""
    files = [path for path in sorted(directory.iterdir()) if path.is_file() and path.name != "manifest.json"]
    manifest = {"format_version": 1, "step": 1, "files": {path.name: sync_and_digest(path) for path in files}}
    (directory / "manifest.json").write_text(json.dumps(manifest | more))


def tensors(change, name="model.safetensors"):
    def make(at):
        found = load_file(at / name)
        change(found)
        save_file(found, at / name)

    return make


averages = partial(tensors, name="optimizer.safetensors")


def without_averages(tree):
    _, first = tree["dict"][0][1]["dict"][0]
    first["dict"] = [[key, value] for key, value in first["dict"] if key != "exp_avg"]


def other_coefficients(tree):
    group = tree["dict"][1][1]["list"][0]
    group["dict"] = [[key, {"value": "evil"} if key == "eps" else value] for key, value in group["dict"]]


def group(key, value):
    """An optimiser whose groups have another coefficient."""

    def change(tree):
        for of in tree["dict"][1][1]["list"]:
            of["dict"] = [[name, value if name == key else old] for name, old in of["dict"]]

    return changed("optimizer.json", change)


def of_type(dtype):
    return averages(lambda found: found.update({name: tensor.to(dtype) for name, tensor in found.items()}))


def swapped(tree):
    names = [key for key, _ in tree["dict"] if key.endswith("weight")]
    other = {names[0]: names[-1], names[-1]: names[0]}
    tree["dict"] = [[key, {"tensor": "/" + other[key]} if key in other else value] for key, value in tree["dict"]]


def bad_images(*entries):
    listed = [{"dict": [[key, {"value": value}] for key, value in entry.items()]} for entry in entries]
    return changed("data.json", lambda tree: tree.update(
        dict=[[key, {"list": listed} if key == "bad" else value] for key, value in tree["dict"]]
    ))  # fmt: skip


def named_often(at):
    found = load_file(at / "optimizer.safetensors")
    save_file(found | {"/big": torch.zeros(4_000_000)}, at / "optimizer.safetensors")
    changed("optimizer.json", lambda tree: tree["dict"].append(["evil", {"list": [{"tensor": "/big"}] * 2000}]))(at)


def huge_and_unknown(at):
    text = b'{"/a":{"dtype":"U8","shape":[1342177280],"data_offsets":[0,1342177280]}}'
    with (at / "zzz.safetensors").open("wb") as file:
        file.write(header(text))
        file.truncate(8 + len(text) + 1342177280)
    (at / "zzz.json").write_text('{"dict":[["a",{"tensor":"/a"}]]}')


def huge_averages(at):
    huge_and_unknown(at)
    (at / "zzz.safetensors").rename(at / "optimizer.safetensors")
    (at / "zzz.json").unlink()


BAD = {"split": "train", "row": 1, "kind": "damaged", "reason": "evil", "file": None}


def linked(at):
    (at / "model.safetensors").rename(at.parent / "elsewhere")
    (at / "model.safetensors").symlink_to(at.parent / "elsewhere")


def first(found):
    return next(name for name in found if name.endswith("weight"))


CHECKPOINTS = {  # name: (what is done to a checkpoint, whether its manifest is then right about it)
    "pickle as weights": (written("model.safetensors", EVIL), True),
    "pickle as tree": (written("optimizer.json", EVIL), True),
    "pickle as manifest": (written("manifest.json", EVIL), False),
    "pickle listed": (written("random_states_0.pkl", EVIL), True),
    "binary listed": (written("pytorch_model.bin", EVIL), True),
    "link": (linked, True),
    "pipe as manifest": (pipe("manifest.json"), False),
    "pipe as weights": (pipe("model.safetensors"), False),
    "billions of numbers": (written("model.safetensors", BILLIONS), True),
    "endless header": (written("model.safetensors", header(b"{}", 2**62)), True),
    "header of no JSON": (written("model.safetensors", header(b"evil")), True),
    "deep tree": (written("model.json", DEEP), True),
    "deep manifest": (written("manifest.json", DEEP), False),
    "path upwards": (changed("manifest.json", lambda m: m["files"].update({"../../x.json": {}})), False),
    "absolute path": (changed("manifest.json", lambda m: m["files"].update({"/etc/passwd": {}})), False),
    "list of files": (changed("manifest.json", lambda m: m.update(files=[])), False),
    "huge number": (written("record.json", b'{"step": ' + b"9" * 5000 + b"}"), True),
    "negative step": (changed("record.json", lambda r: r.update(step=-1)), True),
    "step of text": (changed("record.json", lambda r: r.update(step="1")), True),
    "record of a list": (written("record.json", b"[]"), True),
    "identity of text": (changed("record.json", lambda r: r.update(identity="x")), True),
    "wide numbers": (tensors(lambda t: t.update({first(t): t[first(t)].double()})), True),
    "other shape": (tensors(lambda t: t.update({first(t): t[first(t)][:1].clone()})), True),
    "tensor missing": (tensors(lambda t: t.pop(first(t))), True),
    "tensor too many": (tensors(lambda t: t.update({"/evil": torch.ones(3)})), True),
    "not a number": (tensors(lambda t: t[first(t)].fill_(float("nan"))), True),
    "tensor named twice": (written("model.json", b'{"dict":[["a",{"tensor":"/a"}]],"dict":[]}'), True),
    "tensor of no file": (written("model.json", b'{"tensor":"/nowhere"}'), True),
    "number of no number": (written("optimizer.json", b'{"float":"evil"}'), True),
    "groups of nothing": (written("optimizer.json", b'{"dict":[["state",{"dict":[]}],["param_groups",{"list":[]}]]}'),
                          True),
    "averages of another shape": (averages(lambda t: t.update({at: t[at].flatten()[:1].clone() for at in t})), True),
    "averages that are missing": (changed("optimizer.json", without_averages), True),
    "averages of nobody": (changed("optimizer.json", lambda tree: tree["dict"][0][1]["dict"].append(
        [10**6, {"dict": []}])), True),
    "coefficients of text": (changed("optimizer.json", other_coefficients), True),
    "beyond the plan": (changed("record.json", lambda r: r.update(step=10**18)), True),
    "beyond all numbers": (changed("record.json", lambda r: r.update(step=10**400)), True),
    "weights swapped": (changed("model.json", swapped), True),
    "weights too many": (changed("model.json", lambda tree: tree["dict"].append(["evil", {"value": 1}])), True),
    "bad images of mixed rows": (bad_images(BAD, BAD | {"row": "x"}), True),
    "bad images of no kind": (bad_images(BAD | {"kind": 3}), True),
    "betas of text": (group("betas", {"tuple": [{"value": "a"}, {"value": "b"}]}), True),
    "one beta": (group("betas", {"tuple": [{"float": "0x1p-1"}]}), True),
    "gradients of gradients": (group("differentiable", {"value": True}), True),
    "up in place of down": (group("maximize", {"value": True}), True),
    "huge epsilon": (group("eps", {"float": "0x1p+1023"}), True),
    "frozen for ever": (group("frozen_epochs", {"float": "0x1p+1000"}), True),
    "averages of integers": (of_type(torch.int64), True),
    "complex averages": (of_type(torch.complex64), True),
    "a tensor named often": (named_often, True),
    "a huge unknown file": (huge_and_unknown, True),
    "no optimizer": (lambda at: [(at / f"optimizer.{kind}").unlink() for kind in ("json", "safetensors")], True),
    "a number beyond all floats": (group("eps", {"float": "0x1p99999"}), True),
    "processes of text": (changed("record.json", lambda r: r.update(num_processes="\x1b[2J" * 9)), True),
    "a long identity": (changed("record.json", lambda r: r["identity"].update(seed="x" * 300_000)), True),
    "many identities": (changed("record.json", lambda r: r["identity"].update({"y" * n: n for n in range(400)})),
                        True),
    "huge averages": (huge_averages, True),
    "later format": (changed("manifest.json", lambda m: m.update(format_version=10**30)), False),
}  # fmt: skip
IGNORED = {  # beside a good checkpoint, under the names that other libraries unpickle
    name: (written(name, EVIL), False)
    for name in ("random_states_0.pkl", "custom_checkpoint_0.pkl", ".metadata", "optimizer.bin", "scheduler.bin")
}


@pytest.mark.parametrize("name", some_fast(*CHECKPOINTS, *IGNORED))
def test_a_hostile_checkpoint_runs_nothing_and_costs_one_line(name, checkpoint, flat, tmp_path, seen, capfd):
    hostile = tmp_path / "origin" / "checkpoint-1"
    shutil.copytree(checkpoint, hostile)
    make, signed = (CHECKPOINTS | IGNORED)[name]
    make(hostile)
    if signed:
        sign(hostile)
    argv = [*images_of(flat), *STEPS, "--resume_from_checkpoint", hostile]
    code, said = seen.attempt(lambda: train("jmi", tmp_path / "run", *argv), capfd)
    if name in IGNORED:
        assert code == 0
    else:
        assert code in (ExitCode.ARGUMENTS, ExitCode.OTHER_RUN, ExitCode.NOT_FINITE), said
        lines = [line for line in said.splitlines() if line.startswith("pretrain_jmi.py")]
        assert len(lines) == 1
        assert len(lines[0]) < 1500
        assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert seen.counts[1] == 0


def test_so_many_were_tried(figure, seen):
    seen.show(figure, "checkpoints", len(CHECKPOINTS | IGNORED))
    assert len(CHECKPOINTS) >= 20


def test_nothing_is_unpickled_when_a_run_is_resumed_or_a_model_loaded(checkpoint, flat, tmp_path, seen, figure):
    seen.counts.zero_()
    argv = [*images_of(flat), *STEPS, "--resume_from_checkpoint", checkpoint]
    assert train("jmi", tmp_path / "run", *argv) == 0
    load_checkpoint(checkpoint)
    model = small_model("byol")
    export_pretraining(model, tmp_path / "whole")
    SDMIForPreTraining.from_pretrained(tmp_path / "whole" / "pretraining")
    events = int(seen.counts[1])
    assert events == 0
    figure("pickle.find_class events on resume and load", events)
    torch.save({"a": Path()}, tmp_path / "control.pt")
    torch.load(tmp_path / "control.pt", weights_only=False)
    assert seen.counts[1] > 0  # the hook sees what there is to see


def test_a_token_is_nowhere_in_what_a_run_writes_or_says(flat, tmp_path, monkeypatch, capfd):
    token = "hf_canaryCanaryCanaryCanaryCanary"
    monkeypatch.setenv("HF_TOKEN", token)
    assert train("jmi", tmp_path, *images_of(flat), *STEPS, "--push_to_hub", "--hub_model_id", "me/x") == 0
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert not any(token.encode() in path.read_bytes() for path in files)
    assert token not in "".join(capfd.readouterr())
