"""The page of results, its evidence and its figures: made of what the runs' files say."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from reproducing import comparison
from reproducing.costs import cost_of, count_step
from reproducing.evidence import Evidence, collect, read_evidence
from reproducing.figures import comparison_figure
from reproducing.matrix import declared_runs, read_matrix
from reproducing.page import render, write_page
from reproducing.published import MEASURES, PUBLISHED, published_table
from reproducing.tracked import growth_table, mi_figure, rows_figure

from hf_mi_ssl import JMIConfig, JMIForPreTraining
from hf_mi_ssl.encoders import ENCODERS, encoder_config
from hf_mi_ssl.errors import UserError
from hf_mi_ssl.methods import METHODS
from hf_mi_ssl.training import PretrainingArguments
from tests.matrices import evaluation, matrix_file, results_of, runs_of, table_of, write_run


def page_of(matrix, runs, path) -> str:
    return render(matrix, runs, collect(runs, path.parent / "evidence"), path, {})


def test_the_table_is_what_the_files_say(tmp_path):
    path = matrix_file(tmp_path, notes="Two steps only.", overrides={"jmi": {"set": {"projection_size": 16}}})
    matrix = read_matrix(path)
    sdmi, jmi, simsiam = declared_runs(matrix, tmp_path / "runs")
    write_run(jmi, 0.5, 2.0)
    write_run(simsiam, 0.4, 1.0, timing={"train_seconds": 30, "images_per_second": 400.0})
    page = page_of(matrix, [sdmi, jmi, simsiam], path)
    assert table_of(page) == [
        "| pixels | | | | 25.0 (20.0 to 30.0) | — | | | | | | |",
        "| random encoder | | | | 30.0 (25.0 to 35.0) | — | | | | | | |",
        "| `simsiam` | SDMI | a surrogate | 1 of 1 | 40.0 (35.0 to 45.0) | 61.0 (60.0 to 62.0) | 1.00, not MI "
        "| 1.50 (1.25 to 1.75); ceiling 6.50 | 7.2 | 9.0 | 400 | 0.5 |",
        "| `jmi` | JMI | a bound | 1 of 1 | 50.0 (45.0 to 55.0) | 61.0 (60.0 to 62.0) | 2.00 nats "
        "| 1.50 (1.25 to 1.75); ceiling 6.50 | 7.2 | 9.0 | 123 | 1.5 |",
    ]
    for said in (
        "# small\n\nTwo steps only.\n",
        "## Not done yet\n\n- `shapes/sdmi-seed0`: to do\n",
        "- set:\n  - {projection_size: 16}: shapes/jmi-seed0\n  - {}: shapes/simsiam-seed0\n",
        "- per_device_train_batch_size: 64\n",
        "- steps: 2\n- images_seen: 128\n- hardware: {device: Abacus, threads: 1}\n- versions: {torch: 9.9}\n",
        "- linear probe: linear_top1 as ever; n = 1,000 of test\n",
        "python recipes/reproduce.py --matrix matrix.yaml\n",
    ):
        assert said in page
    assert str(tmp_path) not in page  # where the files lay is no result
    assert "Beside published values" not in page

    (jmi.directory / "metrics.jsonl").unlink()
    write = results_of(0.5) | {"evaluations": [evaluation("knn_top1", 0.75, half=0.01)]}
    (jmi.directory / "results.json").write_text(json.dumps(write))
    again = table_of(page_of(matrix, [sdmi, jmi, simsiam], path))
    assert again[-1] == "| `jmi` | JMI | a bound | 1 of 1 | 75.0 (74.0 to 76.0) | — | — | — | — | — | 123 | 1.5 |"
    assert again[:-1] == table_of(page)[:-1]


def test_several_seeds_are_a_mean_with_its_deviation_and_n(tmp_path):
    path = matrix_file(tmp_path, methods=["jmi"], first=[], seeds=[0, 1, 2])
    matrix = read_matrix(path)
    runs = declared_runs(matrix, tmp_path / "runs")
    for run, knn in zip(runs[:2], (0.4, 0.5)):
        write_run(run, knn, 2.0)
    pixels, _, jmi = table_of(page_of(matrix, runs, path))
    assert jmi.startswith("| `jmi` | JMI | a bound | 2 of 3 | 45.0 ± 7.1 (n = 2) | 61.0 ± 0.0 (n = 2) | 2.00 ± 0.00")
    assert "25.0 ± 0.0 (n = 2)" in pixels


def test_the_page_has_published_values_beside_ours_and_says_what_differs(tmp_path):
    dataset = {"cifar10": {"dataset_name": "uoft-cs/cifar10", "encoder": "mi_resnet18", "num_train_epochs": 30}}
    path = matrix_file(tmp_path, methods=["simsiam"], first=[], datasets=dataset)
    matrix = read_matrix(path)
    runs = declared_runs(matrix, tmp_path / "runs")
    write_run(runs[0], 0.5, 1.0)
    page = page_of(matrix, runs, path)
    assert "## Beside published values: cifar10\n\n| method |" in page
    assert "| `simsiam` | linear probe | 61.0 | 30 | 91.8 | 800 | [SimSiam's paper](https://arxiv.org" in page
    assert "were not measured here" in page


def test_a_choice_of_settings_compares_no_rows(tmp_path):
    for choice in (False, True):
        path = matrix_file(tmp_path, choice=choice)
        matrix = read_matrix(path)
        runs = declared_runs(matrix, tmp_path / f"{choice}")
        for run in runs:
            write_run(run, 0.5, 2.0)
        write_page(matrix, runs, collect(runs, tmp_path / "evidence"), path, tmp_path / f"{choice}.md")
        page = (tmp_path / f"{choice}.md").read_text()
        assert ("## The prototypes beside established methods: shapes" not in page) is choice
        assert len(table_of(page)) == 5
        assert (tmp_path / "small").exists() is not choice
        shutil.rmtree(tmp_path / "small", ignore_errors=True)


def test_the_command_names_files_given_on_the_command_line_without_their_place(tmp_path):
    path = matrix_file(tmp_path, methods=["jmi"], first=[])
    matrix = read_matrix(path)
    files = [f"train={tmp_path}/a.parquet", f"test={tmp_path}/b.parquet"]
    runs = declared_runs(matrix, tmp_path / "runs", files)
    write_run(runs[0], 0.4, 2.0)
    page = page_of(matrix, runs, path)
    assert "--matrix matrix.yaml --data_files train=a.parquet test=b.parquet\n```\n" in page
    assert str(tmp_path) not in page
    two = matrix_file(tmp_path, methods=["jmi"], first=[], datasets={"shapes": {}, "own": {"data_dir": "own"}})
    assert "matrix.yaml --datasets shapes --data_files train=a.parquet test=b.parquet\n```" in page_of(
        read_matrix(two), declared_runs(read_matrix(two), tmp_path / "runs", files, ["shapes"]), two
    )
    elsewhere = declared_runs(matrix, tmp_path / "runs")[0]  # the data set from the Hub
    assert not elsewhere.changes(runs[0].args.to_dict())


# The evidence, and what the runs say together


def made(method: str, seed: int = 0, flops: float = 1e6, linear: float = 0.5, **values: float) -> Evidence:
    """Evidence of ten steps of eight images, whose tracked accuracy rises by a hundredth a step from 0.3 on."""
    steps = {
        "step": [0, 5, 10],
        "epoch": [0.0, 0.5, 1.0],
        "eval/linear_top1": [0.3, 0.35, 0.4],
        "eval/knn_top1": [0.1] * 3,
        "eval/mi/cos_dv": [0.1, 0.5, 1.0],
    }
    rows = [evaluation(name, value) for name, value in {"linear_top1": linear, **values}.items()]
    results = {"steps": 10, "images_seen": 80, "timing": {}, "evaluations": rows}
    cost = {"flops": flops, "learning_passes": 2, "other_passes": 0}
    return Evidence(f"d/{method}-seed{seed}", "d", method, seed, "bound", {}, results, [], steps, {}, cost)


def test_published_values_stand_beside_ours_where_data_encoder_and_row_match():
    place = {"dataset_name": "uoft-cs/cifar10"}

    def runs(encoder: str, methods: tuple = ("vicreg", "jmi"), **values: float) -> list[Evidence]:
        arguments = {"encoder": encoder, "num_train_epochs": 30}
        made_up = [made(method, linear=0.7, **values) for method in methods]
        return [replace(run, arguments=arguments, evaluated={}) for run in made_up]

    cells = [line.split(" | ")[:7] for line in published_table(place, runs("mi_resnet18")).splitlines()[2:]]
    assert [(line[:6], re.match(r"\[(.+?)\]", line[6])[1]) for line in cells] == [
        (["| `vicreg`", "linear probe", "70.0", "30", "90.12", "300"], "eb_jepa"),
        (["| `vicreg`", "linear probe", "70.0", "30", "92.07", "1000"], "solo-learn"),
        (["| `vicreg`", "linear probe", "70.0", "30", "78.1", "30"], "EMP-SSL"),
    ]
    table = published_table(place, runs("mi_resnet18", ("byol",), knn_top1=0.8))
    assert "| `byol` | kNN | 80.0 | 30 | 86.9 | 200 |" in table  # of lightly's 200 and 800, the nearer
    assert published_table(place, runs("resnet_tiny")) == ""
    assert published_table(place, runs("mi_resnet18", ("jmi",))) == ""
    assert published_table({"dataset_name": "shapes"}, runs("mi_resnet18")) == published_table(None, []) == ""


def test_every_published_value_is_of_a_row_an_encoder_and_a_measure_and_says_whose_it_is():
    for source in yaml.safe_load(PUBLISHED.read_text()):
        assert source["encoder"] in ENCODERS
        assert source["measure"] in MEASURES
        assert source["url"].startswith("https://")
        assert source["protocol"]
        for length, rows in source["values"].items():
            assert length > 0
            assert all(method in METHODS and 1 < value < 100 for method, value in rows.items())


def test_evidence_keeps_every_evaluation_and_some_steps_and_no_place(tmp_path):
    run = runs_of(tmp_path, methods=["jmi"], first=[], flags={"data_dir": str(tmp_path)})[0]
    write_run(run, 1 / 3, 2.0, note=str(tmp_path / "kept.txt"))
    records = [{"step": step, "value": step / 7} for step in range(1, 1001)]
    records += [{"step": step, "eval/mi/cos_dv": step / 3, "alarm": {"collapse": "x"}} for step in range(0, 1001, 100)]
    (run.directory / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (found,) = collect([run], tmp_path / "evidence")
    assert found == read_evidence(tmp_path / "evidence" / "shapes" / "jmi-seed0.json")
    assert found.curve("eval/mi/cos_dv")[0] == [*range(0, 1001, 100)]
    assert found.curve("eval/mi/cos_dv")[1][1] == 33.3333
    assert len(found.steps["value"]) == 100
    assert (found.steps["step"][0], found.steps["step"][-1]) == (1, 1000)
    assert found.measured("value")["value"] == 142.857
    assert found.measured("knn_top1")["value"] == 0.333333
    assert found.results["note"] == "kept.txt"
    assert str(tmp_path) not in (tmp_path / "evidence" / "shapes" / "jmi-seed0.json").read_text()


def test_a_file_that_is_no_evidence_is_refused(tmp_path):
    (tmp_path / "x.json").write_text('{"name": "x"}')
    with pytest.raises(UserError, match="x.json holds no evidence of a run"):
        read_evidence(tmp_path / "x.json")


def test_equal_compute_is_read_between_the_evaluations_around():
    cheap, dear = made("jmi", flops=1e6), made("sdmi", flops=4e6)
    least = comparison.budget([dear, cheap])
    assert least == comparison.spent(cheap) == 8e7
    key = comparison.TRACKED["linear"]
    assert comparison.at_compute(cheap, key, least) == pytest.approx(0.4)
    assert comparison.at_compute(dear, key, least) == pytest.approx(0.325)  # after a quarter of its steps
    assert comparison.at_compute(cheap, key, comparison.spent(dear)) is None  # it has never spent that
    assert [line.split(" | ")[4:8] for line in comparison.cost_table([cheap, dear]).splitlines()[2:]] == [
        ["0.0", "0.2 of 1", "40.0", "32.5"],
        ["0.0", "1.0 of 1", "40.0", "40.0"],
    ]


def test_a_measure_is_ranked_over_rows_and_one_that_needs_labels_is_not():
    runs = [
        made(method, seed, linear=0.1 * i + 0.001 * seed, **{"mi/cos_dv": i, "rank/rankme": -i, "collapse/nc1": i})
        for i, method in enumerate(comparison.ESTABLISHED)
        for seed in range(2)
    ]
    found = comparison.correlations(runs)
    assert {name: one[0] for name, one in found.items()} == {
        "mi/cos_dv": pytest.approx(1),
        "rank/rankme": pytest.approx(-1),
    }
    assert all(low <= value + 1e-9 and value <= high + 1e-9 for value, low, high in found.values())
    assert comparison.correlations(runs[:6]) == {}  # three rows
    mixed = [made(m, linear=x, **{"mi/cos_dv": y}) for m, x, y in zip(METHODS, (1, 2, 3, 4, 5), (2, 1, 4, 3, 5))]
    value, low, high = comparison.correlations(mixed)["mi/cos_dv"]
    assert value == pytest.approx(0.8)  # 1 − 6 Σd² / n(n² − 1)
    assert low < 0.5 < high
    assert comparison.by_chance(mixed, "mi/cos_dv") == pytest.approx(16 / 120)  # exactly, of the 5! orders


@pytest.mark.parametrize(
    ("method", "columns", "passes"),
    [
        ("jmi", {}, (2, 0)),
        ("simsiam", {}, (2, 0)),
        ("moco_v2", {"queue_size": 64, "batch_norm_group_size": 8}, (1, 1)),
        ("byol", {}, (2, 2)),
        ("sdmi", {}, (2, 2)),
        ("sdmi", {"m_step_every": 4}, (1.25, 1.25)),
    ],
)
def test_passes_of_an_image_through_encoders_are_counted(method, columns, passes):
    cost = cost_of(arguments_of(method, **columns))
    assert (cost["learning_passes"], cost["other_passes"]) == passes


def arguments_of(method: str, **columns) -> dict:
    more = {"method": method, "set": {"projector_hidden_size": 32, "projection_size": 16} | columns}
    return PretrainingArguments().to_dict() | more | {"image_size": 32, "per_device_train_batch_size": 8}


def test_a_pass_without_gradient_costs_about_a_third_and_counting_needs_no_numbers():
    jmi, other, turns = (cost_of(arguments_of(method))["flops"] for method in ("jmi", "sdmi_ema", "sdmi"))
    assert 4 / 3 < other / jmi < 1.4  # two passes that learn beside two that do not; images need no gradient
    assert turns == pytest.approx(other, rel=1e-3)
    config = JMIConfig.from_method(
        "lejepa", encoder_config=encoder_config("resnet_tiny", 32), projector_hidden_size=32, projection_size=16
    )
    views = torch.randn(2, 8, 3, 32, 32)
    assert count_step(JMIForPreTraining(config), *views)["flops"] / 8 == cost_of(arguments_of("lejepa"))["flops"]
    assert cost_of(arguments_of("jmi") | {"init_from": "somewhere"}) is None


@pytest.mark.parametrize("draw", [comparison_figure, mi_figure, rows_figure])
def test_figures_are_transparent_so_that_dark_pages_can_show_them(draw, tmp_path):
    runs = [made(m, s, linear=0.1 * i, **{"mi/cos_dv": i}) for i, m in enumerate(METHODS) for s in (0, 1)]
    draw(runs, tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as image:
        alpha = np.asarray(image.convert("RGBA"))[..., 3]
    assert (alpha == 0).mean() > 0.5
    assert (alpha > 0).mean() > 0.01


def test_growth_is_told_with_how_sure_it_is_and_with_what_the_alarm_said():
    def verdict(grew, gain, because=()):
        curve = {"grew": grew, "because": [*because], "gain": gain, "standard_error": 0.1, "monotone_share": 0.9}
        return {"growth": {"mi/cos_dv_calibrated": curve}, "alarms": []}

    alarm = [{"kind": "stagnation", "step": 3, "message": "x"}, {"kind": "ceiling_reached", "step": 4, "message": "x"}]
    runs = [
        replace(made("jmi"), results=verdict(True, 2.0)),
        replace(made("jmi", 1), results=verdict(True, 1.0)),
        replace(made("simsiam"), results=verdict(False, 0.1, ["gained little"]) | {"alarms": alarm}),
    ]
    assert growth_table(runs).splitlines()[2:] == [
        "| `jmi` | 2 of 2 | 1.50 ± 0.71 | 10 | 0.90 ± 0.00 | none |",
        "| `simsiam` | 0 of 1: gained little | 0.10 | 1 | 0.90 | ceiling reached (a note), stagnation |",
    ]
