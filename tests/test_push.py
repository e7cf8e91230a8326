"""Publishing a run over HTTP: what arrives, that strangers load it by name, and what each fault costs."""

import io
import json
import multiprocessing
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import psutil
import pytest
import torch
from huggingface_hub import HfApi
from safetensors import SafetensorError
from transformers import AutoModel

from hf_mi_ssl.encoders import load_encoder
from hf_mi_ssl.errors import ExitCode, UserError
from hf_mi_ssl.hub import Publisher, check_hub, export_encoder, export_pretraining, push
from hf_mi_ssl.hub.push import push_revisions
from hf_mi_ssl.training import data_of, parse_arguments
from hf_mi_ssl.views import view_recipes
from tests.conftest import small_model
from tests.hub_server import ELSEWHERE, Fault, Handler, HubServer, hub
from tests.test_card import RESULTS
from tests.test_recipes import FAST, assert_same_run, data, run

ROOT = Path(__file__).resolve().parent.parent
RECIPE = view_recipes("moco", 16)[0]
PUSHED = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json", "training_args.json",
          "metrics.jsonl", "results.json", "pretraining/config.json", "pretraining/model.safetensors",
          "figures/training.png"}  # fmt: skip
ENCODER = {"config.json", "model.safetensors", "preprocessor_config.json"}


def export(model, directory):
    export_encoder(model.encoder, directory, image_size=16, mean=RECIPE.mean, std=RECIPE.std)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> Path:
    """What a run leaves, with what must not be pushed beside it."""
    directory = tmp_path_factory.mktemp("runs") / "jmi"
    model = small_model("jmi")
    export(model, directory)
    export_pretraining(model, directory)
    arguments = {"method": "jmi", "learning_rate": 0.005, "output_dir": str(directory), "data_dir": "/home/me/photos",
                 "init_from": "/home/me/encoder", "imported": []}  # fmt: skip
    measured = RESULTS | {"row": model.config.facts}
    contents = {"training_args.json": json.dumps(arguments), "results.json": json.dumps(measured),
                "README.md": "# run", "metrics.jsonl": '{"step": 1}\n', "figures/training.png": "picture",
                "log.txt": "private", "checkpoints/checkpoint-1/model.safetensors": "weights",
                "optimizer.pt": "pickle"}  # fmt: skip
    for name, text in contents.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    return directory


@pytest.fixture
def run_dir(finished_run, tmp_path) -> Path:
    return shutil.copytree(finished_run, tmp_path / "run")


@pytest.fixture
def server():
    with HubServer() as server:
        yield server


class OnePlace:
    """A Hub with one repository of the test."""

    def __init__(self, place):
        self.api, self.url, self.token = place.api, place.url, place.token
        self.repo_id = place.name("push")
        self.files, self.read = (partial(method, self.repo_id) for method in (place.files, place.read))


@pytest.fixture
def place(request, tmp_path, monkeypatch):
    """A Hub, a repository, and the environment of those who push to it. Faults are for ours alone."""
    faulty = "server" in request.fixturenames
    if ELSEWHERE and faulty:
        pytest.skip("faults are injected into our own server only")
    with hub(tmp_path / "hf_home", request.getfixturevalue("server") if faulty else None) as place:
        if not ELSEWHERE:
            (tmp_path / "site").mkdir()  # children do not wait between their attempts
            (tmp_path / "site" / "sitecustomize.py").write_text("import time\ntime.sleep = lambda seconds: None\n")
            monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}:{ROOT}")
        yield OnePlace(place)


