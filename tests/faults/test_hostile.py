"""Files from strangers: whatever they hold, nothing of it runs, nothing is fetched, and the answer is one line."""

import json
import os
import pickle
import resource
import shutil
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_mi_ssl import SDMIConfig, SDMIForPreTraining
from hf_mi_ssl.errors import ExitCode, UserError
from hf_mi_ssl.evaluation.frozen import input_of
from hf_mi_ssl.evaluation.saved import load_saved
from hf_mi_ssl.files import sync_and_digest
from hf_mi_ssl.hub import export_encoder, export_pretraining
from hf_mi_ssl.training import data_of, load_checkpoint, parse_arguments
from hf_mi_ssl.training.downstream import run_downstream
from tests.conftest import small_model
from tests.faults.harness import ends_of, forked, images_of, train

STEPS = ["--max_train_steps", 2, "--checkpointing_steps", 1]
MEMORY = 2**30  # more than a tiny run takes above what the tests themselves have, and far less than what is claimed


class Evil:
    """A pickle that writes into the directory `hacked` when it is read."""

    def __reduce__(self):
        return os.makedirs, ("hacked",)


class Seen:
    """What happened in the processes forked from here: names resolved or connections made, classes unpickled."""

    def __init__(self):
        self.counts = torch.zeros(2, dtype=torch.int64).share_memory_()
        sys.addaudithook(self._note)

    def _note(self, event, arguments):
        if event in ("socket.getaddrinfo", "socket.connect", "socket.gethostbyname"):
            self.counts[0] += 1
        elif event == "pickle.find_class":
            self.counts[1] += 1


@pytest.fixture(scope="module")
def seen():
    return Seen()


ran, requests, survived = [], [], []  # of each case, for the figures


