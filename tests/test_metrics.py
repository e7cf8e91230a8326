"""The modules of `evaluate` say what the package's own functions say, loaded by their path."""

import json
from pathlib import Path

import evaluate
import pytest
import torch
from setuptools import find_packages

from hf_mi_ssl import metrics
from hf_mi_ssl.errors import UserError
from hf_mi_ssl.estimators import TASKS, track
from hf_mi_ssl.evaluation import (
    accuracy_interval,
    alpha_req,
    dead_dimensions,
    effective_rank,
    embedding_std,
    knn_predict,
    linear_probe,
    mean_cosine,
    participation_ratio,
    rankme,
    ridge_probe,
    uniformity,
)

ROOT = Path(metrics.__file__).parent


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def classes(n, seed):
    """Representations of three classes that overlap, and their labels."""
    y = torch.randint(3, (n,), generator=torch.Generator().manual_seed(seed))
    return 1.5 * torch.eye(3, 8)[y] + normal(n, 8, seed=seed + 50), y


def test_every_module_loads_by_its_path_and_is_installed():
    directories = {path.name for path in ROOT.iterdir() if (path / f"{path.name}.py").is_file()}
    assert directories == set(metrics.METRICS)
    installed = find_packages(str(ROOT.parent.parent), include=["hf_mi_ssl*"])
    for name in directories:
        module = evaluate.load(str(ROOT / name))
        kind = evaluate.Metric if name in ("knn", "linear_probe") else evaluate.Measurement
        assert isinstance(module, kind)
        assert len(module.description) > 80
        assert f"hf_mi_ssl.metrics.{name}" in installed
    with pytest.raises(UserError, match="unknown metric 'knm'; did you mean 'knn'"):
        metrics.load("knm")


def test_knn_is_knn_predict_in_one_piece_and_in_batches():
    (train, y), (test, asked) = classes(200, 0), classes(60, 1)
    metric = metrics.load("knn")
    given = {"train": train, "train_labels": y}
    found = metric.compute(predictions=test, references=asked, **given)["knn_top1"]
    correct = int((knn_predict(train, y, test, 3) == asked).sum())
    assert found["value"] == correct / 60
    assert (found["low"], found["high"]) == accuracy_interval(correct, 60)
    assert found["n"] == 60
    assert found["protocol"].endswith("among 200 of train")
    for part in (slice(0, 25), slice(25, 60)):
        metric.add_batch(predictions=test[part].numpy(), references=asked[part].tolist())
    assert metric.compute(**given)["knn_top1"] == found
    fewer = metric.compute(predictions=test, references=asked, k=3, temperature=1.0, **given)["knn_top1"]
    assert fewer["value"] == int((knn_predict(train, y, test, 3, 3, 1.0) == asked).sum()) / 60
    assert "k = 3 " in fewer["protocol"]
    assert "cosine / 1)" in fewer["protocol"]


@pytest.mark.parametrize("name", ["knn", "linear_probe"])
def test_labels_may_be_any_integers_and_some_only_in_test(name):
    (train, y), (test, asked) = classes(200, 0), classes(60, 1)
    names = torch.tensor([7, -3, 10**9])
    metric = metrics.load(name)
    other = metric.compute(predictions=test, references=names[asked], train=train, train_labels=names[y])
    order = [int((names < label).sum()) for label in names]  # classes are numbered by their labels
    assert order == [1, 0, 2]
    same = metric.compute(
        predictions=test,
        references=torch.tensor(order)[asked],
        train=train.tolist(),
        train_labels=torch.tensor(order)[y].tolist(),
    )
    assert other == same
    known = train[y > 0], y[y > 0]  # what was never seen is never right
    found = metric.compute(predictions=test[:1], references=[0], train=known[0], train_labels=known[1])
    assert all(row["value"] == 0 for row in found.values())


def test_the_linear_probe_is_linear_probe_and_ridge_probe():
    (train, y), (test, asked) = classes(200, 0), classes(60, 1)
    found = metrics.load("linear_probe").compute(
        predictions=test, references=asked, train=train, train_labels=y, seed=3
    )
    for key, probe in (("linear_top1", linear_probe), ("ridge_top1", ridge_probe)):
        result = probe(train, y, test, asked, 3, 3)
        low, high = accuracy_interval(result.correct, 60)
        row = {"value": result.accuracy, "low": low, "high": high, "n": 60, "protocol": result.protocol}
        assert found[key] == row | {"chosen": result.chosen}


@pytest.mark.parametrize("name", ["knn", "linear_probe"])
def test_representations_of_two_sizes_cost_one_line(name):
    (train, y), (test, asked) = classes(50, 0), classes(20, 1)
    with pytest.raises(UserError, match=r"train is \[50, 8\], predictions are \[20, 5\]"):
        metrics.load(name).compute(predictions=test[:, :5], references=asked, train=train, train_labels=y)


def test_rank_of_what_is_not_finite_costs_one_line():
    z = normal(20, 4)
    for bad in (torch.nan, torch.inf):
        z[3, 1] = bad
        with pytest.raises(UserError, match="NaN or infinity"):
            metrics.load("rank").compute(data=z.numpy())


def test_rank_is_what_the_functions_say():
    z = normal(300, 12) * torch.arange(1, 13) + 1
    found = metrics.load("rank").compute(data=z.numpy())
    functions = {"rankme": rankme, "effective_rank": effective_rank, "participation_ratio": participation_ratio,
                 "alpha_req": alpha_req, "std": embedding_std, "dead_dimensions": dead_dimensions,
                 "mean_cosine": mean_cosine, "uniformity": uniformity}  # fmt: skip
    assert found == {name: function(z) for name, function in functions.items()}


def test_bounds_are_those_that_are_tracked_with_what_is_needed_to_believe_them():
    z_a, z_b = (z.float() for z in TASKS["gaussian_20d_5"].sample(400, seed=1))
    metric = metrics.load("mi_bounds")
    found = metric.compute(z_a=z_a, z_b=z_b, split="test")
    assert json.loads(json.dumps(found)).keys() == {"cos_dv", "cos_dv_calibrated", "info_nce", "jsd"}
    for name, estimate in track(z_a, z_b, "test").items():
        row = found[name]
        assert {"value", "low", "high", "ceiling", "n", "kind", "saturated", "split", "protocol"} <= row.keys()
        assert row["value"] == estimate.value
        assert (row["ceiling"], row["n"], row["kind"], row["split"]) == (estimate.ceiling, 400, "lower_bound", "test")
    same = metric.compute(z_a=z_a, z_b=z_a, estimators=["info_nce", "smile"])
    assert same["info_nce"]["saturated"]
    assert same["smile"]["kind"] == "plugin"
    assert not found["info_nce"]["saturated"]
    with pytest.raises(UserError, match="unknown estimator 'infonce'; did you mean 'info_nce'"):
        metric.compute(z_a=z_a, z_b=z_b, estimators=["infonce"])
