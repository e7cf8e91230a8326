"""The recipe that judges estimators by known truth, and measures the two views of a model."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import ViTConfig, ViTModel

from hf_mi_ssl.errors import UserError
from hf_mi_ssl.estimators import ESTIMATORS, TASKS, MIEstimate
from hf_mi_ssl.evaluation.measuring import is_fast
from hf_mi_ssl.evaluation.saved import views_of
from hf_mi_ssl.hub import export_encoder, export_pretraining
from tests.conftest import small_model

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "estimate_mi.py"


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("estimate_mi", RECIPE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(recipe, monkeypatch, output, *argv):
    """The rows that it writes."""
    monkeypatch.setattr(sys, "argv", ["estimate_mi.py", *map(str, argv), "--output_dir", str(output)])
    assert recipe.main() == 0
    return json.loads((output / "estimates.json").read_text())["estimates"]


class Spy:
    """I = what the first number of the measured pairs is, and it keeps what it is given."""

    seen = []

    def fit(self, z_a, z_b):
        self.fitted = z_a
        return self

    def estimate(self, z_a, z_b, split="held-out"):
        Spy.seen.append((self.fitted, z_a))
        return MIEstimate(1.5, "lower_bound", 0.1, 1.3, 1.7, 3.0, len(z_a), split, "spy")


def test_tasks_are_compared_with_their_truth(recipe, monkeypatch, tmp_path, capsys):
    names = ["gaussian_2d_1", "noisy_labels"]
    chosen = ["cos_dv_calibrated", "gaussian", "ksg"]
    rows = run(recipe, monkeypatch, tmp_path, "--task", *names, "--estimators", *chosen, "--n", 400, "--seed", 3)
    assert [(row["task"], row["estimator"]) for row in rows] == [(task, name) for task in names for name in chosen]
    for row in rows:
        assert row["truth"] == TASKS[row["task"]].mutual_information()
        if "refused" not in row:
            assert row["error"] == pytest.approx(row["value"] - row["truth"])
    a, b = TASKS["gaussian_2d_1"].sample(400, 3)
    assert rows[1]["value"] == pytest.approx(ESTIMATORS["gaussian"]().estimate(a, b).value)
    assert rows[0]["n"] == 100  # its scale was fitted on the others
    assert rows[1]["ceiling"] is None
    assert "KSG is off" in rows[5]["refused"]
    table = (tmp_path / "estimates.md").read_text()
    assert table in capsys.readouterr().out
    assert "gaussian †" in table
    assert "cos_dv_calibrated †" not in table
    assert (tmp_path / "estimates.png").stat().st_size > 10_000


def test_whatever_fits_is_judged_on_pairs_that_it_has_not_seen(recipe, monkeypatch, tmp_path):
    monkeypatch.setitem(ESTIMATORS, "spy", Spy)
    run(recipe, monkeypatch, tmp_path, "--task", "gaussian_2d_1", "--estimators", "spy", "--n", 64)
    fitted, measured = Spy.seen.pop()
    assert (len(fitted), len(measured)) == (48, 16)
    assert torch.equal(torch.cat([fitted, measured]), TASKS["gaussian_2d_1"].sample(64)[0])


def test_a_bound_above_the_truth_is_named(recipe, monkeypatch, tmp_path):
    monkeypatch.setitem(ESTIMATORS, "spy", Spy)
    run(recipe, monkeypatch, tmp_path, "--task", "gaussian_2d_1", "--estimators", "spy", "--n", 64)
    said = "three standard errors: spy on gaussian_2d_1 (+0.50, standard error 0.10)"
    assert said in (tmp_path / "estimates.md").read_text()


def test_the_fast_estimators_are_those_that_train_no_network(recipe):
    assert {name for name in ESTIMATORS if is_fast(name)} >= {
        "cos_dv",
        "gaussian",
        "ksg",
        "entropy_reconstruction",
    }
    groups = {"fast": ["a"], "all": ["a", "b"]}
    assert recipe.chosen("estimator", ["b", "fast", "b"], groups) == ["b", "a"]
    with pytest.raises(UserError, match="unknown estimator 'gausian'; did you mean 'gaussian'"):
        recipe.chosen("estimator", ["gausian"], {"all": ["gaussian"]})


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run's directory, and that of an encoder alone."""
    run, alone = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("alone")
    model = small_model("sdmi_ema")
    for directory in (run, alone):
        export_encoder(model.encoder, directory, image_size=16, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
    export_pretraining(model, run)
    return run, alone


DATA = [
    "--dataset_name",
    "imagefolder",
    "--image_size",
    16,
    "--dataloader_num_workers",
    0,
    "--estimators",
    "cos_dv",
    "gaussian",
]


def test_a_checkpoint_is_measured_in_every_space_that_it_has(recipe, saved, folder, monkeypatch, tmp_path):
    rows = run(recipe, monkeypatch, tmp_path, "--model", saved[0], "--data_dir", folder, *DATA)
    assert [row["space"] for row in rows[::2]] == ["representations h", "embeddings z", "z, online and target"]
    assert all(row["n"] == 32 and row["split"] == "test" for row in rows[::2])
    assert all("error" not in row for row in rows)
    assert (tmp_path / "estimates.png").stat().st_size > 10_000
    table = (tmp_path / "estimates.md").read_text()
    assert "representations h" in table
    alone = run(recipe, monkeypatch, tmp_path / "alone", "--model", saved[1], "--data_dir", folder, *DATA)
    assert [row["space"] for row in alone] == ["representations h"] * 2
    assert alone[0]["value"] == rows[0]["value"]  # one encoder, the same views of the same images


def test_views_are_normalised_as_the_encoder_was_trained(saved):
    assert views_of(str(saved[1]), "simclr", 16)[1].mean == (0.5, 0.4, 0.3)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--task", "gausian_2d_1"], "did you mean 'gaussian_2d_1'"),
        (["--task", "all", "--n", 8], "too few pairs"),
        (["--task", "all", "--sead", 8], "--sead"),
        (["--model", "no_such_run"], "no directory 'no_such_run'"),
    ],
)
def test_what_cannot_be_done_costs_one_line(recipe, monkeypatch, tmp_path, argv, said):
    with pytest.raises(UserError, match=said):
        run(recipe, monkeypatch, tmp_path, *argv)


def test_images_of_a_size_that_the_encoder_does_not_take_cost_one_line(recipe, folder, monkeypatch, tmp_path):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    ViTModel(ViTConfig(image_size=32, patch_size=8, **sizes)).save_pretrained(tmp_path / "vit")
    with pytest.raises(UserError, match="no images of 16 pixels: .*; see --image_size"):
        run(recipe, monkeypatch, tmp_path, "--model", tmp_path / "vit", "--data_dir", folder, *DATA)