@pytest.fixture(autouse=True)
def hacked(tmp_path, monkeypatch):
    """Where hostile code would show; with the network allowed, so that it would be asked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    yield
    ran.append((tmp_path / "hacked").exists())
    assert not ran[-1]


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


def written(name: str, content: bytes):
    return lambda at: (at / name).write_bytes(content)


def changed(name: str, change):
    """A JSON file after `change` of its content."""

    def make(at):
        content = json.loads((at / name).read_text())
        (at / name).write_text(json.dumps(change(content) or content))

    return make


def tensors(change):
    def make(at):
        found = load_file(at / "model.safetensors")
        change(found)
        save_file(found, at / "model.safetensors")

    return make


def averages(change):
    def make(at):
        found = load_file(at / "optimizer.safetensors")
        change(found)
        save_file(found, at / "optimizer.safetensors")

    return make


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


def pipe(name):
    def make(at):
        (at / name).unlink(missing_ok=True)
        os.mkfifo(at / name)

    return make


def device(name):
    def make(at):
        (at / name).unlink(missing_ok=True)
        (at / name).symlink_to("/dev/zero")

    return make


def header(text: bytes, length: int | None = None) -> bytes:
    return (len(text) if length is None else length).to_bytes(8, "little") + text


def first(found):
    return next(name for name in found if name.endswith("weight"))


EVIL, DEEP = pickle.dumps(Evil()), b'{"dict":' + b"[" * 100_000
BILLIONS = header(b'{"/a":{"dtype":"F32","shape":[1000000000,1000],"data_offsets":[0,4000000000000]}}')
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


def some_fast(*names):
    """Every fourth of them, and the others as slow tests."""
    return [pytest.param(name, marks=[pytest.mark.slow] if i % 4 else []) for i, name in enumerate(names)]


@pytest.mark.parametrize("name", some_fast(*CHECKPOINTS, *IGNORED))
def test_a_hostile_checkpoint_runs_nothing_and_costs_one_line(name, checkpoint, flat, tmp_path, seen, capfd):
    seen.counts.zero_()
    hostile = tmp_path / "origin" / "checkpoint-1"
    shutil.copytree(checkpoint, hostile)
    make, signed = (CHECKPOINTS | IGNORED)[name]
    make(hostile)
    if signed:
        sign(hostile)

    def resume():
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        return train("jmi", tmp_path / "run", *images_of(flat), *STEPS, "--resume_from_checkpoint", hostile)

    with forked(resume, {}) as children:
        (code,) = ends_of(children, 30)
    said = capfd.readouterr().err
    assert "Traceback" not in said
    if name in IGNORED:
        assert code == 0
    else:
        assert code in (ExitCode.ARGUMENTS, ExitCode.OTHER_RUN, ExitCode.NOT_FINITE), said
        lines = [line for line in said.splitlines() if line.startswith("pretrain_jmi.py")]
        assert len(lines) == 1
        assert len(lines[0]) < 1500
        assert not (tmp_path / "run" / "metrics.jsonl").exists()
    requests.append(int(seen.counts[0]))
    assert seen.counts.tolist() == [0, 0]
    survived.append(name)


def configured(**keys):
    """A config.json with these keys; those that are None are taken out."""

    def make(at):
        config = json.loads((at / "config.json").read_text()) | keys
        (at / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))

    return make


def in_another_file(**keys):
    """A config.json that sends transformers to another one."""

    def make(at):
        configured(**keys)(at)
        (at / "config.json").rename(at / "config.4.0.0.json")
        (at / "config.json").write_text(
            json.dumps({"model_type": "resnet", "configuration_files": ["config.4.0.0.json"]})
        )

    return make


def evil_module(at):
    (at / "modeling_evil.py").write_text("import os\nos.makedirs('hacked')\nclass Evil: pass\n")


AUTO_MAP = {name: "modeling_evil.Evil" for name in ("AutoConfig", "AutoModel", "AutoModelForPreTraining")}
REMOTE = {name: f"evil/model--{value}" for name, value in AUTO_MAP.items()}
ENCODERS = {
    "code beside a known type": configured(auto_map=AUTO_MAP),
    "code beside an unknown type": configured(auto_map=AUTO_MAP, model_type="evil"),
    "code beside no type": configured(auto_map=AUTO_MAP, model_type=None),
    "code elsewhere": configured(auto_map=REMOTE, model_type="evil"),
    "trust asked for": configured(auto_map=AUTO_MAP, model_type="evil", trust_remote_code=True),
    "timm from the Hub": configured(model_type="timm_wrapper", architecture="hf_hub:evil/model"),
    "timm from a directory": configured(model_type="timm_wrapper", architecture="local-dir:/etc"),
    "timm of no name": configured(model_type="timm_wrapper", architecture="../../evil"),
    "timm of a list": configured(model_type="timm_wrapper", architecture=["resnet18"]),
    "kernels": configured(attn_implementation="evil/kernel"),
    "kernels within": configured(_attn_implementation_internal="evil/kernel"),
    "kernels in ViT": configured(model_type="vit", _attn_implementation="evil/kernel"),
    "backbone from the Hub": configured(model_type="detr", backbone="evil/model", use_pretrained_backbone=True),
    "backbone that is looked up": configured(model_type="rf_detr", backbone="evil/model"),
    "backbone in a file of another name": in_another_file(model_type="rf_detr", backbone="evil/model"),
    "backbone of one word": configured(model_type="rf_detr", backbone="evil"),
    "backbone from the Hub within": configured(
        model_type="detr", backbone_config={"model_type": "timm_backbone", "backbone": "hf-hub:evil/model"}
    ),
    "backbone from a directory": configured(model_type="detr", backbone="local-dir:/etc"),
    "timm from the Hub within": configured(
        model_type="perception_lm", vision_config={"model_type": "timm_wrapper", "architecture": "hf-hub:evil/model"}
    ),
    "weights of timm elsewhere": configured(
        model_type="timm_wrapper", architecture="resnet18", model_args={"checkpoint_path": "/etc/passwd"}
    ),
    "another name": configured(_name_or_path="evil/model"),
    "quantised": configured(quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True}),
    "quantised by strangers": configured(quantization_config={"quant_method": "evil"}),
    "billions of channels": configured(hidden_sizes=[10**9, 10**9]),
    "negative sizes": configured(hidden_sizes=[-8, -16]),
    "sizes of text": configured(hidden_sizes="evil"),
    "layers without end": configured(depths=[10**9, 1]),
    "type of a list": configured(model_type=["resnet"]),
    "type of a path": configured(model_type="../../evil"),
    "dtype of code": configured(dtype="__import__('os').system('x')"),
    "architecture of a path": configured(architectures=["../../os.system"], model_type="evil"),
    "activation of code": configured(hidden_act="__import__('os').system"),
    "deep": lambda at: (at / "config.json").write_bytes(DEEP),
    "pickle as config": lambda at: (at / "config.json").write_bytes(EVIL),
    "list as config": lambda at: (at / "config.json").write_text("[]"),
    "huge number": lambda at: (at / "config.json").write_text('{"model_type": ' + "9" * 5000 + "}"),
    "pickle as weights": lambda at: (at / "model.safetensors").write_bytes(EVIL),
    "pickle in place of weights": lambda at: (at / "model.safetensors").rename(at / "pytorch_model.bin"),
    "billions of numbers": lambda at: (at / "model.safetensors").write_bytes(BILLIONS),
    "no weights": lambda at: save_file({}, at / "model.safetensors", metadata={"format": "pt"}),
    "pipe as config": pipe("config.json"),
    "pipe as weights": pipe("model.safetensors"),
    "pipe as preprocessor": pipe("preprocessor_config.json"),
    "device as config": device("config.json"),
    "device as weights": device("model.safetensors"),
    "adapter of the Hub": lambda at: (at / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "evil/model", "peft_type": "LORA"}'
    ),
}  # fmt: skip
HARMLESS = {"code beside a known type", "another name"}  # what they say is ignored


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("encoder")
    export_encoder(small_model("jmi").encoder, directory, image_size=8, mean=(0.5,) * 3, std=(0.2,) * 3)
    return directory


@pytest.mark.parametrize("name", some_fast(*ENCODERS))
def test_a_hostile_encoder_runs_nothing_asks_nobody_and_costs_one_line(name, encoder, flat, tmp_path, seen, capfd):
    seen.counts.zero_()
    hostile = tmp_path / "encoder"
    shutil.copytree(encoder, hostile)
    evil_module(hostile)
    ENCODERS[name](hostile)

    def start():
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        return train("jmi", tmp_path / "run", *images_of(flat), *STEPS, "--init_from", hostile)

    with forked(start, {}) as children:
        (code,) = ends_of(children, 60)
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert code == 0 if name in HARMLESS else code in (0, ExitCode.ARGUMENTS), said
    if code:
        assert len([line for line in said.splitlines() if line.startswith("pretrain_jmi.py")]) == 1
    requests.append(int(seen.counts[0]))
    assert seen.counts[0] == 0
    survived.append(name)


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


@pytest.fixture(scope="module")
def whole(encoder, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("whole")
    shutil.copytree(encoder, directory, dirs_exist_ok=True)
    export_pretraining(small_model("byol"), directory)
    return directory


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop(next(iter(t))), "lacks weights"),
        (lambda t: t.update(evil=torch.ones(2)), "also holds weights"),
        (lambda t: t["projector.0.weight"].fill_(float("inf")), "has infinite or undefined weights"),
        (lambda t: t.update({"projector.0.weight": torch.ones(2, 2)}), "cannot load the whole model"),
    ],
)
def test_a_whole_model_is_loaded_exactly_or_not_at_all(change, said, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "copy")
    assert isinstance(load_saved(str(tmp_path / "copy")), SDMIForPreTraining)
    file = tmp_path / "copy" / "pretraining" / "model.safetensors"
    found = load_file(file)
    change(found)
    save_file(found, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=said):
        load_saved(str(tmp_path / "copy"))


def of_whole(**keys):
    """The whole model's config.json with these keys, `encoder_…` in that of its encoder."""

    def change(config):
        for key, value in keys.items():
            (config["encoder_config"] if key.startswith("encoder_") and key != "encoder_config" else config)[
                key if key == "encoder_config" else key.removeprefix("encoder_")
            ] = value

    return lambda at: changed("config.json", change)(at / "pretraining")


