"""Representations as parquet: what the encoder says of every image, in order, typed, and streamed to disk."""

import json

import datasets
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

from hf_mi_ssl.evaluation import frozen
from hf_mi_ssl.hub import export_encoder, export_pretraining
from tests.conftest import small_model
from tests.test_downstream import LOADS, recipe


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A directory with what a run exports, and its model."""
    directory = tmp_path_factory.mktemp("run")
    model = small_model("byol").eval()
    export_encoder(model.encoder, directory, image_size=16, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
    export_pretraining(model, directory)
    return directory, model


def loaded(path):
    """The file as `datasets` loads it, and what its metadata say."""
    found = datasets.load_dataset("parquet", data_files={"train": str(path)}, cache_dir=str(path.parent / "cache"))
    return found["train"], json.loads(pq.read_schema(path).metadata[b"hf_mi_ssl"])


def test_every_image_is_represented_in_order_with_its_label(run, folder, monkeypatch):
    monkeypatch.setattr(frozen, "_BATCH", 2)  # 16 batches a row group
    directory, model = run
    argv = ["--model", directory, "--data_dir", folder, *LOADS, "--projector", "--split", "train", "test"]
    assert recipe("extract_features", *argv) == 0
    output = directory / "representations"
    assert {file.name for file in output.iterdir()} == {"train.parquet", "test.parquet"}
    assert pq.ParquetFile(output / "train.parquet").num_row_groups == 3

    rows, about = loaded(output / "train.parquet")
    assert rows["index"][:] == list(range(96))
    assert rows.features["label"].names == ["green", "red"]
    assert rows.features["h"] == datasets.List(datasets.Value("float32"), length=16)
    assert rows.features["z"].length == 16
    h, z = (torch.tensor(rows[column][:]) for column in ("h", "z"))
    with torch.no_grad():
        torch.testing.assert_close(z, model.projector(h), atol=1e-5, rtol=1e-5)

    source = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train")
    assert rows["label"][:] == source["label"][:]
    encoder, processor = AutoModel.from_pretrained(directory), AutoImageProcessor.from_pretrained(directory)
    square = next(i for i, image in enumerate(source["image"]) if image.size == (16, 16))
    with torch.no_grad():  # without this package
        expected = encoder(**processor(source[square]["image"], return_tensors="pt")).pooler_output.flatten()
    torch.testing.assert_close(h[square], expected, atol=1e-4, rtol=1e-4)

    assert about["encoder"] == directory.name
    assert about["processor"]["mean"] == [0.5, 0.4, 0.3]
    assert (about["dataset"], about["split"]) == ("imagefolder", "train")
    assert len(about["revision"]["model.safetensors"]) == 64
    assert str(folder) not in json.dumps(about)
    assert len(loaded(output / "test.parquet")[0]) == 32


def test_without_labels_or_projector_there_are_no_such_columns(run, flat, tmp_path):
    assert recipe("extract_features", "--model", run[0], "--data_dir", flat, *LOADS, "--output_dir", tmp_path) == 0
    assert pq.read_schema(tmp_path / "train.parquet").names == ["index", "h"]


def test_an_image_without_label_has_none(run, tmp_path):
    images = [Image.new("RGB", (16, 16), (40 * i, 9, 9)) for i in range(3)]
    columns = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    data = datasets.Dataset.from_dict({"image": images, "label": [7, None, 3]}, features=columns)
    data.to_parquet(str(tmp_path / "data.parquet"))
    argv = ["--dataset_name", "parquet", "--data_files", f"train={tmp_path / 'data.parquet'}"]
    argv += ["--dataloader_num_workers", "0", "--output_dir", tmp_path / "out"]
    assert recipe("extract_features", "--model", run[0], *argv) == 0
    assert loaded(tmp_path / "out" / "train.parquet")[0]["label"][:] == [7, None, 3]


def test_a_damaged_image_leaves_no_file_behind(run, folder, tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("RGB", (16, 16)).save(tmp_path / "images" / f"{name}.png")
    (tmp_path / "images" / "b.png").write_bytes(b"not a picture")
    argv = ["--model", run[0], "--data_dir", tmp_path / "images", *LOADS, "--output_dir", tmp_path / "out"]
    assert recipe("extract_features", *argv) == 1
    assert "b.png" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--split", "dev"], "has no split 'dev'; its splits: train, test"),
        (["--train_split", "train"], "--train_split is a flag of training and does nothing here"),
        (["--seed", "1"], "--seed is a flag of training and does nothing here"),
    ],
)
def test_a_mistake_costs_one_line_and_exit_code_2(argv, said, run, folder, tmp_path, capsys):
    data = ["--model", run[0], "--data_dir", folder, *LOADS, "--output_dir", tmp_path]
    assert recipe("extract_features", *data, *argv) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert said in error
    assert error.startswith("extract_features.py: ")


def test_an_encoder_alone_has_no_projector(run, folder, tmp_path, capsys):
    export_encoder(run[1].encoder, tmp_path, image_size=16, mean=(0.5,) * 3, std=(0.2,) * 3)
    assert recipe("extract_features", "--model", tmp_path, "--data_dir", folder, *LOADS, "--projector") == 2
    assert "has no projector" in capsys.readouterr().err
