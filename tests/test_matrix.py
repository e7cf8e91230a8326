"""What a matrix of runs declares, and the mistakes in one."""

import pytest
import yaml
from reproducing.matrix import declared_runs, read_matrix

from hf_mi_ssl.errors import UserError
from hf_mi_ssl.methods import METHODS
from tests.matrices import RECIPES, matrix_file, runs_of


def test_a_matrix_is_its_methods_times_data_sets_times_seeds_the_first_ones_first(tmp_path):
    runs = runs_of(tmp_path, datasets={"a": {"image_size": 32}, "b": None}, seeds=[0, 7])
    methods = ["sdmi", "jmi", "simsiam"]
    expected = [f"{dataset}/{method}-seed{seed}" for seed in (0, 7) for dataset in "ab" for method in methods]
    assert [run.name for run in runs] == expected
    assert runs[-1].directory == tmp_path / "runs" / "small" / "b" / "simsiam-seed7"
    assert [(run.args.method, run.args.seed, run.args.image_size) for run in runs[:2]] == [
        ("sdmi", 0, 32),
        ("jmi", 0, 32),
    ]
    assert runs[-1].args.image_size == 64


def test_first_methods_may_have_more_seeds_and_then_all_of_theirs_come_first(tmp_path):
    runs = runs_of(tmp_path, first=["sdmi", "simsiam"], seeds={"first": [0, 1], "others": [5]})
    expected = ["sdmi-seed0", "simsiam-seed0", "sdmi-seed1", "simsiam-seed1", "jmi-seed5"]
    assert [run.name for run in runs] == [f"shapes/{name}" for name in expected]


def test_a_fine_tune_is_declared_for_each_share_of_labels_with_flags_of_the_recipe(tmp_path):
    declared = {"label_fractions": [0.01, 0.1], "learning_rate": ["3e-3", 1e-3], "num_train_epochs": 5}
    run = runs_of(tmp_path, finetune=declared)[0]
    assert run.finetunes[1] == {
        "label_fraction": 0.1, "learning_rate": [0.003, 0.001], "num_train_epochs": [5],
        "per_device_train_batch_size": 64, "weight_decay": 0.05, "freeze_encoder": False,
    }  # fmt: skip
    assert [one["label_fraction"] for one in run.finetunes] == [0.01, 0.1]


def test_an_encoder_at_random_is_fine_tuned_after_the_first_run_of_each_data_set(tmp_path):
    runs = runs_of(tmp_path, datasets={"a": {}, "b": {}}, seeds=[0, 1], finetune={"random_encoder": True})
    assert {run.name for run in runs if len(run.finetunes) == 2} == {"a/sdmi-seed0", "b/sdmi-seed0"}
    plain, at_random = runs[0].finetunes
    assert at_random == plain | {"random_encoder": True}
    row = {"settings": plain, "seed": 0, "encoder": "random"}
    assert runs[0].has(row, at_random)
    assert not runs[0].has(row, plain)
    assert all(len(run.finetunes) == 1 for run in runs[2:] if run.name != "b/sdmi-seed0")


def test_without_methods_a_matrix_has_every_row(tmp_path):
    methods = [run.method for run in runs_of(tmp_path, methods=None, first=["jmi"])]
    assert methods[0] == "jmi"
    assert sorted(methods) == sorted(METHODS)


def test_overrides_win_over_flags_and_columns_are_joined(tmp_path):
    flags = {"learning_rate": "3e-3", "set": {"projection_size": 16, "temperature": 0.3}}
    overrides = {"jmi": {"learning_rate": 0.1, "set": {"temperature": 0.5, "marginal": {}}}}
    sdmi, jmi, _ = runs_of(tmp_path, flags=flags, overrides=overrides)
    assert (sdmi.args.learning_rate, jmi.args.learning_rate) == (0.003, 0.1)
    assert sdmi.args.columns == {"projection_size": 16, "temperature": 0.3}
    assert jmi.args.columns == {"projection_size": 16, "temperature": 0.5, "marginal": {}}
    assert (sdmi.kind, jmi.kind) == ("bound", "surrogate")  # without its marginal term J − M bounds nothing


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"first": ["simsam"]}, "did you mean 'simsiam'?"),
        ({"overrides": {"jmy": {}}}, "did you mean 'jmi'?"),
        ({"method": ["jmi"]}, "did you mean 'methods'?"),
        ({"seeds": 3}, "`seeds` must be a list or a dict"),
        ({"seeds": {"first": [0]}}, "{first: [0, 1, 2], others: [0]}"),
        ({"finetune": {"label_fraction": 0.1}}, "did you mean 'label_fractions'?"),
        ({"finetune": {"label_fractions": [10]}}, "label_fractions lie in (0, 1], got 10"),
        ({"finetune": {"label_fractions": [0.1], "weight_decay": "much"}}, "weight_decay must be a float"),
        ({"finetune": {"random_encoder": "yes"}}, "random_encoder must be true or false, got 'yes'"),
        ({"datasets": None}, "at least `name` and `datasets`"),
        ({"flags": {"lerning_rate": 1}}, "did you mean --learning_rate?"),
        ({"flags": {"set": {"temprature": 1}}}, "shapes/sdmi-seed0: unknown"),
        ({"flags": {"seed": 1}}, "seed follows from a run's place"),
    ],
)
def test_a_mistake_in_a_matrix_is_found_before_anything_runs(tmp_path, more, said):
    with pytest.raises(UserError) as error:
        runs_of(tmp_path, **more)
    assert said in str(error.value)


@pytest.mark.parametrize("path", sorted((RECIPES / "matrices").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_matrix_is_understood_and_has_its_rows_or_all(path, tmp_path):
    matrix = read_matrix(path)
    dataset = next(iter(matrix["datasets"]))
    runs = declared_runs(matrix, tmp_path, ["train=a.parquet", "test=b.parquet"], [dataset])
    assert {run.method for run in runs} == set(yaml.safe_load(path.read_text()).get("methods", METHODS))
    assert matrix["name"] == path.stem
    for run in runs:
        assert (run.args.files == {"train": "a.parquet", "test": "b.parquet"}) is (run.dataset == dataset)
    assert len(declared_runs(matrix, tmp_path)) == len(runs)  # as it stands, its data where it has them from


def test_files_are_of_one_data_set(tmp_path):
    matrix = read_matrix(matrix_file(tmp_path, datasets={"a": None, "b": None}))
    with pytest.raises(UserError, match="one data set: name it with --datasets"):
        declared_runs(matrix, tmp_path, ["train=a.parquet"])
