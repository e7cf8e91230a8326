"""Wherever pixels are kept, batches are the same bit for bit; the file of pixels is complete, checked and shared."""

import io
import json
import logging
import os
import shutil

import datasets
import pytest
import torch
from filelock import FileLock
from PIL import Image
from torch import multiprocessing
from torch._subclasses.fake_tensor import FakeTensorMode

from hf_mi_ssl import files
from hf_mi_ssl.data import open_train_and_held_out, pixel_file, placement, training_batches
from hf_mi_ssl.data.bad import BadImages
from hf_mi_ssl.data.corpora import load_corpus
from hf_mi_ssl.data.images import decode, to_square
from hf_mi_ssl.data.pixel_file import default_cache_dir
from hf_mi_ssl.data.placement import open_images
from hf_mi_ssl.data.readers import ImageReader
from hf_mi_ssl.data.store import ImageStore
from hf_mi_ssl.errors import UserError
from hf_mi_ssl.evaluation import Evaluation
from hf_mi_ssl.views import view_recipes
from tests.conftest import small_model

SIZE, N = 8, 40
BAD = {3: b"", 17: b"<html>404</html>"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def folder_of(path, bad=()):
    path.mkdir()
    for i in range(N):
        Image.linear_gradient("L").resize((9 + i % 5, 12)).point(lambda v, i=i: v // 2 + i).save(path / f"{i:02}.png")
    for i in bad:
        (path / f"{i:02}.png").write_bytes(BAD[i])
    return path


@pytest.fixture
def good(tmp_path):
    return folder_of(tmp_path / "good")


@pytest.fixture
def with_bad(tmp_path):
    return folder_of(tmp_path / "with_bad", BAD)


def parts_of(folder, placement, num_workers=0, **more):
    return open_train_and_held_out(
        dataset_name="imagefolder",
        data_dir=str(folder),
        train_split="train",
        eval_split=None,
        image_size=SIZE,
        seed=1,
        placement=placement,
        num_workers=num_workers,
        **{"device": torch.device("cpu"), "max_bad_fraction": 0.1} | more,
    )


def batches_of(folder, placement, num_workers=0, start=0, ranks=1):
    """The global batches from `start` to the end of two epochs: their epochs, indices and pixels."""
    found = []
    for rank in range(ranks):
        train, _ = parts_of(folder, placement, num_workers)
        found.append(list(training_batches(train, range(start, 8), 8, seed=5, rank=rank, world=ranks)))
    return [(of[0][0], torch.cat([x[1] for x in of]), torch.cat([x[2] for x in of])) for of in zip(*found)]


def same(one, other):
    return len(one) == len(other) and all(
        a[0] == b[0] and torch.equal(a[1], b[1]) and torch.equal(a[2], b[2]) for a, b in zip(one, other)
    )


@pytest.mark.parametrize("data", ["good", "with_bad"])
def test_every_placement_gives_the_same_batches_with_any_workers_processes_and_resumption(data, request):
    folder = request.getfixturevalue(data)
    expected = batches_of(folder, "memory")
    for how in (
        {"placement": "stream"},
        {"placement": "stream", "num_workers": 2},
        {"placement": "stream", "ranks": 2},
        {"placement": "memory", "ranks": 4},
        {"placement": "device"},
        {"placement": "auto"},
    ):
        assert same(batches_of(folder, **how), expected), how
    for how in ("memory", "stream"):
        assert same(batches_of(folder, how, start=5), expected[5:])
    seen = torch.cat([indices for _, indices, _ in expected])
    if data == "with_bad":
        assert not set(seen.tolist()) & set(BAD)
        epoch = torch.cat([indices for _, indices, _ in expected[:4]])
        assert len(epoch.unique()) < len(epoch), "nothing stood in for anything: choose another seed"
    pixels = parts_of(folder, "memory")[0].images
    assert all(torch.equal(images, pixels.fetch(indices)) for _, indices, images in expected)


def test_what_stands_in_comes_from_the_images_that_are_trained_on(with_bad):
    train, held = parts_of(with_bad, "stream")
    seen = {i for _, indices, _ in training_batches(train, range(80), 8, seed=5) for i in indices.tolist()}
    assert seen == set(train.indices.tolist()) - set(BAD)
    assert not set(held.indices.tolist()) & set(BAD)
    assert len(train) + len(held) + sum(i not in train.indices for i in BAD) == N


@pytest.mark.parametrize("where", ["memory", "stream"])
def test_evaluation_leaves_bad_images_out(with_bad, where):
    train, _ = parts_of(with_bad, where)
    indices, images = zip(*train.images.batches([torch.tensor([3, 4, 17]), torch.tensor([17]), torch.tensor([5])]))
    assert torch.cat(indices).tolist() == [4, 5]
    assert torch.equal(torch.cat(images), train.images.fetch(torch.tensor([4, 5])))


def test_the_second_start_decodes_nothing(good, monkeypatch):
    first = batches_of(good, "memory")
    monkeypatch.setattr("hf_mi_ssl.data.images.decode", None)
    monkeypatch.setattr("hf_mi_ssl.data.corpora.decode_cell", None)
    assert same(batches_of(good, "memory"), first)


def file_of(corpus, **more):
    images = open_images(corpus, SIZE, placement="memory", **more)
    assert isinstance(images, ImageStore)
    return images


def the_file():
    (path,) = default_cache_dir().glob("*.uint8")
    return path


def test_a_file_is_known_by_data_column_size_and_version_of_decoding(good, monkeypatch):
    corpus = load_corpus(str(good), split="train")
    file_of(corpus)
    again = the_file().stat().st_mtime_ns
    file_of(corpus)
    assert the_file().stat().st_mtime_ns == again
    open_images(corpus, SIZE + 1, placement="memory")
    assert len(list(default_cache_dir().glob("*.uint8"))) == 2
    monkeypatch.setattr(pixel_file, "FORMAT", pixel_file.FORMAT + 1)
    file_of(corpus)
    assert len(list(default_cache_dir().glob("*.uint8"))) == 3
    Image.new("RGB", (9, 12), "red").save(good / "05.png")
    changed = load_corpus(str(good), split="train")
    assert changed.fingerprint != corpus.fingerprint
    assert file_of(changed).fetch(torch.tensor([5]))[0, 0].min() == 255


@pytest.mark.parametrize(
    "damage", ["cut", "empty", "overwritten", "a byte", "no manifest", "torn manifest", "other manifest"]
)
def test_a_file_that_does_not_match_is_decoded_again(good, damage, caplog):
    corpus = load_corpus(str(good), split="train")
    expected = file_of(corpus).images.clone()
    path = the_file()
    manifest = path.with_suffix(".json")
    if damage in ("cut", "empty"):
        os.truncate(path, path.stat().st_size // 2 if damage == "cut" else 0)
    elif damage == "overwritten":
        path.write_bytes(bytes(path.stat().st_size))
    elif damage == "a byte":
        content = bytearray(path.read_bytes())
        content[len(content) // 3] ^= 1
        path.write_bytes(content)
    elif damage == "no manifest":
        manifest.unlink()
    elif damage == "torn manifest":
        manifest.write_text(manifest.read_text()[:30])
    else:
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"what": {}}))
    assert torch.equal(file_of(corpus).images, expected)
    said = [message for message in caplog.messages if "decoding again" in message]
    assert len(said) == (damage != "no manifest")
    assert not list(default_cache_dir().glob("*.tmp"))


def test_processes_check_a_file_at_once_and_one_of_them_decodes_what_is_damaged(good, monkeypatch, caplog):
    corpus = load_corpus(str(good), split="train")
    expected = file_of(corpus).images.clone()
    with FileLock(the_file().with_suffix(".lock")):  # of a process that is still at it
        assert torch.equal(file_of(corpus, timeout=1).images, expected)
    the_file().write_bytes(bytes(the_file().stat().st_size))
    valid, write, written = pixel_file._valid, pixel_file._write, []

    def found_damaged_by_another_at_the_same_time(*args):
        rows = valid(*args)
        monkeypatch.setattr(pixel_file, "_valid", valid)
        assert rows is None
        file_of(corpus)
        return rows

    monkeypatch.setattr(pixel_file, "_valid", found_damaged_by_another_at_the_same_time)
    monkeypatch.setattr(pixel_file, "_write", lambda *args: written.append(1) or write(*args))
    assert torch.equal(file_of(corpus).images, expected)
    assert len(written) == 1
    assert sum("decoding again" in message for message in caplog.messages) == 1


def test_nothing_is_left_of_a_build_that_failed(good, monkeypatch):
    corpus = load_corpus(str(good), split="train")

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(corpus, "squares", stop)
        with pytest.raises(KeyboardInterrupt):
            file_of(corpus)
    assert {path.suffix for path in default_cache_dir().iterdir()} <= {".lock"}
    assert len(file_of(corpus)) == N


def _open(folder, cache, results, rank):
    torch.set_num_threads(1)
    datasets.config.HF_DATASETS_CACHE = cache
    corpus = load_corpus(str(folder), split="train")
    corpus.squares = _counted(corpus.squares, results / f"decoded-{rank}")
    images = open_images(corpus, SIZE, placement="memory")
    torch.save(images.fetch(torch.arange(N)), results / f"{rank}.pt")


def _counted(squares, path):
    def counted(*args, **kwargs):
        path.touch()
        return squares(*args, **kwargs)

    return counted


def test_one_process_of_a_machine_decodes_and_the_others_wait(good, tmp_path):
    load_corpus(str(good), split="train")
    context = multiprocessing.get_context("fork")
    cache = datasets.config.HF_DATASETS_CACHE
    processes = [context.Process(target=_open, args=(good, cache, tmp_path, rank)) for rank in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(list(tmp_path.glob("decoded-*"))) == 1
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(3)]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("reason", ["no room", "no directory"])
def test_without_a_place_for_the_file_pixels_are_in_memory_or_streamed_and_one_line_says_so(
    good, reason, monkeypatch, tmp_path, caplog
):
    corpus = load_corpus(str(good), split="train")
    if reason == "no room":
        monkeypatch.setattr(
            pixel_file.shutil, "disk_usage", lambda path: os.statvfs(path) and type("", (), {"free": 10})
        )
        cache = None
    else:
        (tmp_path / "file").write_text("in the way")
        cache = tmp_path / "file" / "cache"
    images = open_images(corpus, SIZE, cache_dir=cache)
    assert torch.equal(images.images, ImageStore.build(corpus, SIZE).images)
    assert isinstance(open_images(corpus, SIZE, cache_dir=cache, memory_limit=10, placement="memory"), ImageReader)
    said = [message for message in caplog.messages if message.startswith("no file of pixels")]
    assert ["into memory" in said[0], "for each batch" in said[1], len(said)] == [True, True, 2]
    assert all("\n" not in line and "--data_cache_dir" in line for line in said)


def test_a_disk_that_fills_up_while_it_is_written_leaves_nothing(good, monkeypatch):
    corpus = load_corpus(str(good), split="train")

    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    images = open_images(corpus, SIZE, placement="memory")
    assert len(images) == N
    assert {path.suffix for path in default_cache_dir().iterdir()} <= {".lock"}


def test_the_choice_follows_what_is_free(good, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "hf_mi_ssl.data.placement")
    corpus = load_corpus(str(good), split="train")
    needed = N * 3 * SIZE * SIZE
    gpu = torch.device("meta")  # as good as any for what is not the CPU
    for limits, expected in (
        ({"meta": needed, "cpu": 0}, "decoded once, on meta"),
        ({"meta": needed - 1, "cpu": needed}, "decoded once, in memory"),
        ({"meta": needed - 1, "cpu": needed - 1}, "decoded for each batch"),
    ):
        monkeypatch.setattr(placement, "room_for_pixels", lambda device, limits=limits: limits[device.type])
        open_images(corpus, SIZE, gpu)
        assert caplog.messages[-1].endswith(expected)
    with pytest.raises(UserError, match="do not fit on meta.* --data_placement memory"):
        open_images(corpus, SIZE, gpu, placement="device")


def test_a_sample_of_what_is_held_out_is_the_same_wherever_pixels_are(folder):
    held = [parts_of(folder, where, memory_limit=9 * 3 * SIZE * SIZE)[1] for where in ("memory", "stream")]
    assert [len(part) for part in held] == [9, 9]
    assert torch.equal(held[0].indices, held[1].indices)
    assert torch.equal(held[0].images.fetch(held[0].indices), held[1].images.fetch(held[1].indices))


def test_shapes_need_no_file():
    corpus = load_corpus("shapes", split="test")
    corpus.__class__ = type("FewShapes", (type(corpus),), {"__len__": lambda self: 20})
    assert len(open_images(corpus, 16, placement="memory")) == 20
    assert not default_cache_dir().exists()


# Bad images


def test_bad_images_are_named_once_counted_and_listed(with_bad, tmp_path, caplog):
    listed = tmp_path / "bad_images.jsonl"
    for where in ("memory", "memory", "stream"):
        caplog.clear()
        train, _ = parts_of(with_bad, where, bad_list=listed)
        list(training_batches(train, range(12), 8, seed=5))
        train.report.write()
        found = [json.loads(line) for line in listed.read_text().splitlines()]
        assert [(entry["row"], entry["kind"]) for entry in found] == [(3, "not an image"), (17, "not an image")]
        assert found[0]["split"] == "train"
        assert found[0]["file"].endswith("03.png")
        assert train.report.kinds() == {"not an image": 2}
        assert train.report.summary() == "2 bad images (2 not an image)"
        said = [message for message in caplog.messages if message.startswith("bad image left out")]
        assert len(said) == 2
        listed.unlink()


def test_probes_learn_from_good_images_under_their_own_labels(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "labelled")
    for split, name in (("train", "red/003.png"), ("train", "green/000.png"), ("test", "red/001.png")):
        (tmp_path / "labelled" / split / name).write_bytes(b"")
    encoder = small_model("jmi").encoder
    found = []
    for where in ("memory", "stream"):
        train, held = parts_of(tmp_path / "labelled", where)
        assert (len(train.labelled()), len(held.labelled())) == (96, 31)
        evaluation = Evaluation(train, held, view_recipes("moco", SIZE), seed=0, batch_size=7)
        found.append([evaluation._represent(encoder, part) for part in evaluation.parts])
    for (h, labels), (same_h, same_labels) in zip(*found):
        assert torch.equal(h, same_h)
        assert torch.equal(labels, same_labels)
    (_, of_train), (_, of_test) = found[0]
    assert [of_train.bincount().tolist(), of_test.bincount().tolist()] == [[47, 47], [16, 15]]


def test_pixels_on_the_only_gpu_which_has_no_index_in_accelerate_stay_where_they_are(monkeypatch):
    monkeypatch.setattr("hf_mi_ssl.data.store.ahead", None)  # it would copy them from the CPU, in a thread
    with FakeTensorMode():
        store = ImageStore(torch.zeros(8, 3, SIZE, SIZE, dtype=torch.uint8), None, "cuda").on_device()
        assert (store.images.device, store.device) == (torch.device("cuda", 0), torch.device("cuda"))
        [(_, images)] = store.batches([torch.arange(4)])
        assert images.device == store.images.device


@pytest.mark.gpu
def test_batches_on_an_accelerator_are_those_of_the_cpu(with_bad):
    expected = batches_of(with_bad, "memory")
    for where in ("device", "memory", "stream"):
        train, _ = parts_of(with_bad, where, device=torch.device("cuda"))
        batches = list(training_batches(train, range(8), 8, seed=5))
        assert all(images.is_cuda for _, _, images in batches)
        assert same([(epoch, indices, images.cpu()) for epoch, indices, images in batches], expected)


@pytest.mark.parametrize("where", ["memory", "stream"])
def test_too_many_bad_images_end_the_run_with_the_name_of_the_list(with_bad, where, tmp_path):
    def run(**more):
        train, _ = parts_of(with_bad, where, **more)
        list(training_batches(train, range(12), 8, seed=5))

    listed = tmp_path / "bad_images.jsonl"
    with pytest.raises(UserError, match=r"bad images? .*--max_bad_fraction 0.02 of 'train'; .*jsonl lists") as error:
        run(max_bad_fraction=0.02, bad_list=listed)
    assert error.value.exit_code == 1
    assert listed.exists()
    with pytest.raises(UserError, match=r"row (3|17) \(.*png\): not an image .*--on_bad_image skip") as error:
        run(on_bad_image="error")
    assert error.value.exit_code == 1
    run(max_bad_fraction=0.05)


def test_a_file_with_bad_images_knows_them_and_the_policy_is_asked_at_each_start(with_bad):
    corpus = load_corpus(str(with_bad), split="train")
    assert file_of(corpus, report=BadImages(max_fraction=0.1)).bad == {3, 17}
    report = BadImages(max_fraction=0.1)
    assert file_of(corpus, report=report).bad == {3, 17}
    assert report.kinds() == {"not an image": 2}
    with pytest.raises(UserError, match="row 3"):
        file_of(corpus, report=BadImages("error"))


def test_decoding_of_a_known_image_has_not_changed():
    """If this fails, decoding has changed: `FORMAT` has to change with it, or old files would be believed."""
    buffer = io.BytesIO()
    Image.radial_gradient("L").resize((20, 14)).convert("RGB").save(buffer, "PNG")
    square = to_square(decode(buffer.getvalue()), 8)
    assert (pixel_file.FORMAT, int(square.sum())) == (2, 22629)