@pytest.fixture
def at_home(place, monkeypatch):
    """This process asks that Hub too, and does not wait between its attempts."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", place.url)
    template = place.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.setattr("transformers.utils.hub._hf_api", None)


def local(directory) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


# What arrives


def test_what_is_pushed_is_the_run_without_checkpoints_pickles_and_places(run_dir, place):
    before = local(run_dir)
    assert "pushed 10 of 10 files" in push(run_dir, place.repo_id)
    assert place.files() == PUSHED
    for path in PUSHED - {"training_args.json", "results.json"}:
        assert place.read(path) == before[path], path
    assert json.loads(place.read("results.json")) == json.loads(before["results.json"])
    assert json.loads(place.read("training_args.json")) == {
        "method": "jmi",
        "learning_rate": 0.005,
        "init_from": "encoder",
    }
    assert {Path(path).suffix for path in place.files()} == {".md", ".json", ".jsonl", ".safetensors", ".png"}
    assert local(run_dir) == before


def test_what_is_there_is_not_sent_again_and_what_changed_is(run_dir, place, server):
    push(run_dir, place.repo_id)
    assert len(server.requests("POST .*/commit/")) == 1
    assert len(server.requests("PUT ")) == 3
    assert "has all 10 files already" in push(run_dir, place.repo_id)
    assert len(server.requests("POST .*/commit/")) == 1
    (run_dir / "metrics.jsonl").write_text('{"step": 2}\n')
    assert "pushed 1 of 10 files" in push(run_dir, place.repo_id)
    assert len(server.requests("POST .*/commit/")) == 2
    assert len(server.requests("PUT ")) == 3
    assert place.read("metrics.jsonl") == b'{"step": 2}\n'


STRANGER = """
import sys, torch
from transformers import AutoImageProcessor, AutoModel
for revision in sys.argv[2:]:
    where = {"pretrained_model_name_or_path": sys.argv[1], "revision": revision}
    encoder, report = AutoModel.from_pretrained(**where, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert AutoImageProcessor.from_pretrained(**where).crop_size["height"] == 16
    print(encoder(torch.ones(1, 3, 16, 16)).pooler_output.double().sum().item())
assert "hf_mi_ssl" not in sys.modules
"""


def of(directory) -> float:
    with torch.no_grad():
        return AutoModel.from_pretrained(directory)(torch.ones(1, 3, 16, 16)).pooler_output.double().sum().item()


def test_strangers_load_encoder_and_revision_by_name(run_dir, place, tmp_path):
    export(small_model("jmi", seed=1), tmp_path / "epoch-010")
    push(run_dir, place.repo_id)
    push(tmp_path / "epoch-010", place.repo_id, revision="epoch-010")
    command = [sys.executable, "-P", "-c", STRANGER, place.repo_id, "main", "epoch-010"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    expected = [of(run_dir), of(tmp_path / "epoch-010")]
    assert [float(line) for line in done.stdout.split()] == pytest.approx(expected, abs=1e-5), done.stderr
    assert expected[0] != pytest.approx(expected[1], abs=1e-5)
    assert place.files() == PUSHED  # main is as it was
    assert place.files("epoch-010") == ENCODER  # and the revision holds nothing of main


def test_a_private_repository_needs_the_token_and_a_public_one_is_not_taken_for_it(run_dir, place):
    push(run_dir, place.repo_id, private=True)
    assert place.api.repo_info(place.repo_id).private
    with pytest.raises(huggingface_hub.errors.RepositoryNotFoundError):
        HfApi(place.url).repo_info(place.repo_id, token=False)
    place.api.delete_repo(place.repo_id)
    place.api.create_repo(place.repo_id)
    with pytest.raises(UserError, match="exists and is public"):
        push(run_dir, place.repo_id, private=True)
    assert place.files() == set()


# Faults: each costs one line and nothing else, and a second push finishes


FAULTS = [
    (Fault("POST /api/repos/create", 401), "answered 401 .*hf auth login"),
    (Fault("/api/", 403), "answered 403 .*the right to write"),
    (Fault("/commit/", 403), "answered 403 .*the right to write"),
    (Fault("GET /api/models", 404), "answered 404 .*check --hub_model_id"),
    (Fault("/commit/", 409), "answered 409 .*meanwhile: try again"),
    (Fault("/commit/", 413), "answered 413 .*size"),
    (Fault("/commit/", 429), "answered 429 .*wait a few minutes"),
    (Fault("/commit/", 500), "answered 500 .*try again later"),
    (Fault("POST /api/repos/create", 503), "answered 503 .*try again later"),
    (Fault("/preupload/", 500), "answered 500 .*try again later"),
    (Fault("/lfs/objects/batch", 500), "answered 500 .*try again later"),
    (Fault("PUT /large", 500), "answered 500 .*try again later"),
    (Fault("PUT /large", "cut"), "the connection broke to .*check the network"),
    (Fault("POST .*/verify", 500), "answered 500 .*try again later"),
    (Fault("/commit/", "cut"), "the connection broke to .*check the network"),
    (Fault("/commit/", "hang"), "no end of the push .*try again"),
    (Fault("POST /api/repos/create", "hang"), "no end of the push .*try again"),
]


@pytest.mark.parametrize(("fault", "said"), FAULTS, ids=lambda value: str(getattr(value, "kind", "")))
def test_a_fault_costs_one_line_and_the_second_push_finishes(fault, said, run_dir, place, server, capfd):
    before = local(run_dir)
    server.faults = [Fault(fault.match, fault.kind)]
    began = time.monotonic()
    with pytest.raises(UserError, match=said) as raised:
        push(run_dir, place.repo_id, deadline=2 if fault.kind == "hang" else None)
    assert time.monotonic() - began < 30
    assert raised.value.exit_code == ExitCode.NOT_PUSHED
    assert "\n" not in str(raised.value)
    assert local(run_dir) == before
    for repo in server.repos:
        assert set(server.content(repo)) == {".gitattributes"}  # all or nothing
    sent = set(server.large)
    server.faults, server.log = [], []
    assert "pushed 10 of 10 files" in push(run_dir, place.repo_id)
    assert place.files() == PUSHED
    again = {line.rsplit("/", 1)[1] for line, _ in server.requests("PUT /large")}
    assert not sent & again
    printed = capfd.readouterr()
    assert place.token not in str(raised.value) + printed.out + printed.err


@pytest.mark.parametrize("kind", [500, 429, "cut", "slow"])
def test_a_fault_that_passes_is_not_even_noticed(kind, run_dir, place, server):
    server.faults = [Fault("PUT /large", kind, times=1)]
    assert "pushed 10 of 10 files" in push(run_dir, place.repo_id)
    assert place.files() == PUSHED


def test_a_commit_whose_answer_is_lost_is_not_made_twice(run_dir, place, server):
    server.faults = [Fault("/commit/", "short", times=1)]
    with pytest.raises(UserError, match="the connection broke"):
        push(run_dir, place.repo_id)
    assert "has all 10 files already" in push(run_dir, place.repo_id)
    assert len(server.requests("POST .*/commit/")) == 1


def test_what_arrives_otherwise_than_it_was_sent_is_noticed(run_dir, place, server, monkeypatch):
    entry = Handler.entry

    def wrong(self, path, content):
        return entry(self, path, content) | ({"oid": "0" * 40} if path == "results.json" else {})

    with monkeypatch.context() as patch:
        patch.setattr(Handler, "entry", wrong)
        with pytest.raises(UserError, match="differs from what was sent: results.json; try again"):
            push(run_dir, place.repo_id)
    push(run_dir, place.repo_id)


def test_without_a_network_it_says_so(run_dir, place, server, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(UserError, match="no connection to http://127.0.0.1:9 .*check the network"):
            push(run_dir, place.repo_id)
    push(run_dir, place.repo_id)


def test_a_file_that_cannot_be_read_is_named(run_dir, place, server):
    weights = (run_dir / "model.safetensors").read_bytes()
    (run_dir / "model.safetensors").unlink()
    (run_dir / "model.safetensors").symlink_to("/proc/self/mem")  # reading it is an error of the disk
    with pytest.raises(UserError, match="Input/output error"):
        push(run_dir, place.repo_id)
    (run_dir / "model.safetensors").unlink()
    (run_dir / "model.safetensors").write_bytes(weights)
    push(run_dir, place.repo_id)


def test_a_damaged_download_is_said_and_the_next_try_loads(run_dir, place, server, at_home):
    push(run_dir, place.repo_id)
    expected = load_encoder(run_dir).state_dict()
    for kind, said in (
        (500, "500 Internal"),
        ("cut", "disconnected"),
        ("short", "peer closed"),
        ("corrupt", "arrived damaged"),
    ):
        server.faults = [Fault("GET /large", kind)]
        with pytest.raises(UserError, match=said) as raised:
            load_encoder(place.repo_id)
        assert "\n" not in str(raised.value)
        server.faults = []
        found = load_encoder(place.repo_id).state_dict()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        shutil.rmtree(Path(os.environ["HF_HOME"]) / "hub")


def test_a_full_disk_while_loading_is_said_and_the_next_try_loads(run_dir, place, at_home, monkeypatch):
    def full(*arguments, **settings):
        raise OSError(28, "No space left on device")

    push(run_dir, place.repo_id)
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.file_download.http_get", full)
        with pytest.raises(UserError, match="No space left on device") as raised:
            load_encoder(place.repo_id)
    assert "\n" not in str(raised.value)
    expected, found = (load_encoder(name).state_dict() for name in (run_dir, place.repo_id))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_what_a_run_on_the_hub_held_out_stays_held_out(run_dir, place, at_home):
    args = parse_arguments(["--seed", "0"], "")
    push(run_dir, place.repo_id)
    assert data_of(place.repo_id, args) == args.data_arguments()  # it does not say with which seed
    (run_dir / "training_args.json").write_text(json.dumps({"seed": 7}))
    push(run_dir, place.repo_id)
    for name in (place.repo_id, str(run_dir)):
        assert data_of(name, args) == args.data_arguments() | {"seed": 7}
    (run_dir / "training_args.json").write_text("[]")
    with pytest.raises(UserError, match="does not say which seed"):
        data_of(str(run_dir), args)


def test_where_the_hub_does_not_say_what_a_run_held_out_a_line_does(run_dir, place, at_home, monkeypatch, caplog):
    args = parse_arguments(["--seed", "4"], "")
    (run_dir / "training_args.json").write_text(json.dumps({"seed": 7}))
    push(run_dir, place.repo_id)
    load_encoder(place.repo_id)
    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        assert data_of(place.repo_id, args)["seed"] == 4
        (said,) = caplog.messages
        assert f"whether {place.repo_id} held images out cannot be told" in said
        assert "--seed 4" in said
    assert data_of(place.repo_id, args)["seed"] == 7
    with monkeypatch.context() as patch:  # from there on, it is known
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        assert data_of(place.repo_id, args)["seed"] == 7
    assert len(caplog.messages) == 1


# Before anything is trained


@pytest.mark.parametrize(
    ("repo_id", "said"),
    [(None, "--hub_model_id is missing"), ("photos", "must be OWNER/NAME"), ("a/b/c", "'a/b/c'"),
     ("me/pho tos", "alphanumeric"), ("me/x..y", "'me/x..y'"), ("../../etc", "--hub_model_id")],
)  # fmt: skip
def test_an_id_that_cannot_be_is_refused_at_once(repo_id, said, place):
    with pytest.raises(UserError, match=re.escape(said)) as raised:
        check_hub(repo_id)
    assert raised.value.exit_code == 2


def test_a_missing_token_is_said_before_training(place, flat, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    argv = [*data(flat), *FAST, "--push_to_hub", "--hub_model_id", place.repo_id]
    for more, said in (([], "hf auth login"), (["--hub_model_id", "photos"], "must be OWNER/NAME")):
        assert run("jmi", tmp_path / "run", *argv, *more) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if "pretrain_jmi.py" in line]
        assert len(lines) == 1
        assert said in lines[0]
    assert run("jmi", tmp_path / "run", *data(flat), *FAST, "--hub_revision_epochs", 1) == 2
    assert "needs --push_to_hub" in capsys.readouterr().err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    with monkeypatch.context() as patch, pytest.raises(UserError, match="HF_HUB_OFFLINE"):
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        check_hub(place.repo_id)


# A run that publishes itself


def revisions(place) -> set[str]:
    return {branch.name for branch in place.api.list_repo_refs(place.repo_id).branches} - {"main"}


def test_a_run_pushes_its_revisions_and_itself_and_computes_what_it_would_have_computed(place, flat, tmp_path):
    arguments = [*data(flat), *FAST, "--num_train_epochs", 4]
    published = ["--push_to_hub", "--hub_model_id", place.repo_id, "--hub_revision_epochs", 2]
    assert run("jmi", tmp_path / "run", *arguments, *published) == 0
    assert run("jmi", tmp_path / "plain", *arguments) == 0
    assert_same_run(tmp_path / "run", tmp_path / "plain")
    assert not list((tmp_path / "run" / "revisions").iterdir())
    assert revisions(place) == {"epoch-002", "epoch-004"}
    assert place.files("epoch-002") == ENCODER
    weights = place.read("model.safetensors")
    assert place.read("model.safetensors", "epoch-004") == weights == local(tmp_path / "run")["model.safetensors"]
    assert place.read("model.safetensors", "epoch-002") != weights
    assert f'from_pretrained("{place.repo_id}"' in place.read("README.md").decode()
    assert place.read("README.md") == local(tmp_path / "run")["README.md"]
    assert {
        path for path in local(tmp_path / "run") if not path.startswith(("checkpoints/", ".lock"))
    } == place.files()


def recipe(*argv) -> SimpleNamespace:
    """The recipe in this process, as the shell sees it."""
    out, err = io.StringIO(), io.StringIO()
    path = str(ROOT / "recipes" / "push_to_hub.py")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", [path, *map(str, argv)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(path, run_name="__main__")
    return SimpleNamespace(returncode=ended.value.code, stdout=out.getvalue(), stderr=err.getvalue())


def test_a_run_whose_pushes_fail_ends_well_and_the_recipe_finishes_them(place, server, flat, tmp_path, caplog, capfd):
    server.faults = [Fault("/commit/", 500)]
    argv = ["--push_to_hub", "--hub_model_id", place.repo_id, "--hub_private_repo", "--hub_revision_epochs", 1]
    assert run("jmi", tmp_path, *data(flat), *FAST, "--mi_steps", 0, *argv) == 0
    assert (tmp_path / "results.json").exists()
    said = f"python recipes/push_to_hub.py {tmp_path} --hub_model_id {place.repo_id} --hub_private_repo"
    warnings = [message for message in caplog.messages if "not pushed" in message]
    assert all("answered 500" in message and said in message for message in warnings)
    assert len(warnings) >= 2  # of a revision, and at the end
    assert {path.name for path in (tmp_path / "revisions").iterdir()} == {"epoch-001", "epoch-002"}

    done = recipe(tmp_path)  # it was told where
    assert done.returncode == ExitCode.NOT_PUSHED
    assert done.stdout == ""
    assert done.stderr.startswith("push_to_hub.py: ")
    assert done.stderr.count("\n") == 1
    arrived = set(server.large)
    assert arrived
    server.faults, server.log = [], []
    done = recipe(tmp_path)
    assert done.returncode == 0, done.stderr
    assert revisions(place) == {"epoch-001", "epoch-002"}
    assert len(server.requests("POST .*/commit/")) == 3
    assert not arrived & {line.rsplit("/", 1)[1] for line, _ in server.requests("PUT ")}
    assert place.api.repo_info(place.repo_id).private
    printed = capfd.readouterr()
    assert place.token not in printed.out + printed.err + done.stdout + done.stderr + caplog.text
    assert all(place.token.encode() not in content for content in local(tmp_path).values())


def test_a_card_names_the_repository_that_it_is_pushed_to_and_the_one_here_stays(run_dir, place):
    before = local(run_dir)
    done = recipe(run_dir, "--hub_model_id", place.repo_id)
    assert done.returncode == 0, done.stderr
    card = place.read("README.md").decode()
    assert f'AutoModel.from_pretrained("{place.repo_id}"' in card
    assert "log mean_{i≠j} exp T(a_i, b_j)" in card.replace("\\", "")
    assert local(run_dir) == before


@pytest.mark.parametrize(("missing", "said"), [("results.json", "no finished run"), ("config.json", "no encoder")])
def test_what_is_no_finished_run_is_not_pushed(missing, said, run_dir, place):
    (run_dir / missing).unlink()
    done = recipe(run_dir, "--hub_model_id", place.repo_id)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


class Ran:
    """The arguments of a run that is being published."""

    def __init__(self, output_dir, repo_id):
        self.output_dir, self.hub_model_id, self.image_size = str(output_dir), repo_id, 16
        self.push_to_hub, self.hub_private_repo, self.hub_revision_epochs = True, False, 1


def test_a_full_disk_costs_a_revision_and_not_the_run(run_dir, place, monkeypatch, caplog):
    def full(*arguments, **settings):
        raise OSError(28, "No space left on device")

    model = small_model("jmi")
    with monkeypatch.context() as patch:
        publisher = Publisher(Ran(run_dir, place.repo_id), True)
        patch.setattr(model.encoder, "save_pretrained", full)
        publisher.revise("epoch-001", model.encoder, RECIPE)
    assert "epoch-001 is not published: [Errno 28] No space left on device" in caplog.text
    publisher.revise("epoch-002", model.encoder, RECIPE)
    publisher.finish()
    assert revisions(place) == {"epoch-002"}
    assert place.files() == PUSHED


def test_revisions_are_pushed_while_training_goes_on(run_dir, place, server):
    server.faults = [Fault("/commit/epoch-001", "slow")]
    publisher, model = Publisher(Ran(run_dir, place.repo_id), True), small_model("jmi")
    publisher.revise("epoch-001", model.encoder, RECIPE)
    assert place.repo_id not in server.repos  # it did not wait
    publisher.revise("epoch-002", model.encoder, RECIPE)
    publisher.finish()
    assert revisions(place) == {"epoch-001", "epoch-002"}
    assert len(server.requests("POST .*/commit/")) == 3
    other = Publisher(Ran(run_dir, place.repo_id), False)  # of another process
    other.revise("epoch-003", model.encoder, RECIPE)
    other.finish()
    assert not list((run_dir / "revisions").iterdir())


def test_the_server_speaks_what_the_client_library_asks(place, run_dir, tmp_path):
    push(run_dir, place.repo_id)
    assert place.repo_id.startswith(place.api.whoami()["name"] + "/")
    place.api.create_tag(place.repo_id, tag="v1")
    (run_dir / "metrics.jsonl").write_text("")
    push(run_dir, place.repo_id)
    assert place.read("metrics.jsonl", "v1") == b'{"step": 1}\n'
    folder = Path(place.api.snapshot_download(place.repo_id, local_dir=tmp_path / "snapshot"))
    assert (folder / "figures" / "training.png").read_bytes() == b"picture"
    figures = place.api.list_repo_tree(place.repo_id, "figures")
    assert [file.path for file in figures] == ["figures/training.png"]


def test_what_is_withdrawn_here_is_withdrawn_there(run_dir, place):
    push(run_dir, place.repo_id)
    place.api.upload_file(path_or_fileobj=b"kept", path_in_repo="notes.txt", repo_id=place.repo_id)
    (run_dir / "figures" / "training.png").unlink()
    push(run_dir, place.repo_id)
    assert place.files() == PUSHED - {"figures/training.png"} | {"notes.txt"}


def test_paths_stay_here_however_they_are_written(run_dir, place):
    places = {"init_from": "../secret/encoder", "set": {"a": "~/secret/x"}, "views": ["/secret/x"]}
    arguments = json.loads((run_dir / "training_args.json").read_text()) | places
    (run_dir / "training_args.json").write_text(json.dumps(arguments))
    (run_dir / "linear_probe.json").write_text(json.dumps({"dataset": "/home/me/secret/scans", "evaluations": []}))
    push(run_dir, place.repo_id)
    for name in ("training_args.json", "linear_probe.json"):
        assert "secret" not in place.read(name).decode()


def _arguments(directory, place) -> SimpleNamespace:
    return SimpleNamespace(
        push_to_hub=True, hub_model_id=place.repo_id, hub_private_repo=False, hub_revision_epochs=1,
        output_dir=str(directory), image_size=16,
    )  # fmt: skip


def test_what_safetensors_says_of_a_full_disk_costs_a_revision_only(tmp_path, place, monkeypatch, caplog):
    def full(*args, **kwargs):  # what safetensors raises then is no OSError
        raise SafetensorError("No space left on device (os error 28)")

    encoder = small_model("jmi").encoder
    monkeypatch.setattr(encoder, "save_pretrained", full)
    Publisher(_arguments(tmp_path, place), True).revise("epoch-001", encoder, RECIPE)
    assert "epoch-001 is not published" in caplog.text


def training(run_dir, repo_id):
    """A run that pushes a revision beside its training, as `Publisher` does, and trains on."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell starts in the background
    threading.Thread(target=push_revisions, args=[run_dir, repo_id], daemon=True).start()
    threading.Event().wait(60)


@pytest.mark.parametrize("ended", [signal.SIGINT, signal.SIGKILL])
def test_the_push_of_a_run_that_is_interrupted_ends_with_it_and_goes_on_later(ended, tmp_path, place, server):
    export(small_model("jmi"), tmp_path / "revisions" / "epoch-001")
    server.faults = [Fault("/commit/", "hang")]
    run = multiprocessing.get_context("fork").Process(target=training, args=[tmp_path, place.repo_id])
    run.start()
    while not server.requests("/commit/"):
        time.sleep(0.05)
        assert run.is_alive()
    (child,) = psutil.Process(run.pid).children()
    os.kill(run.pid, ended)
    run.join(10)
    assert run.exitcode is not None
    assert psutil.wait_procs([child], timeout=5)[1] == []  # none is alive
    server.faults, server.log = [], []
    (said,) = push_revisions(tmp_path, place.repo_id)
    assert "pushed 3 of 3 files" in said
    assert place.files("epoch-001") == ENCODER
    assert not server.requests("PUT ")  # the weights had arrived
    assert not list((tmp_path / "revisions").iterdir())


def test_ctrl_c_while_a_revision_is_on_its_way_says_how_to_go_on(tmp_path, place, monkeypatch, caplog):
    class Busy:
        def join(self):
            raise KeyboardInterrupt

    publisher = Publisher(_arguments(tmp_path, place), True)
    publisher.thread = Busy()
    publisher.finish()
    assert "not pushed: interrupted" in caplog.text
    assert f"push_to_hub.py {tmp_path} --hub_model_id {place.repo_id}" in caplog.text


def test_an_interrupted_push_says_how_to_go_on(tmp_path, place, monkeypatch, caplog):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setitem(Publisher.finish.__globals__, "publish", interrupted)
    Publisher(_arguments(tmp_path, place), True).finish()
    assert "not pushed: interrupted" in caplog.text
    assert f"push_to_hub.py {tmp_path} --hub_model_id {place.repo_id}" in caplog.text
