"""The two recipes as a user runs them: what they write, and how they read."""

import difflib
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModel, AutoModelForPreTraining

from hf_mi_ssl.errors import UserError
from hf_mi_ssl.methods import METHODS
from hf_mi_ssl.training import read_records
from tests.runs import FAST, RECIPES, data, log_of, results_of, run

# What a run writes


def test_the_output_directory_holds_what_the_design_says(finished):
    names = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    assert {name for name in names if not name.startswith("checkpoints/")} == {
        ".lock", "README.md", "config.json", "model.safetensors", "preprocessor_config.json", "training_args.json",
        "metrics.jsonl", "results.json", "pretraining/config.json", "pretraining/model.safetensors",
        "figures/training.png", "figures/mi.png", "figures/quality.png", "figures/spectrum.png",
        "figures/embedding_map.png",
    }  # fmt: skip
    assert {Path(name).parts[1] for name in names if name.startswith("checkpoints/")} == {
        "checkpoint-6", "checkpoint-12",
    }  # fmt: skip
    assert {path.suffix for path in finished.rglob("*") if path.is_file()} <= {
        "", ".md", ".json", ".jsonl", ".safetensors", ".png",
    }  # fmt: skip


def test_the_log_has_a_line_for_each_step_with_exactly_the_keys_of_the_design(finished):
    records = read_records(finished / "metrics.jsonl")
    steps = [record for record in records if "loss" in record]
    assert [record["step"] for record in steps] == list(range(1, 13))
    for record in steps:
        assert set(record) == {"step", "epoch", "loss", "joint/expected_score", "marginal/exact", "value",
                               "learning_rate", "images_per_second"}  # fmt: skip
        assert record["loss"] == pytest.approx(-record["value"])
        assert record["value"] == pytest.approx(record["joint/expected_score"] - record["marginal/exact"], abs=1e-5)
    evaluations = [record for record in records if "loss" not in record]
    assert [record["step"] for record in evaluations] == [0, 12]
    spaces, estimators = ("mi", "mi_h", "mi_target"), ("cos_dv", "cos_dv_calibrated", "info_nce", "jsd")
    keys = {f"eval/{space}/{name}{part}" for space in spaces for name in estimators
            for part in ("", "/ceiling", "/saturated", "/low", "/high", "/n")}  # fmt: skip
    keys |= {f"eval/rank/{name}" for name in ("rankme", "effective_rank", "effective_rank_of_directions",
                                            "participation_ratio")}  # fmt: skip
    keys |= {f"eval/collapse/{name}" for name in ("std", "dead_dimensions", "mean_cosine", "largest_norm", "alignment",
                                                "uniformity")}  # fmt: skip
    keys |= {"eval/knn_top1", "eval/linear_top1"}
    for record in evaluations:
        assert set(record) == keys | {"step", "epoch"}
        for name in estimators:
            assert record[f"eval/mi/{name}/low"] <= record[f"eval/mi/{name}"] <= record[f"eval/mi/{name}/high"]
            assert record[f"eval/mi/{name}"] <= record[f"eval/mi/{name}/ceiling"] + 0.5


def test_the_results_name_protocol_split_and_interval_for_pixels_random_and_trained(finished):
    results = json.loads((finished / "results.json").read_text())
    assert set(results) == {"method", "encoder", "dataset", "seed", "steps", "images_seen", "hardware", "timing",
                            "versions", "evaluations", "alarms", "growth", "row", "dataset_license",
                            "bad_images"}  # fmt: skip
    assert set(results["growth"]) == {f"{where}/{name}" for where in ("mi", "mi_h", "mi_target")
                                      for name in ("cos_dv", "cos_dv_calibrated")}  # fmt: skip
    assert (results["steps"], results["images_seen"], results["method"]) == (12, 192, "sdmi")
    accuracies = {}
    for row in results["evaluations"]:
        of_mi = {"ceiling", "saturated", "kind"} if row["name"].startswith("mi") else set()
        assert of_mi <= set(row)
        assert set(row) - of_mi == {
            "name",
            "value",
            "low",
            "high",
            "n",
            "split",
            "protocol",
            "encoder",
            "branch",
        }
        assert row["split"] == "test"
        assert row["protocol"]
        if row["name"].endswith("_top1"):
            assert row["n"] == 32
            assert row["low"] <= row["value"] <= row["high"]
            accuracies[row["name"], row["encoder"], row["branch"]] = row["value"]
    assert set(accuracies) == {
        ("knn_top1", "pixels", "online"),
        *((name, "random", "online") for name in ("knn_top1", "linear_top1")),
        *((name, "trained", branch) for name in ("knn_top1", "linear_top1") for branch in ("online", "target")),
    }
    assert accuracies["knn_top1", "pixels", "online"] == 1  # red and green


def test_the_encoder_loads_and_sees_what_the_run_saw(finished, folder):
    encoder = AutoModel.from_pretrained(finished)
    whole = AutoModelForPreTraining.from_pretrained(finished, subfolder="pretraining")
    processor = AutoImageProcessor.from_pretrained(finished)
    image = Image.open(next((folder / "test").rglob("*.png")))
    pixels = processor(image, return_tensors="pt")
    assert pixels["pixel_values"].shape == (1, 3, 16, 16)
    with torch.no_grad():
        h = encoder(**pixels).pooler_output
        torch.testing.assert_close(h, whole.encoder.eval()(**pixels).pooler_output)


