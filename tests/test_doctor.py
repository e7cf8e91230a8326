"""`hf-mi-ssl doctor`: each check speaks up where it should, and none at published settings."""

import re
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from torch import nn

from hf_mi_ssl.commands import doctor, trial
from hf_mi_ssl.commands.checks import CHECKS
from hf_mi_ssl.commands.diagnosis import diagnose
from hf_mi_ssl.commands.subject import Subject, size_of
from hf_mi_ssl.mi import MARGINAL_TERMS
from hf_mi_ssl.training import Plan, PretrainingArguments, Updates, parse_arguments
from hf_mi_ssl.views import RandomViews
from tests.conftest import small_model
from tests.shards import write_shards

CONFIGS = sorted((Path(__file__).resolve().parent.parent / "recipes" / "configs").glob("*.yaml"))
IMAGES = {"stl10": 105_000, "cifar10": 50_000, "imagenet": 1_281_167}
SMALL = ["--image_size", "64", "--set", "projector_hidden_size=32", "projection_size=16"]


def level_of(check: str, *flags: str, method: str = "jmi", images: int = 10_000, processes: int = 1) -> str:
    found = diagnose(parse_arguments([*SMALL, *flags], "", method=method), images, processes)
    return next(finding.level for finding in found if finding.check == check)


DESERVED = [
    # check, level, and the flags that deserve it
    ("drop last", "warning", ["--per_device_train_batch_size", "6000"]),
    ("batch norm", "warning", ["--per_device_train_batch_size", "8"]),
    ("batch norm", "error", ["--per_device_train_batch_size", "2"]),
    ("batch norm", "error", ["--set", "batch_norm_group_size=2"]),
    ("batch norm", "warning", ["--contrast_batch_size", "256"]),
    ("queue", "warning", ["--method", "moco_v2", "--set", "queue_size=4096"]),
    ("queue", "error", ["--method", "moco_v2", "--set", "queue_size=20000"]),
    ("queue", "warning", ["--method", "moco_v2", "--set", "queue_size=32"]),
    ("temperature", "warning", ["--set", "temperature=3"]),
    ("temperature", "warning", ["--set", "temperature=0.01"]),
    ("learning rate", "warning", ["--learning_rate", "0.5"]),
    ("learning rate", "warning", ["--optimizer", "lars"]),  # 5e-3 is for adamw
    ("learning rate", "warning", ["--optimizer", "momentum", "--learning_rate", "5"]),
    ("layer groups", "warning", ["--optimizer", "lars", "--learning_rate", "0.1"]),
    ("covariances", "error", ["--method", "w_mse", "--set", "projection_size=128"]),
    ("covariances", "warning", ["--method", "corinfomax", "--set", "projection_size=128"]),
    ("covariances", "warning", ["--method", "barlow_twins", "--set", "projection_size=1024"]),
    ("views", "warning", ["--image_size", "32"]),
    ("views", "warning", ["--local_views", "2", "--local_view_size", "64"]),
    ("collapse", "error", ["--set", "marginal={}"]),
    ("collapse", "warning", ["--set", "marginal={variance: 1}"]),
    ("collapse", "warning", ["--method", "simsiam", "--set", "predictor_schedule=cosine"]),
    ("target", "warning", ["--method", "byol", "--max_train_steps", "300"]),
    ("warm-up", "warning", ["--warmup_epochs", "10"]),
    ("warm-up", "warning", ["--warmup_epochs", "0", "--per_device_train_batch_size", "2048"]),
    ("disk", "error", ["--checkpoints_total_limit", "1000000000"]),
]


@pytest.mark.parametrize(("check", "level", "flags"), DESERVED, ids=lambda value: str(value)[:40])
def test_a_check_speaks_up_where_it_should(check, level, flags):
    assert level_of(check, *flags) == level


def test_every_check_is_among_those_that_were_made_to_speak():
    found = diagnose(parse_arguments(SMALL, "", method="jmi"), 10_000)
    assert {finding.check for finding in found} == {check for check, _, _ in DESERVED} | {"memory"}
    assert len(found) == len(CHECKS) + 1
    assert {finding.level for finding in found} == {"ok"}


def _some_are_slow(config: Path):
    slow = "imagenet" in config.stem and not config.stem.startswith(("barlow", "dino", "moco_v2"))
    return pytest.param(config, id=config.stem, marks=[pytest.mark.slow] * slow)


@pytest.mark.parametrize("config", [_some_are_slow(config) for config in CONFIGS])
def test_no_shipped_configuration_has_an_error(config, capsys):
    processes = int((re.search(r"--num_processes (\d+)", config.read_text()) or [0, 1])[1])
    images = next(n for name, n in IMAGES.items() if name in config.stem)
    flags = [str(config), "--num_images", str(images), "--num_processes", str(processes)]
    assert doctor.main(flags) == 0, capsys.readouterr().out
    assert ", 0 error" in capsys.readouterr().out


def test_one_process_of_eight_has_a_learning_rate_that_is_too_large():
    flags = ["--optimizer", "lars", "--learning_rate", "1.6", "--per_device_train_batch_size", "256"]
    assert level_of("learning rate", *flags) == "warning"
    assert level_of("learning rate", *flags, processes=8) == "ok"


def test_an_optimiser_that_nobody_published_settings_for_is_not_judged():
    assert level_of("learning rate", "--optimizer", "rmsprop", "--learning_rate", "0.9") == "ok"


