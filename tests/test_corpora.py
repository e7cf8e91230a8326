"""Folders, parquet files and Hub names become one kind of corpus, and what is wrong with them is said in one line."""

import io
from unittest.mock import Mock

import datasets
import pyarrow
import pyarrow.parquet
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from fsspec.implementations.local import LocalFileSystem
from PIL import Image

from hf_mi_ssl.data.corpora import load_corpus
from hf_mi_ssl.errors import UserError
from tests.shards import write_shards


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


def picture(level, size=(6, 6), mode="RGB"):
    return Image.new("L", size, level).convert(mode)


def png(level):
    buffer = io.BytesIO()
    picture(level).save(buffer, "PNG")
    return buffer.getvalue()


def cell(level):
    return {"bytes": png(level), "path": None}


def save(folder, **images):
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in images.items():
        image.save(folder / f"{name}.png")


def write_parquet(path, columns, features=None):
    Dataset.from_dict(columns, features=features).to_parquet(path)
    return str(path)


def levels(corpus):
    return [corpus.read(i).getpixel((0, 0))[0] for i in range(len(corpus))]


def one_line(call, match, exit_code=2):
    with pytest.raises(UserError, match=match) as error:
        call()
    assert "\n" not in str(error.value)
    assert error.value.exit_code == exit_code


def test_a_folder_of_classes_and_splits_with_mixed_sizes_and_modes(tmp_path):
    for split, shift in (("train", 0), ("test", 1)):
        save(tmp_path / split / "cat", a=picture(10 + shift), b=picture(20 + shift, (9, 5), "L"))
        save(tmp_path / split / "dog", a=picture(30 + shift, (5, 9), "RGBA"))
    corpus = load_corpus("imagefolder", data_dir=str(tmp_path), split="test")
    assert (len(corpus), corpus.split, corpus.available_splits) == (3, "test", ["train", "test"])
    assert levels(corpus) == [11, 21, 31]
    assert corpus.labels.tolist() == [0, 0, 1]
    assert corpus.labels.dtype == torch.int64
    assert corpus.label_names == ["cat", "dog"]
    squares = corpus.squares(torch.tensor([2, 0]), 4)
    assert squares.shape == (2, 3, 4, 4)
    assert squares[:, 0, 0, 0].tolist() == [31, 11]


def test_a_flat_folder_has_no_labels_and_its_path_is_name_enough(tmp_path):
    save(tmp_path, a=picture(1), b=picture(2))
    corpus = load_corpus(str(tmp_path), split="train")
    assert levels(corpus) == [1, 2]
    assert corpus.labels is None
    assert corpus.label_names is None


def test_the_folders_of_splits_are_not_taken_for_classes(tmp_path):
    for split in ("train", "test"):
        save(tmp_path / split, a=picture(1), b=picture(2))
    for split in ("train", "test"):
        assert load_corpus("imagefolder", data_dir=str(tmp_path), split=split).labels is None


def test_the_fingerprint_follows_the_data(tmp_path):
    save(tmp_path, a=picture(1))
    first, again = (load_corpus(str(tmp_path), split="train").fingerprint for _ in range(2))
    assert first == again
    save(tmp_path, b=picture(2))
    assert load_corpus(str(tmp_path), split="train").fingerprint != first


def test_parquet_with_hf_metadata(tmp_path):
    features = Features({"picture": datasets.Image(), "kind": ClassLabel(names=["x", "y"])})
    files = {
        split: write_parquet(tmp_path / f"{split}.parquet", {"picture": [cell(7), cell(8)], "kind": [1, 0]}, features)
        for split in ("train", "test")
    }
    corpus = load_corpus("parquet", data_files=files, split="test")
    assert levels(corpus) == [7, 8]
    assert corpus.labels.tolist() == [1, 0]
    assert corpus.label_names == ["x", "y"]


