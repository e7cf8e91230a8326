"""Publishing a run over HTTP: what arrives, and that strangers load it by name."""

import json
import re
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import HfApi

from hf_mi_ssl.encoders import load_encoder
from hf_mi_ssl.errors import UserError
from hf_mi_ssl.hub import Publisher, check_hub, push
from hf_mi_ssl.training import data_of, parse_arguments
from tests.conftest import small_model
from tests.hub_places import ENCODER, PUSHED, RECIPE, Ran, local, recipe, revisions
from tests.hub_server import Fault
from tests.runs import FAST, assert_same_run, data, run


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