WHOLES = {
    "timm from the Hub": of_whole(encoder_config={"model_type": "timm_wrapper", "architecture": "hf_hub:evil/model"}),
    "backbone from the Hub": of_whole(
        encoder_config={"model_type": "detr", "backbone": "evil/model", "use_pretrained_backbone": True}
    ),
    "backbone that is looked up": of_whole(encoder_config={"model_type": "rf_detr", "backbone": "evil/model"}),
    "backbone of the encoder within": of_whole(
        encoder_config={
            "model_type": "detr",
            "backbone_config": {"model_type": "timm_backbone", "backbone": "hf-hub:evil/model"},
        }
    ),
    "code of the encoder": of_whole(encoder_config={"model_type": "evil", "auto_map": REMOTE}),
    "code of the whole": of_whole(auto_map=REMOTE, model_type="evil"),
    "no type": of_whole(encoder_config={}),
    "encoder of text": of_whole(encoder_config="evil/model"),
    "kernels": of_whole(attn_implementation="evil/kernel"),
    "kernels of the encoder": of_whole(encoder_attn_implementation="evil/kernel"),
    "unknown term": of_whole(joint={"evil": 1.0}),
    "terms of a list": of_whole(joint=[1]),
    "method of a list": of_whole(method=["byol"]),
    "dtype of code": of_whole(dtype="os.system"),
    "quantised": of_whole(quantization_config={"quant_method": "gptq"}),
    "temperature of nothing": of_whole(temperature=float("nan")),
    "layers without end": of_whole(projector_num_layers=10**9),
    "layers of the encoder": of_whole(encoder_depths=[10**7, 1]),
    "queue without end": of_whole(queue_size=10**12),
    "width without end": of_whole(projection_size=10**9),
    "deep": lambda at: (at / "pretraining" / "config.json").write_bytes(DEEP),
    "pickle as config": lambda at: (at / "pretraining" / "config.json").write_bytes(EVIL),
    "device as config": lambda at: device("config.json")(at / "pretraining"),
}


