"""Recipes that judge an encoder: the same numbers as its run, of any encoder and size, and mistakes in one line."""

import importlib.util
import json
import shutil
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import ViTConfig, ViTImageProcessor, ViTModel

import hf_mi_ssl.data.splits
from hf_mi_ssl.data.splits import held_out
from hf_mi_ssl.encoders import build_encoder, encoder_config
from hf_mi_ssl.errors import UserError
from hf_mi_ssl.evaluation import accuracy_interval, input_of, linear_probe, represent_splits, ridge_probe
from hf_mi_ssl.evaluation.linear_probe import LEARNING_RATES, PENALTIES, _ridge
from hf_mi_ssl.hub import export_encoder
from hf_mi_ssl.training import output_of
from tests import runs
from tests.conftest import small_model

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
LOADS = ["--dataset_name", "imagefolder", "--dataloader_num_workers", "0"]


def recipe(name, *argv) -> int:
    """Run it in this process; returns its exit code."""
    spec = importlib.util.spec_from_file_location(name, RECIPES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    before, sys.argv = sys.argv, [f"{name}.py", *map(str, argv)]
    try:
        return getattr(module, "run_downstream", lambda main: main())(module.main)
    finally:
        sys.argv = before


def written(directory, name) -> dict:
    return json.loads((Path(directory) / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """The directory of a run."""
    directory = tmp_path_factory.mktemp("run")
    assert runs.run("jmi", directory, *runs.data(folder), *runs.FAST) == 0
    return directory


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The directory of an encoder for images of 16 pixels."""
    directory = tmp_path_factory.mktemp("encoder")
    export_encoder(small_model("jmi").encoder, directory, image_size=16, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
    return directory


@pytest.mark.parametrize(("name", "key"), [("knn", "knn_top1"), ("linear_probe", "linear_top1")])
def test_a_run_is_measured_as_it_measured_itself(name, key, finished, capsys):
    before = {path.name: path.read_bytes() for path in finished.iterdir() if path.is_file()}
    assert recipe(name, "--model", finished, "--config", finished / "training_args.json") == 0
    found = written(finished, name)
    said = capsys.readouterr().out
    own = [row for row in written(finished, "results")["evaluations"] if row["name"] == key]
    rows = {row["name"]: row for row in found["evaluations"]}
    about = {"dataset": "imagefolder", "image_size": 16, "seed": 0}
    assert about.items() <= rows[key].items()
    measured = next(row for row in own if row["encoder"] == "trained")
    assert {name: rows[key][name] for name in measured} == measured
    assert f"{key} {rows[key]['value']:.4f} ({rows[key]['low']:.4f} to {rows[key]['high']:.4f})" in said
    assert found["encoder"] == finished.name
    assert str(finished) not in json.dumps(found)
    after = {path.name: path.read_bytes() for path in finished.iterdir() if path.is_file()}
    assert after.pop(f"{name}.json")
    before.pop(f"{name}.json", None)
    before.pop("README.md")
    assert f"{100 * rows[key]['value']:.1f} %" in after["README.md"].decode()  # on the card as well
    assert {key: value for key, value in after.items() if key in before} == before


def test_knn_tells_how_many_directions_are_used_and_takes_k(exported, folder, tmp_path):
    data = ["--model", exported, "--data_dir", folder, *LOADS, "--output_dir", tmp_path]
    assert recipe("knn", *data, "--k", 5, "--temperature", 0.1) == 0
    top1, *ranks = written(tmp_path, "knn")["evaluations"]
    assert "k = 5 " in top1["protocol"]
    assert {"rank_h/rankme", "rank_h/effective_rank", "rank_h/std"} <= {row["name"] for row in ranks}
    assert all(row["n"] == 32 and row["low"] is None for row in ranks)


def test_the_probe_says_what_train_chose(exported, folder, tmp_path):
    data = ["--model", exported, "--data_dir", folder, *LOADS, "--output_dir", tmp_path]
    assert recipe("linear_probe", *data) == 0
    rows = written(tmp_path, "linear_probe")["evaluations"]
    assert [(row["name"], row["value"]) for row in rows] == [("linear_top1", 1.0), ("ridge_top1", 1.0)]
    for row, grid in zip(rows, (LEARNING_RATES, PENALTIES)):
        assert row["chosen"] in grid


def test_seeds_and_protocols_stand_beside_each_other_and_on_the_card(exported, folder, tmp_path):
    run = shutil.copytree(exported, tmp_path / "run")
    (run / "results.json").write_text(json.dumps({"method": "jmi", "evaluations": []}))
    data = ["--model", run, "--data_dir", folder, *LOADS]
    for more in (["--seed", 1], ["--seed", 2], ["--seed", 2], ["--seed", 2, "--k", 5]):
        assert recipe("knn", *data, *more) == 0
    found = [row for row in written(run, "knn")["evaluations"] if row["name"] == "knn_top1"]
    assert [(row["seed"], "k = 5 " in row["protocol"]) for row in found] == [(1, False), (2, False), (2, True)]
    for seed in (1, 2):
        assert recipe("linear_probe", *data, "--seed", seed) == 0
    rows = written(run, "linear_probe")["evaluations"]
    assert [(row["name"], row["seed"]) for row in rows] == [
        (name, seed) for seed in (1, 2) for name in ("linear_top1", "ridge_top1")
    ]
    card = (run / "README.md").read_text()
    for measure in ("linear probe", "ridge probe"):
        lines = [line for line in card.splitlines() if line.startswith(f"| {measure} ")]
        assert [line.split(" | ")[-1] for line in lines] == ["1 |", "2 |", "2 seeds |"]
    results = ModelCard(card).data.eval_results
    assert [one.metric_args["seed"] for one in results if one.metric_name == "linear probe"] == [1, 2]


def test_evidence_of_another_encoder_is_set_aside(exported, folder, tmp_path):
    other = shutil.copytree(exported, tmp_path / "other")
    for model in (exported, other):
        data = ["--model", model, "--data_dir", folder, *LOADS, "--output_dir", tmp_path / "out"]
        assert recipe("knn", *data) == 0
    assert {row["seed"] for row in written(tmp_path / "out", "knn")["evaluations"]} == {0}
    (aside,) = (tmp_path / "out").glob("knn.before-*.json")
    assert json.loads(aside.read_text())["encoder"] == exported.name


@pytest.mark.parametrize("name", ["knn", "linear_probe"])
def test_the_data_of_another_run_bring_neither_its_place_nor_its_image_size(
    name, exported, folder, tmp_path, monkeypatch
):
    """The card of a run shows what lies beside it."""
    run = shutil.copytree(exported, tmp_path / "run")
    theirs = {"data_dir": str(folder), "output_dir": str(run), "image_size": 32, "dataset_name": "imagefolder"}
    (run / "training_args.json").write_text(json.dumps(theirs))
    other, data = shutil.copytree(exported, tmp_path / "other"), ["--config", run / "training_args.json", *LOADS[2:]]
    assert recipe(name, "--model", other, *data) == 0
    assert not (run / f"{name}.json").exists()
    assert {row["image_size"] for row in written(other, name)["evaluations"]} == {16}
    assert recipe(name, "--model", other, *data, "--output_dir", run) == 2
    (run / "training_args.json").write_text(json.dumps(theirs | {"hub_model_id": "me/model"}))
    monkeypatch.chdir(tmp_path)
    assert output_of(Namespace(model="x", output_dir="~/x")) == Path.home() / "x"
    assert output_of(Namespace(model="me/model", output_dir=str(run))) == run  # the same one, published
    shutil.copytree(run, tmp_path / "runs" / "model")
    with pytest.raises(UserError, match="runs/model holds another encoder"):
        output_of(Namespace(model="you/model", output_dir=None))


@pytest.mark.parametrize("name", ["knn", "linear_probe", "finetune", "estimate_mi", "surrogate_report"])
def test_what_a_run_held_out_stays_held_out_whatever_the_seed(name, exported, folder, tmp_path, monkeypatch):
    """Without a split to evaluate on, another seed would hold out what the run has trained on."""
    run = shutil.copytree(exported, tmp_path / "run")
    (run / "training_args.json").write_text(json.dumps({"seed": 3}))
    seeds = []

    def spied(n, fraction, seed):
        seeds.append(seed)
        return held_out(n, fraction, seed)

    monkeypatch.setattr("hf_mi_ssl.data.splits.held_out", spied)
    monkeypatch.chdir(tmp_path)
    data = ["--data_dir", folder / "train", *LOADS, "--image_size", 16, "--seed", 5, "--output_dir", tmp_path / "out"]
    few = {"finetune": ["--num_train_epochs", 1], "estimate_mi": ["--n", 32], "surrogate_report": ["--n", 32]}
    monkeypatch.setattr(hf_mi_ssl.data.splits, "_HELD_OUT", 0.4)  # more than a tenth, for enough pairs
    assert recipe(name, "--model", run, *data, *few.get(name, [])) == 0
    assert seeds == [3]
    (run / "training_args.json").unlink()  # no run: nothing was trained on these images
    assert recipe(name, "--model", run, *data, *few.get(name, [])) == 0
    assert seeds == [3, 5]


def test_size_and_normalisation_are_those_of_the_image_processor(exported, folder, tmp_path):
    assert input_of(str(exported)) == {"size": 16, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.2)}
    assert input_of(str(tmp_path)) == {}
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    assert input_of(str(tmp_path / "vit")) == {"size": 32, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    timm = build_encoder(encoder_config("timm/test_resnet", 24))
    timm.save_pretrained(tmp_path / "plain")
    export_encoder(timm, tmp_path / "timm", image_size=24, mean=(0.5,) * 3, std=(0.3,) * 3)
    assert input_of(str(tmp_path / "plain"))["size"] == 24
    assert input_of(str(tmp_path / "timm")) == {"size": 24, "mean": (0.5,) * 3, "std": (0.3,) * 3}
    data = ["--model", tmp_path / "timm", "--data_dir", folder, *LOADS]
    assert recipe("knn", *data) == 0
    assert written(tmp_path / "timm", "knn")["evaluations"][0]["image_size"] == 24

    class Spy(torch.nn.Module):
        def forward(self, pixel_values):
            seen.append(pixel_values)
            return type("Output", (), {"pooler_output": pixel_values.mean((2, 3))})

    seen, source = [], {"train_split": "train", "eval_split": None, "seed": 0, "data_dir": str(folder)}
    source |= {"dataset_name": "imagefolder", "device": torch.device("cpu")}
    train, test = represent_splits(Spy(), image_size=16, mean=(0.0,) * 3, std=(1.0,) * 3, **source)
    assert seen[0].shape == (96, 3, 16, 16)
    assert 0 <= seen[0].min() <= seen[0].max() <= 1
    assert (len(train.h), len(test.h), test.split) == (96, 32, "test")
    red = test.h[test.labels == test.labels[test.h[:, 0].argmax()]]
    assert (red[:, 0] > red[:, 1]).all()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "required: --model"),
        (["--model", "no_such_run"], "no directory 'no_such_run'"),
        (["--model", "x", "--learning_rate", "0.1"], "--learning_rate is a flag of training and does nothing here"),
        (["--model", "x", "--sead", "1"], "unknown argument '--sead'; did you mean '--seed'?"),
        (["--model", "x", "--k", "0"], "--k 0 and --temperature 0.07 must be above 0"),
    ],
)
def test_bad_arguments_cost_one_line_and_exit_code_2(argv, said, capsys):
    assert recipe("knn", *argv) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("knn.py: ")
    assert error.count("\n") == 1


def test_images_without_labels_or_of_a_wrong_size_cost_one_line(exported, flat, folder, tmp_path, capsys):
    assert recipe("linear_probe", "--model", exported, "--data_dir", flat, *LOADS) == 2
    assert "has no labels: name their column with --label_column_name" in capsys.readouterr().err
    assert not (exported / "linear_probe.json").exists()
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    ViTModel(ViTConfig(image_size=32, patch_size=8, **sizes)).save_pretrained(tmp_path)
    assert recipe("knn", "--model", tmp_path, "--data_dir", folder, *LOADS, "--image_size", 16) == 2
    assert "no images of 16 pixels" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["knn", "linear_probe"])
def test_help_lists_the_flags_of_the_data(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        recipe(name, "--help")
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    for flag in ("--model", "--dataset_name", "--data_files", "--label_column_name", "--image_size", "--output_dir"):
        assert f"\n  {flag} " in said


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def overlapping(n, seed, classes=4, dimension=12):
    y = torch.randint(classes, (n,), generator=torch.Generator().manual_seed(seed))
    return 1.2 * torch.eye(classes, dimension)[y] + normal(n, dimension, seed=seed + 50), y


@pytest.mark.parametrize(("n", "dimension"), [(60, 8), (20, 40)])
def test_ridge_is_the_least_squares_solution_with_a_free_intercept(n, dimension):
    x, y, penalties = normal(n, dimension) + 2, torch.arange(n) % 3, (1e-3, 0.5)
    ones = torch.cat([x, torch.ones(n, 1)], 1)
    found = _ridge(ones, y, torch.arange(n), 3, penalties, 0).unflatten(1, (2, 3))
    targets = torch.eye(3)[y].double()
    for i, penalty in enumerate(penalties):
        # penalties as further rows: √(λN) w = 0 for every weight but the intercept
        more = (penalty * n) ** 0.5 * torch.eye(dimension, dimension + 1, dtype=torch.float64)
        rows = torch.cat([ones.double(), more])
        solution = torch.linalg.lstsq(rows, torch.cat([targets, torch.zeros(dimension, 3).double()])).solution
        torch.testing.assert_close(found[:, i], solution.float(), atol=1e-5, rtol=1e-4)


def test_ridge_and_logistic_regression_agree_where_both_are_right():
    """Gaussian classes of one covariance: the best boundary is linear."""
    data = (*overlapping(3000, 0), *overlapping(2000, 1), 4, 0)
    logistic, ridge = linear_probe(*data), ridge_probe(*data)
    low, high = accuracy_interval(logistic.correct, logistic.n)
    assert low <= ridge.accuracy <= high
    assert ridge.accuracy > 0.5


def test_ridge_sees_neither_scale_nor_shift_nor_the_test_set():
    train, y = overlapping(300, 0)
    test, asked = overlapping(100, 1)
    one = ridge_probe(train, y, test, asked, 4, 0)
    moved = ridge_probe(train * 7 + 3, y, test * 7 + 3, asked, 4, 0)
    assert (moved.chosen, moved.n) == (one.chosen, one.n)
    assert abs(moved.correct - one.correct) <= 1
    assert ridge_probe(train, y, -test, asked.flip(0), 4, 0).chosen == one.chosen
    labels = [overlapping(n, seed)[1] for n, seed in ((600, 5), (1000, 6))]
    chance = ridge_probe(normal(600, 8), labels[0], normal(1000, 8, seed=1), labels[1], 4, 0)
    low, high = accuracy_interval(chance.correct, chance.n)
    assert low <= 0.25 <= high


@pytest.mark.parametrize("n", [2, 3, 12])
def test_ridge_works_on_small_sets_with_absent_classes_and_dead_dimensions(n):
    train, y = overlapping(n, 2)
    train[:, 3] = 5.0
    test, asked = overlapping(20, 3)
    assert 0 <= ridge_probe(train, y, test, asked, 6, seed=0).accuracy <= 1
    with pytest.raises(UserError, match="NaN"):
        ridge_probe(train * torch.inf, y, test, asked, 6, seed=0)


@pytest.mark.gpu
def test_probes_run_where_the_representations_are():
    train, y, test, asked = *overlapping(500, 0), *overlapping(300, 1)
    for probe in (linear_probe, ridge_probe):
        here, there = probe(train, y, test, asked, 4, 0), probe(train.cuda(), y, test, asked, 4, 0)
        assert there.chosen == here.chosen
        assert abs(there.correct - here.correct) <= 2


def test_a_processor_that_cannot_be_read_is_no_missing_one(exported, tmp_path):
    directory = shutil.copytree(exported, tmp_path / "encoder")
    (directory / "preprocessor_config.json").write_text("{broken")
    with pytest.raises(UserError, match="cannot read the image processor"):
        input_of(str(directory))
    (directory / "preprocessor_config.json").unlink()
    assert input_of(str(directory)) == {}


def test_what_is_trained_on_is_not_held_out(exported, folder, tmp_path, capsys):
    data = ["--model", exported, "--data_dir", folder, *LOADS, "--output_dir", tmp_path]
    assert recipe("knn", *data, "--eval_split", "train") == 2
    assert "'train'" in capsys.readouterr().err