@pytest.mark.parametrize("raw", [cell, png])
def test_raw_parquet_with_structs_or_plain_bytes(tmp_path, raw):
    table = pyarrow.table({"id": [1, 2], "img": [raw(7), raw(8)], "label": [5, 3]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    corpus = load_corpus("parquet", data_files=str(tmp_path / "*.parquet"), split="train")
    assert levels(corpus) == [7, 8]
    assert corpus.labels.tolist() == [5, 3]
    assert corpus.label_names is None


@pytest.mark.parametrize("labels", ["cls", "json"])
def test_webdataset_shards(tmp_path, labels):
    files = {
        split: write_shards(tmp_path / split, "tar", sizes, labels=labels)
        for split, sizes in (("train", (3, 2)), ("test", (2,)))
    }
    corpus = load_corpus("webdataset", data_files=files, split="train")
    assert (levels(corpus), corpus.available_splits) == ([0, 1, 2, 3, 4], ["train", "test"])
    assert corpus.labels.tolist() == ([0, 1, 0, 1, 0] if labels == "cls" else [1, 0, 1, 0, 1])
    assert corpus.label_names == (None if labels == "cls" else ["a", "b"])
    if labels == "json":
        other = load_corpus("webdataset", data_files=files, split="train", label_column_name="json.id")
        assert other.labels.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("where", ["data_files", "data_dir"])
def test_a_tar_that_is_cut_off_anywhere_is_not_read_as_a_shorter_one(tmp_path, where):
    files = write_shards(tmp_path / "shards", "tar", (3, 2))
    last = tmp_path / "shards" / "001.tar"
    whole = last.read_bytes()
    content = len(whole.rstrip(bytes(1)))
    place = {"data_files": {"train": files}} if where == "data_files" else {"data_dir": str(tmp_path / "shards")}
    assert len(load_corpus("webdataset", split="train", **place)) == 5
    for end in (0, 100, *range(512, content, 512), content):
        last.write_bytes(whole[:end])
        with pytest.raises(UserError, match=r"001\.tar is cut off: .*; fetch or pack it again"):
            load_corpus("webdataset", split="train", **place)


def test_string_labels_have_the_same_ids_in_every_split(tmp_path):
    files = {
        split: write_parquet(tmp_path / f"{split}.parquet", {"image": [cell(1)] * len(kinds), "kind": kinds})
        for split, kinds in (("train", ["owl", "ant", None]), ("test", ["owl", "bee", "owl"]))
    }
    train, test = (load_corpus("parquet", data_files=files, split=s, label_column_name="kind") for s in files)
    assert train.label_names == test.label_names == ["ant", "bee", "owl"]
    assert train.labels.tolist() == [2, 0, -1]
    assert test.labels.tolist() == [2, 1, 2]


def test_columns_that_are_no_labels_are_left_alone(tmp_path):
    file = write_parquet(tmp_path / "a.parquet", {"image": [cell(1)], "label": [0.5], "caption": ["a cat"]})
    assert load_corpus("parquet", data_files=file, split="train").labels is None
    one_line(
        lambda: load_corpus("parquet", data_files=file, split="train", label_column_name="label"),
        "label column 'label' holds float64; choose one of integers or strings",
    )


def test_rows_without_any_label_are_not_labelled(tmp_path):
    unlabelled = {"image": [cell(1)] * 2, "label": [-1, -1]}
    lists = {"image": [cell(1)], "label": [[1, 2]]}
    for name, columns in (("a", unlabelled), ("b", lists)):
        file = write_parquet(tmp_path / f"{name}.parquet", columns)
        assert load_corpus("parquet", data_files=file, split="train").labels is None


def test_paths_in_rows_are_opened_beside_the_data_only(tmp_path):
    data = tmp_path / "data"
    save(data, inside=picture(9))
    save(tmp_path, outside=picture(9))
    paths = ["inside.png", str(tmp_path / "outside.png"), "../outside.png", "http://127.0.0.1:9/a.png"]
    cells = [{"bytes": None, "path": path} for path in paths]
    pyarrow.parquet.write_table(pyarrow.table({"image": cells}), data / "a.parquet")
    corpus = load_corpus("parquet", data_files=str(data / "a.parquet"), split="train")
    assert corpus.read(0).getpixel((0, 0)) == (9, 9, 9)
    for row, reason in ((1, "not a file in the folder"), (2, "not a file in the folder"), (3, "never fetched")):
        one_line(lambda row=row: corpus.read(row), f"row {row} .*{reason}", exit_code=1)


def test_an_image_that_cannot_be_decoded_is_named_by_split_row_and_file(tmp_path):
    for name in "abc":
        save(tmp_path, **{name: picture(1)})
    Image.effect_noise((20, 20), 50).save(tmp_path / "b.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:200])
    corpus = load_corpus(str(tmp_path), split="train")
    match = r"split 'train', row 1 \(.*b\.png\): corrupt or truncated"
    one_line(lambda: corpus.read(1), match, exit_code=1)
    one_line(lambda: corpus.squares(torch.arange(3), 4), match, exit_code=1)
    one_line(lambda: corpus.read(-2), match, exit_code=1)


@pytest.fixture
def two_images(tmp_path):
    row = {"left": [cell(1)], "right": [cell(2)], "caption": ["x"]}
    features = Features({"left": datasets.Image(), "right": datasets.Image(), "caption": Value("string")})
    return {"data_files": write_parquet(tmp_path / "two.parquet", row, features), "split": "train"}


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({}, "several columns hold images: left, right; choose one with --image_column_name"),
        ({"image_column_name": "lift"}, "unknown image column 'lift'; did you mean 'left'"),
        ({"image_column_name": "caption"}, r"'caption' \(string\) holds no images; those with: left, right"),
        ({"image_column_name": "left", "label_column_name": "kaption"}, "unknown label column .* 'caption'"),
        ({"image_column_name": "left", "split": "test"}, "no split 'test'; its splits: train"),
    ],
)
def test_columns_and_splits_that_do_not_fit(two_images, arguments, match):
    one_line(lambda: load_corpus("parquet", **(two_images | arguments)), match)
    assert levels(load_corpus("parquet", **two_images, image_column_name="right")) == [2]


def test_places_that_do_not_exist_or_hold_nothing(tmp_path):
    text = write_parquet(tmp_path / "text.parquet", {"text": ["a"], "n": [1]})
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("no image")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    for name, arguments, match in (
        ("imagefolder", {}, "imagefolder needs the place of the data: give --data_dir DIR"),
        ("parquet", {}, "parquet needs the place of the data: give --data_files"),
        ("webdataset", {}, "webdataset needs the place of the data: give --data_files train=A.tar test=B.tar"),
        ("imagefolder", {"data_dir": str(tmp_path / "no")}, "directory '.*no' does not exist; check --data_dir"),
        (str(tmp_path / "no"), {}, "directory '.*no' does not exist; give a folder of images"),
        ("imagefolder", {"data_dir": str(tmp_path / "empty")}, "no images in .*empty"),
        ("imagefolder", {"data_dir": str(tmp_path / "text")}, "no images in .*text"),
        (
            "parquet",
            {"data_files": {"train": str(tmp_path / "no.parquet")}},
            "data file .* does not exist",
        ),
        ("parquet", {"data_files": text}, r"no column holds images among text \(string\), n \(int64\); choose"),
        ("parquet", {"data_files": [str(tmp_path / "broken.parquet")]}, "cannot load 'parquet' from .*broken.parquet"),
    ):
        one_line(lambda name=name, arguments=arguments: load_corpus(name, split="train", **arguments), match)


@pytest.mark.parametrize(
    ("outcome", "match"),
    [
        (DatasetDict(train=Dataset.from_dict({"image": []})), "the split 'train' of 'nobody/none' holds no rows"),
        (datasets.exceptions.DatasetNotFoundError("x\ny"), "no data set 'nobody/none' on the Hub, or it is private"),
        (ConnectionError("x\ny"), "cannot reach the Hub for the data set 'nobody/none'"),
        (
            ValueError("Config name is missing.\nPlease pick one"),
            "cannot load 'nobody/none' .*: Config name is",
        ),
    ],
)
def test_hub_failures_are_one_line(monkeypatch, outcome, match):
    monkeypatch.setattr(datasets, "load_dataset", Mock(side_effect=[outcome]))
    one_line(lambda: load_corpus("nobody/none", split="train"), match)


def test_the_hub_is_asked_for_no_remote_code_and_rows_with_foreign_paths_are_refused(monkeypatch, tmp_path):
    save(tmp_path, mine=picture(1))
    rows = {"image": [cell(4), {"bytes": None, "path": str(tmp_path / "mine.png")}], "labels": [True, False]}
    load = Mock(return_value=DatasetDict(train=Dataset.from_dict(rows)))
    monkeypatch.setattr(datasets, "load_dataset", load)
    corpus = load_corpus("somebody/pictures", split="train")
    load.assert_called_once_with(path="somebody/pictures", data_files=None, data_dir=None)
    assert corpus.read(0).getpixel((0, 0)) == (4, 4, 4)
    one_line(lambda: corpus.read(1), "row 1 .*not a file in the folder", exit_code=1)


def test_progress_bars_are_silent_when_stderr_is_not_a_terminal(tmp_path, capfd):
    save(tmp_path, a=picture(1))
    load_corpus(str(tmp_path), split="train")
    assert capfd.readouterr().err == ""
    assert not datasets.are_progress_bars_disabled()


def test_a_folder_is_walked_a_few_times_and_not_for_each_name_of_a_split(tmp_path, monkeypatch):
    save(tmp_path / "cat", a=picture(1))
    listed, find, ls = [], LocalFileSystem.find, LocalFileSystem.ls

    def noted(self, path, *args, **more):
        listed.append(str(path))
        return ls(self, path, *args, **more)

    monkeypatch.setattr(LocalFileSystem, "ls", noted)
    assert len(load_corpus("imagefolder", data_dir=str(tmp_path), split="train")) == 1
    assert 1 <= listed.count(str(tmp_path / "cat")) <= 4
    assert LocalFileSystem.find is find
