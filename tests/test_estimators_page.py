"""The published page of the estimators says what its evidence says, and what they say of themselves is complete."""

import importlib.util
import json
import math
import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from hf_mi_ssl.estimators import ESTIMATORS, TASKS
from hf_mi_ssl.estimators.result import cut
from hf_mi_ssl.evaluation import estimate_tables

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "model_cards" / "results"
EVIDENCE = json.loads((RESULTS / "evidence" / "estimators.json").read_text())
ROWS = {(row["task"], row["estimator"]): row for row in EVIDENCE["estimates"]}


def test_the_page_is_made_of_its_evidence(monkeypatch, tmp_path):
    spec = importlib.util.spec_from_file_location("estimate_mi", ROOT / "recipes" / "estimate_mi.py")
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    (tmp_path / "evidence").mkdir()
    for name in ("evidence/estimators.json", "estimators_template.md"):
        (tmp_path / name).write_text((RESULTS / name).read_text())
    monkeypatch.setattr(recipe, "RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["estimate_mi.py", "--page"])
    assert recipe.main() == 0
    assert (tmp_path / "estimators.md").read_text() == (RESULTS / "estimators.md").read_text()


def test_the_evidence_has_every_estimator_on_every_task():
    assert set(ROWS) == {(task, name) for task in TASKS for name in ESTIMATORS}
    for (task, _), row in ROWS.items():
        assert row["truth"] == pytest.approx(TASKS[task].mutual_information(), abs=1e-9)
        assert "refused" in row or row["value"] - row["truth"] == pytest.approx(row["error"], abs=1e-9)


def test_no_lower_bound_is_above_the_truth_and_nothing_is_found_in_independent_pairs():
    for (task, name), row in ROWS.items():
        if row.get("kind") == "lower_bound":
            assert row["error"] <= 3 * row["standard_error"], (task, name)
        if task == "independent_8d" and "value" in row:
            assert row["value"] <= 0.005, name


@pytest.mark.parametrize("name", ["gaussian_critic", "mended_gaussian", "separable", "concatenated", "bilinear"])
def test_the_intervals_of_learned_bounds_are_cut_by_one_rule(name):
    for row in (row for (_, estimator), row in ROWS.items() if estimator == name):
        value, half = row["value"], 1.959964 * row["standard_error"]
        low, _, high = cut(value - half, value, value + half, 0.0, math.log(row["n"]))
        assert (row["low"], row["high"]) == pytest.approx((low, high), abs=1e-9), row["task"]


def test_the_lowest_panel_of_each_column_says_its_unit(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(
        estimate_tables, "new_figure", lambda **size: drawn.append(Figure(figsize=[*size.values()])) or drawn[-1]
    )
    names = [*ESTIMATORS][:8]  # a row of six panels and one of two
    estimate_tables.task_figure([ROWS["gaussian_2d_1", name] for name in names], tmp_path / "estimates.png")
    said = [axis.get_xlabel() for axis in drawn[0].axes[: len(names)]]
    assert said == [""] * 2 + ["nats"] * 6


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_says_whether_it_is_a_bound_its_bias_its_variance_and_its_source(name):
    said = " ".join(ESTIMATORS[name].__doc__.split())
    assert re.search(r"[Ll]ower bound|[Nn]o bound|NOT a bound", said)
    assert re.search(r"\b[Bb]ias", said)
    assert re.search(r"\b[Vv]arian", said)
    assert re.search(r"Source|\(arXiv|\d{4}\.\d{4,5}|[A-Z]\w+ \d{4}", said)
