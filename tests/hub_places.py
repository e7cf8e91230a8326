"""A Hub of our own, a repository in it, and a finished run to push there: fixtures for the tests of publishing."""

import io
import json
import runpy
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest

from hf_mi_ssl.hub import export_encoder, export_pretraining
from hf_mi_ssl.views import view_recipes
from tests.hub_server import ELSEWHERE, HubServer, hub

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
    from tests.card_runs import RESULTS
    from tests.conftest import small_model

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


def revisions(place) -> set[str]:
    return {branch.name for branch in place.api.list_repo_refs(place.repo_id).branches} - {"main"}


def recipe(*argv) -> SimpleNamespace:
    """The recipe in this process, as the shell sees it."""
    out, err = io.StringIO(), io.StringIO()
    path = str(ROOT / "recipes" / "push_to_hub.py")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", [path, *map(str, argv)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(path, run_name="__main__")
    return SimpleNamespace(returncode=ended.value.code, stdout=out.getvalue(), stderr=err.getvalue())


class Ran:
    """The arguments of a run that is being published."""

    def __init__(self, output_dir, repo_id):
        self.output_dir, self.hub_model_id, self.image_size = str(output_dir), repo_id, 16
        self.push_to_hub, self.hub_private_repo, self.hub_revision_epochs = True, False, 1