def test_what_does_not_fit_is_a_finding_and_what_does_not_exist_an_argument(capsys):
    assert doctor.main(["--method", "jmi", "--num_images", "40"]) == 1  # fewer than a batch
    assert "larger than the data set" in capsys.readouterr().out
    assert doctor.main(["--method", "moco_v2", "--num_images", "4000", "--per_device_train_batch_size", "48"]) == 1
    assert "does not divide" in capsys.readouterr().out
    for flags, said in (
        (["--method", "simclrr"], "did you mean 'simclr'?"),
        (["--method", "jmi", "--learning_rte", "1"], "did you mean --learning_rate?"),
        (["--num_images", "100"], "--recipe"),
        (["absent.yaml"], "absent.yaml"),
    ):
        assert doctor.main(flags) == 2
        assert said in capsys.readouterr().err


def test_what_the_optimiser_remembers_is_counted():
    def averages(optimizer: str) -> float:
        args = parse_arguments(["--optimizer", optimizer], "", method="jmi")
        subject = Subject(args, small_model("jmi"), Plan(args, 1000))
        return subject.state_bytes[2] / subject.state_bytes[1]

    assert (averages("adamw"), averages("momentum"), averages("lars")) == (2, 1, 1)


def test_what_a_step_keeps_is_measured_once_for_each_tensor():
    layer = nn.Linear(8, 8, bias=False)
    x = torch.randn(4, 8, requires_grad=True)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    peak = trial._peak(torch.device("cpu"), layer, optimizer, lambda: (layer(x).sum() + layer(x).sum()).backward())
    assert peak == 2 * 8 * 8 * 4 + 4 * 8 * 4  # weight and gradient; x, kept twice and held once


def test_sizes_and_times_are_for_people():
    assert [size_of(n) for n in (12, 1.5e6, 2e12)] == ["12 B", "1.5 MB", "2 TB"]
    assert [trial.duration(s) for s in (90, 600, 10_800, 259_200)] == ["90 s", "10 min", "3 h", "3 days"]


@pytest.mark.parametrize("method", ["sdmi", "jmi"])
def test_ten_steps_tell_memory_speed_and_time(method, flat, tmp_path, capsys):
    flags = ["--method", method, "--dataset_name", "imagefolder", "--data_dir", str(flat), "--image_size", "16",
             "--per_device_train_batch_size", "16", "--dataloader_num_workers", "0", "--output_dir",
             str(tmp_path / "run"), "--set", "projector_hidden_size=32", "projection_size=16"]  # fmt: skip
    try:
        assert doctor.main(flags) == 0
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        PartialState._reset_state()
    said = capsys.readouterr().out
    assert re.search(r"memory +a step needs [\d.]+ MB of [\d.]+ GB, activations included", said)
    assert re.search(r"speed +[\d,]+ images per second \([\d,]+ to [\d,]+\)", said)
    assert f"--num_cpu_threads_per_process {torch.get_num_threads()} gives a run as many" in " ".join(said.split())
    (text,) = re.findall(r"time +[\d.]+ \w+ \([\d.]+ \w+ to [\d.]+ \w+\) (.*)", said, re.DOTALL)
    assert re.match(r"for 140 steps and 21 evaluations of [\d.]+ s, without", " ".join(text.split()))
    assert not (tmp_path / "run").exists()  # nothing is written


def small_run(method: str, *flags) -> PretrainingArguments:
    own = ["--method", method, "--image_size", "16", "--per_device_train_batch_size", "8",
           "--dataloader_num_workers", "0"]  # fmt: skip
    heads = ["--set", "projector_hidden_size=32", "projection_size=16"]
    return parse_arguments([*own, *map(str, flags), *([] if "--set" in flags else heads)], "", method=method)


def test_of_a_stream_the_number_of_images_need_not_be_known(tmp_path):
    pattern = write_shards(tmp_path / "tar", "tar", (40, 40))
    stream = ["--streaming", "--dataset_name", "webdataset", "--data_files", f"train={pattern}"]
    columns = ["queue_size=16", "batch_norm_group_size=8", "projector_hidden_size=32", "projection_size=16"]
    found = diagnose(small_run("moco_v2", *stream, "--max_train_steps", 9, "--set", *columns), trial=False)
    said = {finding.check: finding.text for finding in found}
    assert said["drop last"] == "a stream leaves none out"
    assert said["queue"].startswith("16 embeddings are 2 batches")


def test_the_steps_are_those_of_the_run(flat, monkeypatch):
    checkpointed, made, judged = [], [], []
    monkeypatch.setattr(trial, "checkpoint_activations", checkpointed.append)
    monkeypatch.setattr(trial, "RandomViews", lambda *given: made.append(given) or RandomViews(*given))
    monkeypatch.setattr(trial, "Updates", lambda *given: judged.append(given) or Updates(*given))
    flags = ["--gradient_checkpointing", "--max_grad_norm", 1.5, "--views_batch_size", 4]
    diagnose(small_run("jmi", "--dataset_name", "imagefolder", "--data_dir", flat, *flags))
    assert len(checkpointed) == 1
    assert made[0][-1] == 4
    assert judged[0][-1] == 1.5


def test_what_a_term_of_ones_own_keeps_apart_the_doctor_does_not_know(monkeypatch):
    def own(p):
        """M = mean"""

    own.__module__ = "my_method"
    monkeypatch.setitem(MARGINAL_TERMS, "own", own)
    found = diagnose(parse_arguments([*SMALL, "--set", "marginal={own: 1}"], "", method="jmi"), 10_000)
    assert "whether own keeps embeddings apart, its author knows" in [finding.text for finding in found]