def test_the_card_says_what_was_measured_and_nothing_else(finished):
    card = (finished / "README.md").read_text().replace("\\", "")
    results = json.loads((finished / "results.json").read_text())
    assert "expected_score" in card
    assert "log mean_{i≠j} exp T(a_i, b_j)" in card
    assert str(finished) not in card
    assert f"{results['images_seen']}" in card


# Other data, other settings


def test_images_without_labels_are_enough(flat, tmp_path):
    assert run("jmi", tmp_path / "run", *data(flat), *FAST) == 0
    rows = results_of(tmp_path / "run")["evaluations"]
    assert not any(row["name"].endswith("_top1") for row in rows)
    assert {row["split"] for row in rows} == {"train (a tenth, held out)"}
    assert rows[0]["n"] == 13
    assert not any("knn" in key for record in log_of(tmp_path / "run") for key in record)


def test_training_goes_on_from_an_encoder_that_was_saved(finished, flat, tmp_path):
    assert run("jmi", tmp_path / "run", *data(flat), *FAST, "--init_from", finished, "--learning_rate", 0) == 0
    start, end = (load_file(path / "model.safetensors") for path in (finished, tmp_path / "run"))
    weights = [name for name in start if name.endswith("weight")]
    assert weights
    assert all(torch.equal(start[name], end[name]) for name in weights)  # nothing was learned at rate 0


def test_cadences_are_what_the_flags_say(folder, tmp_path):
    flags = ["--eval_steps", 5, "--mi_steps", 4, "--checkpointing_steps", 3, "--checkpoints_total_limit", 3]
    assert run("jmi", tmp_path, *data(folder), *FAST, *flags) == 0
    log = log_of(tmp_path)
    assert [record["step"] for record in log if "eval/knn_top1" in record] == [0, 5, 10, 12]
    assert [record["step"] for record in log if "eval/mi/cos_dv" in record] == [0, 4, 8, 12]
    kept = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert kept == {f"checkpoint-{step}" for step in (6, 9, 12)}


def test_tensorboard_gets_every_curve(folder, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert run("jmi", tmp_path, *data(folder), *FAST, "--report_to", "tensorboard") == 0
    events = EventAccumulator(str(next(tmp_path.rglob("events.*")).parent))
    events.Reload()
    assert {"loss", "joint/expected_score", "marginal/exact", "eval/mi/cos_dv"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 13))


# The recipes as documents


def test_the_recipes_differ_in_names_and_in_the_m_step_only():
    sdmi, jmi = ((RECIPES / f"pretrain_{name}.py").read_text().split('"""', 2)[2] for name in ("sdmi", "jmi"))
    sdmi = sdmi.replace("SDMI", "JMI").replace('method="sdmi_ema"', 'method="jmi"')
    m_step = ("phase", "update_target", "cosine_schedule", "branches_take_turns", "# Train:")
    for line in difflib.ndiff(sdmi.splitlines(), jmi.splitlines()):
        if line[0] in "+-" and line[1:].strip():
            inside_the_loop = line[2:].strip() in {
                "for pair in pairs:", "with accelerator.accumulate(network):", "updates.begin()",
                "updates.step(outputs.loss)",
                "outputs = forward_backward(accelerator, network, pair, args.per_device_train_batch_size)",
            }  # fmt: skip
            assert any(word in line for word in m_step) or inside_the_loop or "build_accelerator(args)" in line, line


def test_an_unknown_key_in_the_configuration_file_is_refused(tmp_path):
    from hf_mi_ssl.training import parse_arguments

    (tmp_path / "run.yaml").write_text("metod: sdmi\n")
    with pytest.raises(UserError, match="did you mean --method"):
        parse_arguments(["--config", str(tmp_path / "run.yaml")], "", method="sdmi")


@pytest.mark.parametrize("path", sorted((RECIPES / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_is_understood(path):
    from hf_mi_ssl import JMIConfig, SDMIConfig
    from hf_mi_ssl.training import parse_arguments

    args = parse_arguments(["--config", str(path)], "")
    config = SDMIConfig if METHODS[args.method].paradigm == "sdmi" else JMIConfig
    config.from_method(args.method, **args.columns)


PUBLISHED = [  # what a paper's setting has in other columns than its row
    ("moco_v3_imagenet", "target_momentum", 0.996),
    ("corinfomax_imagenet", "joint", {"negative_mse_on_sphere": 2000}),
    ("corinfomax_imagenet", "projector_hidden_norm", True),
    ("corinfomax_cifar10", "joint", {"negative_mse_on_sphere": 250}),
    ("spectral_imagenet", "marginal", {"squared_score": 10}),
    ("dino_imagenet", "num_prototypes", 60000),
    ("simclr_imagenet", "temperature", 0.1),
    ("simclr_imagenet", "projector_output_norm", True),
    ("byol_imagenet", "target_momentum", 0.996),
    ("moco_v2_imagenet", "queue_size", 65536),
    ("swav_imagenet", "num_prototypes", 3000),
    ("vicreg_imagenet", "marginal", {"variance": 25, "covariance": 1}),
]


@pytest.mark.parametrize(("name", "column", "value"), PUBLISHED)
def test_a_configuration_makes_the_model_that_was_published(name, column, value):
    from hf_mi_ssl import JMIConfig, SDMIConfig
    from hf_mi_ssl.training import parse_arguments

    args = parse_arguments(["--config", str(RECIPES / "configs" / f"{name}.yaml")], "")
    config = SDMIConfig if METHODS[args.method].paradigm == "sdmi" else JMIConfig
    assert getattr(config.from_method(args.method, **args.columns), column) == value
