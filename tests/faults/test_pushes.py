"""A push that fails costs one line and nothing else, and a second one finishes it."""

import multiprocessing
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors import SafetensorError

from hf_mi_ssl.encoders import load_encoder
from hf_mi_ssl.errors import ExitCode, UserError
from hf_mi_ssl.hub import Publisher, push
from hf_mi_ssl.hub.push import push_revisions
from tests.conftest import small_model
from tests.hub_places import ENCODER, PUSHED, RECIPE, Ran, export, local, recipe, revisions
from tests.hub_server import Fault, Handler
from tests.runs import FAST, data, run

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
def test_a_fault_costs_one_line_and_the_second_push_finishes(fault, said, run_dir, place, server, capfd, figure):
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
    figure("push faults: one line, the next push finishes", f"{fault.match} {fault.kind}")


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


def test_a_file_that_cannot_be_read_is_named(run_dir, place, server, monkeypatch):
    weights = (run_dir / "model.safetensors").read_bytes()
    (run_dir / "model.safetensors").unlink()
    (run_dir / "model.safetensors").symlink_to("/proc/self/mem")  # reading it is an error of the disk
    with monkeypatch.context() as patch:
        patch.setattr(Path, "is_relative_to", lambda self, other: True)
        with pytest.raises(UserError, match="Input/output error"):
            push(run_dir, place.repo_id)
    (run_dir / "model.safetensors").unlink()
    (run_dir / "model.safetensors").write_bytes(weights)
    push(run_dir, place.repo_id)


@pytest.mark.parametrize("name", ["README.md", "figures/training.png", "pretraining"])
def test_a_link_out_of_the_run_is_not_pushed(name, run_dir, place, server, tmp_path):
    secret = tmp_path / "secret"
    if (run_dir / name).is_dir():
        (run_dir / name).rename(secret)
    else:
        secret.write_text("password")
        (run_dir / name).unlink()
    (run_dir / name).symlink_to(secret)
    with pytest.raises(UserError, match=f"{name}.* is a link to a place outside"):
        push(run_dir, place.repo_id)
    assert not server.requests("POST")


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


def test_what_safetensors_says_of_a_full_disk_costs_a_revision_only(tmp_path, place, monkeypatch, caplog):
    def full(*args, **kwargs):  # what safetensors raises then is no OSError
        raise SafetensorError("No space left on device (os error 28)")

    encoder = small_model("jmi").encoder
    monkeypatch.setattr(encoder, "save_pretrained", full)
    Publisher(Ran(tmp_path, place.repo_id), True).revise("epoch-001", encoder, RECIPE)
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

    publisher = Publisher(Ran(tmp_path, place.repo_id), True)
    publisher.thread = Busy()
    publisher.finish()
    assert "not pushed: interrupted" in caplog.text
    assert f"push_to_hub.py {tmp_path} --hub_model_id {place.repo_id}" in caplog.text


def test_an_interrupted_push_says_how_to_go_on(tmp_path, place, monkeypatch, caplog):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setitem(Publisher.finish.__globals__, "publish", interrupted)
    Publisher(Ran(tmp_path, place.repo_id), True).finish()
    assert "not pushed: interrupted" in caplog.text
    assert f"push_to_hub.py {tmp_path} --hub_model_id {place.repo_id}" in caplog.text
