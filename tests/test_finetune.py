"""Fine-tuning: from any encoder to a classifier that a pipeline loads, few labels, mistakes in one line."""

import json
import shutil
from itertools import pairwise

import pytest
import torch
from finetune import FLAGS
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTConfig, ViTModel, pipeline

from hf_mi_ssl.data import ImageStore, Part
from hf_mi_ssl.encoders import build_classifier, build_encoder, load_encoder
from hf_mi_ssl.errors import UserError
from hf_mi_ssl.evaluation import accuracy_interval
from hf_mi_ssl.hub import export_encoder
from hf_mi_ssl.training import ViewTrainer, classes_of, fine_tune, score
from hf_mi_ssl.views import ViewRecipe, random_view
from tests import runs
from tests.conftest import small_model
from tests.test_downstream import LOADS, recipe, written
from tests.test_export import CONFIGS

FAST = ["--num_train_epochs", 2, "--per_device_train_batch_size", 16, "--learning_rate"]
RECIPE = ViewRecipe(size=16, jitter_probability=0.0, grayscale=0.0, crop_scale=(0.5, 1.0))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The directory of an encoder for images of 16 pixels."""
    directory = tmp_path_factory.mktemp("encoder")
    export_encoder(small_model("jmi").encoder, directory, image_size=16, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
    return directory


def part_of(labels, size=16, names=None) -> Part:
    """Noise whose brightness is its label."""
    labels = torch.as_tensor(labels)
    noise = torch.randint(60, (len(labels), 3, size, size), generator=torch.Generator().manual_seed(0))
    levels = torch.searchsorted(labels.unique(), labels.clamp_min(labels.min())) * 90
    store = ImageStore((noise + levels[:, None, None, None]).to(torch.uint8), labels, "cpu")
    return Part(store, torch.arange(len(labels)), "train", names)


def learnt(encoder, part, **settings):
    """A classifier after a few steps, and the classes."""
    classes, names = classes_of(part)
    settings = {"freeze_encoder": False, "batch_size": 8, "learning_rate": 0.01, "num_train_epochs": 2} | settings
    return fine_tune(encoder, part, classes, names, RECIPE, seed=settings.pop("seed", 0), **settings), classes


# Few labels


def test_few_labels_are_balanced_nested_and_a_function_of_the_seed():
    labels = torch.tensor([5] * 100 + [2] * 300 + [9] * 20)
    part = part_of(labels)
    chosen = {fraction: part.few_labels(fraction, seed=1) for fraction in (1e-6, 0.05, 0.1, 0.5, 1)}
    counts = {fraction: [int((few.labels == label).sum()) for label in (5, 2, 9)] for fraction, few in chosen.items()}
    assert counts == {1e-6: [1, 1, 1], 0.05: [7, 7, 7], 0.1: [14, 14, 14], 0.5: [70, 70, 20], 1: [100, 300, 20]}
    indices = [set(few.indices.tolist()) for few in chosen.values()]
    assert all(fewer < more for fewer, more in pairwise(indices))
    assert torch.equal(part.few_labels(0.1, 1).indices, chosen[0.1].indices)
    assert not torch.equal(part.few_labels(0.1, 2).indices, chosen[0.1].indices)
    assert chosen[0.1].indices[0] > 0  # by chance, not the first of each class
    assert (chosen[0.1].split, len(chosen[0.1])) == ("train", 42)
    for fraction in (0, -0.1, 1.01):
        with pytest.raises(UserError, match="fraction"):
            part.few_labels(fraction, 0)


def test_few_labels_of_a_part_stay_within_it():
    part = part_of([0, 1] * 50)
    half = Part(part.images, torch.arange(50, 100), "train")
    assert half.few_labels(0.2, 0).indices.min() >= 50


def test_classes_are_those_of_all_parts_and_have_names():
    assert classes_of(part_of([7, 3]), part_of([3, 11]))[1] == ["3", "7", "11"]
    classes, names = classes_of(part_of([2, 0], names=["a", "b", "c"]))
    assert (classes.tolist(), names) == ([0, 1, 2], ["a", "b", "c"])
    with pytest.raises(UserError, match="nothing to tell apart"):
        classes_of(part_of([4, 4, 4]))


# The classifier


@pytest.mark.parametrize("name", CONFIGS)
def test_every_encoder_becomes_a_classifier_with_its_weights_and_a_new_head(name, tmp_path):
    torch.manual_seed(0)
    encoder = build_encoder(CONFIGS[name]())
    export_encoder(encoder, tmp_path / "encoder", image_size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    encoder = load_encoder(tmp_path / "encoder")
    before = {key: tensor.clone() for key, tensor in encoder.state_dict().items()}
    classifier = build_classifier(encoder, ["cat", "dog", "owl"])
    base = classifier.base_model.state_dict()
    assert all(torch.equal(base[key], tensor) for key, tensor in encoder.base_model.state_dict().items())
    images = torch.randn(2, 3, 32, 32)
    heads = [build_classifier(encoder, ["cat", "dog", "owl"]).eval()(images).logits for _ in range(2)]
    assert heads[0].shape == (2, 3)
    assert not torch.equal(*heads)

    classifier(images, labels=torch.tensor([0, 1])).loss.backward()
    still = {name for name, parameter in classifier.named_parameters() if parameter.grad is None}
    assert all("mask_token" in name for name in still)  # that of a ViT sees no image
    with torch.no_grad():
        classifier.base_model.state_dict()[next(iter(encoder.base_model.state_dict()))].add_(1)
    assert all(torch.equal(tensor, before[key]) for key, tensor in encoder.state_dict().items())  # a copy

    export_encoder(classifier, tmp_path / "classifier", image_size=32, mean=(0.1,) * 3, std=(0.2,) * 3)
    classify = pipeline("image-classification", str(tmp_path / "classifier"))
    photo = Image.new("RGB", (50, 40), (200, 10, 60))
    with torch.no_grad():
        inputs = AutoImageProcessor.from_pretrained(tmp_path / "classifier")(photo, return_tensors="pt")
        expected = classifier.eval()(**inputs).logits.softmax(1)[0]
    said = {row["label"]: row["score"] for row in classify(photo)}
    assert said.keys() == {"cat", "dog", "owl"}
    assert said["dog"] == pytest.approx(expected[1].item(), abs=1e-4)


@pytest.mark.parametrize("name", ["mi_resnet", "dinov2", "timm_resnet"])
def test_a_frozen_encoder_does_not_move_and_its_head_does(name, tmp_path):
    torch.manual_seed(0)
    encoder = build_encoder(CONFIGS[name]())
    free, _ = learnt(encoder, part := part_of([0, 1] * 8, size=32), output_dir=str(tmp_path))
    frozen, _ = learnt(encoder, part, freeze_encoder=True, output_dir=str(tmp_path))
    weights = encoder.base_model.state_dict()
    moved = {key for key, tensor in frozen.base_model.state_dict().items() if key in weights
             and not torch.equal(tensor, weights[key])}  # fmt: skip
    assert not moved
    assert any(not torch.equal(free.base_model.state_dict()[key], tensor) for key, tensor in weights.items())
    fresh = build_classifier(encoder, ["0", "1"], True)
    heads = [key for key, parameter in fresh.named_parameters() if parameter.requires_grad]
    assert len(heads) == 2
    assert any("running_mean" in key for key in weights) == (name != "dinov2")


def test_the_head_of_an_earlier_classifier_is_not_taken_over(exported, tmp_path):
    classifier = build_classifier(load_encoder(exported), ["a", "b"])
    export_encoder(classifier, tmp_path, image_size=16, mean=(0.5,) * 3, std=(0.5,) * 3)
    again = build_classifier(load_encoder(tmp_path), ["a", "b"])
    assert not torch.equal(again.classifier[1].weight, classifier.classifier[1].weight)


def test_an_encoder_without_classifier_is_refused():
    with pytest.raises(UserError, match="no image classifier for encoders of type 'jmi'"):
        build_classifier(small_model("jmi"), ["a", "b"])


# Training


def test_batches_are_functions_of_seed_epoch_and_index(exported, tmp_path):
    part = part_of(torch.arange(40) % 4 * 10)
    part = Part(part.images, torch.arange(3, 40), "train")
    classes, names = classes_of(part)
    model = build_classifier(load_encoder(exported), names)
    trainer = ViewTrainer(model, part, classes, RECIPE, 8, output_dir=str(tmp_path), seed=5)
    loader = trainer.get_train_dataloader()
    loader.set_epoch(1)
    one, again = list(loader), list(loader)
    assert len(one) == len(loader) == 37 // 8
    assert all(torch.equal(a[key], b[key]) for a, b in zip(one, again) for key in a)
    loader.set_epoch(2)
    assert not torch.equal(next(iter(loader))["pixel_values"], one[0]["pixel_values"])
    for batch in one:
        assert batch["labels"].max() < 4
        for view, label in zip(batch["pixel_values"], batch["labels"]):  # each label is that of its image
            of_class = part.indices[part.labels == label * 10]
            views = random_view(part.images.fetch(of_class), RECIPE, 5, 1, of_class)
            assert any(torch.equal(view, other) for other in views)


def test_it_learns_and_repeats_itself_and_keeps_no_pickle(exported, tmp_path):
    part = part_of([4, 8] * 32)
    settings = {"learning_rate": 0.02, "num_train_epochs": 4, "output_dir": str(tmp_path)}
    encoder = load_encoder(exported)
    first, classes = learnt(encoder, part, **settings)
    assert score(first, part, classes, RECIPE)[0] == 64
    torch.randn(7)
    second, _ = learnt(encoder, part, **settings)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values()))
    other, _ = learnt(encoder, part, **settings, seed=1)
    assert any(not torch.equal(a, b) for a, b in zip(first.state_dict().values(), other.state_dict().values()))
    assert not list(tmp_path.iterdir())


def test_a_score_is_infinite_where_training_diverged(exported):
    part = part_of([4, 8] * 8)
    model = build_classifier(load_encoder(exported), ["4", "8"])
    correct, loss = score(model, part, classes_of(part)[0], RECIPE)
    assert 0 <= correct <= 16
    assert 0 < loss < 10
    with torch.no_grad():
        model.classifier[1].weight.fill_(torch.nan)
    assert score(model, part, classes_of(part)[0], RECIPE)[1] == float("inf")


# The recipe


@pytest.fixture
def finished(exported, folder, tmp_path):
    """What of a run matters here: its encoder, arguments and results."""
    directory = tmp_path / "run"
    shutil.copytree(exported, directory)
    data = {"dataset_name": "imagefolder", "data_dir": str(folder), "dataloader_num_workers": 0, "image_size": 16}
    (directory / "training_args.json").write_text(json.dumps(data | {"output_dir": str(directory), "seed": 3}))
    (directory / "results.json").write_text(json.dumps({"method": "jmi", "evaluations": []}))
    return directory


def test_a_run_is_fine_tuned_chosen_within_train_and_put_on_its_card(finished, folder, capsys):
    weights = (finished / "model.safetensors").read_bytes()
    argv = ["--model", finished, "--config", finished / "training_args.json", "--label_fraction", 0.5]
    assert recipe("finetune", *argv, *FAST, 1e-6, 0.02) == 0
    output = finished.with_name("run-finetuned")
    said, found = capsys.readouterr().out, written(output, "finetune")
    assert "learning rate 1e-06, 2 epochs: " in said
    assert " of 5, loss" in said  # a tenth of 48
    (row,) = found["evaluations"]
    assert row["chosen"] == {"learning_rate": 0.02, "num_train_epochs": 2}
    assert list(row)[:9] == ["name", "value", "low", "high", "n", "split", "protocol", "encoder", "branch"]
    assert (row["name"], row["split"], row["n"]) == ("finetune_top1_50pct", "test", 32)
    assert (row["encoder"], row["branch"]) == ("trained", "online")
    assert (row["low"], row["high"]) == accuracy_interval(round(32 * row["value"]), 32)
    assert "48 labelled images of train" in row["protocol"]
    assert "learning rate 1e-06 or 0.02, weight decay 0.05, 2 epochs" in row["protocol"]  # the same for every seed
    assert "chosen: learning rate 0.02, 2 epochs" in said
    assert len(row["protocol"]) <= 300  # more is cut on the card
    assert row["value"] == 1.0  # red and green
    assert (found["encoder"], row["dataset"], row["seed"]) == ("run", "imagefolder", 3)
    assert str(folder) not in json.dumps(found)

    files = {file.name for file in output.iterdir()}
    assert files == {"config.json", "model.safetensors", "preprocessor_config.json", "finetune.json"}
    classify = pipeline("image-classification", str(output))
    for colour in ("red", "green"):
        image = Image.open(next((folder / "test" / colour).iterdir()))
        assert classify(image)[0]["label"] == colour
    assert AutoModelForImageClassification.from_pretrained(output).config.id2label == {0: "green", 1: "red"}
    assert (finished / "model.safetensors").read_bytes() == weights
    assert "fine-tuning, 50 % of the labels" in (finished / "README.md").read_text()


@pytest.mark.parametrize(("name", "more"), [("linear_probe", []), ("finetune", [*FAST, 1e-6, 0.02])])
def test_labels_of_test_have_no_part_in_what_is_chosen(name, more, exported, folder, tmp_path):
    """Were anything chosen by test, wrong labels there would choose what learns nothing."""
    shutil.copytree(folder / "train", tmp_path / "swapped" / "train")
    for colour, other in (("red", "green"), ("green", "red")):
        shutil.copytree(folder / "test" / colour, tmp_path / "swapped" / "test" / other)
    found = {}
    for place in (folder, tmp_path / "swapped"):
        output = tmp_path / f"of-{place.name}"
        argv = ["--model", exported, "--data_dir", place, *LOADS, "--output_dir", output]
        assert recipe(name, *argv, *more) == 0
        found[place] = written(output, name)["evaluations"]
    for right, wrong in zip(*found.values()):
        assert right["chosen"] == wrong["chosen"]
        assert (right["value"], wrong["value"]) == (1.0, 0.0)
        assert right["protocol"] == wrong["protocol"]


def test_a_frozen_encoder_is_told_apart_in_the_rows_of_any_encoder(exported, folder, tmp_path):
    encoder = tmp_path / "encoder"
    shutil.copytree(exported, encoder)
    argv = ["--model", encoder, "--data_dir", folder, *LOADS, "--output_dir", tmp_path / "out", "--freeze_encoder"]
    assert recipe("finetune", *argv, *FAST, 0.01) == 0
    (row,) = written(tmp_path / "out", "finetune")["evaluations"]
    assert row["name"] == "finetune_frozen_top1"
    assert row["protocol"].startswith("new linear head on the frozen encoder")
    tuned, given = (load_file(place / "model.safetensors") for place in (tmp_path / "out", encoder))
    assert all(torch.equal(tuned[f"resnet.{key}"], tensor) for key, tensor in given.items())
    assert {file.name for file in encoder.iterdir()} == {file.name for file in exported.iterdir()}  # no card, no row


def test_an_encoder_at_random_is_of_the_same_kind_and_has_nothing_of_the_weights(exported, folder, tmp_path):
    other = tmp_path / "other"
    export_encoder(small_model("jmi", seed=1).encoder, other, image_size=16, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
    for name, encoder in (("one", exported), ("two", other)):
        argv = ["--model", encoder, "--data_dir", folder, *LOADS, "--output_dir", tmp_path / name, "--random_encoder"]
        assert recipe("finetune", *argv, *FAST, 0.01) == 0
    (row,) = written(tmp_path / "one", "finetune")["evaluations"]
    assert (row["name"], row["encoder"]) == ("finetune_top1", "random")
    assert row["protocol"].startswith("encoder and a new linear head, both from random weights")
    assert set(row["settings"]) == {*FLAGS, "freeze_encoder"}
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all(torch.equal(two[key], tensor) for key, tensor in one.items())


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--label_fraction", "0"], "cannot keep the fraction 0"),
        (["--learning_rate", "0.1", "-1"], "--learning_rate, --num_train_epochs"),
        (["--num_train_epochs", "0"], "must be above 0"),
        (["--num_train_epochs", "1.5"], "invalid int value"),
        (["--warmup_epochs", "1"], "--warmup_epochs is a flag of training and does nothing here"),
        (["--label_fraction", "0.1", "--learning_rate", "1", "2"], "a tenth of 10 labels is too little to choose by"),
        (["--output_dir", "{model}"], "holds another model"),
    ],
)
def test_a_mistake_costs_one_line_and_exit_code_2(argv, said, exported, folder, tmp_path, capsys):
    data = ["--model", exported, "--data_dir", folder, *LOADS, "--output_dir", tmp_path / "out"]
    assert recipe("finetune", *data, *(word.format(model=exported) for word in argv)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert said in error
    assert error.startswith("finetune.py: ")
    assert not (tmp_path / "out" / "config.json").exists()


def test_labels_sizes_and_other_models_are_checked_before_training(exported, flat, folder, tmp_path, capsys):
    assert recipe("finetune", "--model", exported, "--data_dir", flat, *LOADS, "--output_dir", tmp_path) == 2
    assert "has no labels: name their column with --label_column_name" in capsys.readouterr().err
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    ViTModel(ViTConfig(image_size=32, patch_size=8, **sizes)).save_pretrained(tmp_path / "vit")
    argv = ["--model", tmp_path / "vit", "--data_dir", folder, *LOADS, "--output_dir", tmp_path / "out"]
    assert recipe("finetune", *argv, "--image_size", 16) == 2
    assert "no images of 16 pixels" in capsys.readouterr().err
    assert recipe("finetune", *argv, "--image_size", 32, *FAST, 1e30) == 1
    assert "training diverged: try a --learning_rate below 1e+30" in capsys.readouterr().err


@pytest.mark.slow
def test_a_pretrained_encoder_fine_tunes_above_chance(tmp_path):
    flags = ["--image_size", "32", "--num_train_epochs", "4", "--eval_steps", "1000", "--mi_steps", "0",
             "--set", "projector_hidden_size=64", "projection_size=32", "--dataloader_num_workers", "0"]  # fmt: skip
    assert runs.run("jmi", tmp_path / "run", *flags) == 0
    argv = ["--model", tmp_path / "run", "--config", tmp_path / "run" / "training_args.json"]
    assert recipe("finetune", *argv, "--num_train_epochs", 12, "--learning_rate", 3e-3) == 0
    (row,) = written(tmp_path / "run-finetuned", "finetune")["evaluations"]
    assert row["n"] == 1024
    assert row["low"] > 2 / 8  # chance is 1 / 8