@pytest.mark.parametrize("name", some_fast(*WHOLES))
def test_a_hostile_whole_model_runs_nothing_asks_nobody_and_costs_one_line(name, whole, tmp_path, seen, capfd):
    seen.counts.zero_()
    hostile = tmp_path / "whole"
    shutil.copytree(whole, hostile)
    WHOLES[name](hostile)

    def load():
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        return run_downstream(lambda: print(load_saved(str(hostile))))

    with forked(load, {}) as children:
        (code,) = ends_of(children, 30)
    said = capfd.readouterr().err
    assert code == (0 if name in HARMLESS else ExitCode.ARGUMENTS), said
    assert "Traceback" not in said
    assert sum("cannot load the whole model" in line for line in said.splitlines()) == (name not in HARMLESS)
    requests.append(int(seen.counts[0]))
    assert seen.counts[0] == 0
    survived.append(name)


def test_a_processor_that_leaves_its_type_to_the_configuration_asks_nobody(encoder, tmp_path, seen):
    seen.counts.zero_()
    hostile = shutil.copytree(encoder, tmp_path / "encoder")
    ENCODERS["backbone that is looked up"](hostile)
    (hostile / "preprocessor_config.json").write_text("{}")
    with pytest.raises(UserError, match="would have to be fetched: backbone=evil/model"):
        input_of(str(hostile))
    assert seen.counts[0] == 0


PROCESSORS = [{"image_mean": 3}, {"image_mean": [0.5, 0.5]}, {"image_std": [0.0, 1.0, 1.0]}, {"image_std": ["x"] * 3},
              {"image_mean": [float("nan")] * 3}, {"crop_size": {"height": 10**9, "width": 10**9}},
              {"crop_size": {"height": "x", "width": "x"}}, {"crop_size": [[]], "size": [1, 2]}]  # fmt: skip


@pytest.mark.parametrize("said", [*PROCESSORS, "deep"])
def test_a_hostile_image_processor_costs_one_line(said, encoder, tmp_path):
    hostile = shutil.copytree(encoder, tmp_path / "encoder")
    file = hostile / "preprocessor_config.json"
    assert input_of(str(hostile))["size"] == 8
    file.write_bytes(DEEP) if said == "deep" else file.write_text(json.dumps(json.loads(file.read_text()) | said))
    with pytest.raises(UserError, match="cannot read the image processor"):
        input_of(str(hostile))


@pytest.mark.parametrize("said", ['{"seed": null}', f'{{"seed": {10**30}}}', '{"seed": [1]}', '{"seed": -1}', DEEP])
def test_hostile_arguments_of_a_run_cost_one_line(said, encoder, tmp_path):
    hostile = shutil.copytree(encoder, tmp_path / "encoder")
    (hostile / "training_args.json").write_bytes(said if isinstance(said, bytes) else said.encode())
    with pytest.raises(UserError, match="does not say which seed"):
        data_of(str(hostile), parse_arguments([], ""))


def test_a_row_made_in_code_asks_nobody_either(seen):
    seen.counts.zero_()
    with pytest.raises(UserError, match="would have to be fetched: backbone=evil"):
        SDMIConfig(encoder_config={"model_type": "rf_detr", "backbone": "evil"})
    assert seen.counts[0] == 0


def test_a_token_is_nowhere_in_what_a_run_writes_or_says(flat, tmp_path, monkeypatch, capfd):
    token = "hf_canaryCanaryCanaryCanaryCanary"
    monkeypatch.setenv("HF_TOKEN", token)
    assert train("jmi", tmp_path, *images_of(flat), *STEPS, "--push_to_hub", "--hub_model_id", "me/x") == 0
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert not any(token.encode() in path.read_bytes() for path in files)
    assert token not in "".join(capfd.readouterr())


def test_so_many_were_tried(figure, seen):
    if len(survived) < len(CHECKPOINTS | IGNORED) + len(ENCODERS) + len(WHOLES):
        pytest.skip("not all were asked for")
    assert len(survived) >= 50
    assert len(CHECKPOINTS) >= 20
    assert len(ENCODERS) >= 30
    assert len(WHOLES) >= 20
    figure("code run by hostile files", f"{sum(ran)} of {len(survived)}")
    figure("requests caused by data or configuration", sum(requests))
