"""Streams: every image once an epoch, the same batches with any number of workers, resumed bit for bit."""

import json
import shutil
import subprocess
import sys
from itertools import takewhile

import datasets
import pytest
import torch

from hf_mi_ssl.data import open_train_and_held_out, training_batches
from hf_mi_ssl.data.streams import _Chunks
from hf_mi_ssl.errors import UserError
from hf_mi_ssl.training import DataState, Plan, data_state, parse_arguments
from tests.runs import FAST, assert_same_run, command, environment, results_of, run, stop_after
from tests.runs import Stopped as _Stopped
from tests.shards import write_shards

SIZES = (13, 8, 11, 10, 9)  # of shards: uneven
N = sum(SIZES)
KINDS = {"parquet": "parquet", "tar": "webdataset"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    root = tmp_path_factory.mktemp("shards")
    return {kind: write_shards(root / kind, kind, SIZES) for kind in KINDS} | {
        "bad": write_shards(root / "bad", "tar", SIZES, bad=(5, 20, 21)),
        "plain": write_shards(root / "plain", "tar", SIZES, bad=(5, 20, 21), labels=None),
    }


def opened(shards, kind="tar", num_workers=0, **more):
    return open_train_and_held_out(
        train_split="train",
        eval_split=None,
        image_size=6,
        seed=3,
        device=torch.device("cpu"),
        num_workers=num_workers,
        streaming=True,
        **{"dataset_name": KINDS.get(kind, "webdataset"), "data_files": {"train": shards[kind]}}
        | {"shuffle_buffer_size": 8, "max_bad_fraction": 0.1}
        | more,
    )


def batches_of(shards, kind="tar", num_workers=0, n=14, rank=0, world=1, **more):
    train, _ = opened(shards, kind, num_workers, **more)
    return list(training_batches(train, range(n), 4 * world, seed=3, rank=rank, world=world))


def same(one, other):
    return len(one) == len(other) and all(torch.equal(a, b) for x, y in zip(one, other) for a, b in zip(x[1:], y[1:]))


def numbers(images):
    return images[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rank", "world"), [(0, 1), (1, 2), (0, 3), (6, 7)])
def test_workers_change_nothing(shards, kind, rank, world):
    alone = batches_of(shards, kind, rank=rank, world=world)
    assert same(batches_of(shards, kind, 2, rank=rank, world=world), alone)
    assert len({key for _, keys, _ in alone for key in keys.tolist()}) == 4 * len(alone)


def test_the_form_of_the_shards_changes_nothing(shards):
    assert same(batches_of(shards, "parquet"), batches_of(shards, "tar"))


@pytest.mark.parametrize("world", [1, 2, 5, 7])
@pytest.mark.parametrize("block", [3, 8, 1000])
def test_an_epoch_has_every_image_once_over_all_processes(shards, world, block):
    stream = opened(shards, shuffle_buffer_size=block)[0].stream
    lanes = stream.lanes(4, world)
    expected = {epoch: [] for epoch in range(3)}
    for rank in range(world):
        chunks = _Chunks(stream, 1, lanes, rank, world, [None] * lanes)
        for lane in range(lanes):
            for found in takewhile(lambda found: found.epoch < 3, chunks._blocks(lane, None)):
                expected[found.epoch] += found.indices.tolist()
    assert len(expected[0]) == len(set(expected[0]))
    assert sorted(expected[0]) == sorted(expected[1]) == sorted(expected[2])
    assert expected[0] != expected[1]
    assert N * 0.7 < len(expected[0]) < N


def test_blocks_are_shuffled_anew_in_each_epoch_and_by_the_seed(shards):
    stream = opened(shards)[0].stream

    def blocks():
        return [
            block.indices.tolist() for _, block in zip(range(14), _Chunks(stream, 1, 1, 0, 1, [None])._blocks(0, None))
        ]

    first = blocks()
    assert blocks() == first
    assert any(block != sorted(block) for block in first)
    stream.seed = 4
    assert blocks() != first


@pytest.mark.parametrize("kind", [*KINDS, "bad"])
@pytest.mark.parametrize(("rank", "world", "num_workers"), [(0, 1, 0), (1, 2, 0), (6, 7, 0), (0, 1, 2)])
def test_a_stream_goes_on_bit_for_bit_from_any_batch(shards, kind, rank, world, num_workers):
    train, _ = opened(shards, kind)
    whole, positions = [], []
    for batch in training_batches(train, range(14), 4 * world, 3, rank, world):
        whole.append(batch)
        positions.append(json.dumps(train.stream.positions))
    stream = opened(shards, kind, num_workers)[0]
    for step in range(1, 14) if world < 7 and num_workers == 0 else (1, 6, 13):
        stream.stream.positions = json.loads(positions[step - 1])
        rest = list(training_batches(stream, range(step, 14), 4 * world, 3, rank, world))
        assert same(rest, whole[step:]), step


def test_what_is_held_out_is_never_trained_on_by_any_number_of_processes(shards):
    train, part = opened(shards)
    held = numbers(part.images.images)
    assert 1 <= len(held) < 0.3 * N
    for world in (1, 2, 7):
        runs = []
        for rank in range(world):
            train.stream.positions = None
            runs.append(list(training_batches(train, range(max(4, 30 // world)), 4 * world, 3, rank, world)))
        seen = {i for batches in runs for _, _, images in batches for i in numbers(images)}
        assert seen == set(range(N)) - set(held)
    assert opened(shards)[1].split == "train (a tenth, held out)"


@pytest.mark.parametrize("kind", KINDS)
def test_images_to_measure_on_come_with_their_labels(shards, kind):
    for part in opened(shards, kind):
        assert part.labels.tolist() == [i % 2 for i in numbers(part.images.fetch(part.indices))]
    train, held = opened(shards, kind)
    assert train.label_names == held.label_names == (["a", "b"] if kind == "parquet" else None)
    assert set(numbers(train.images.images)).isdisjoint(numbers(held.images.images))
    assert train.labelled().stream is None


def test_labels_in_json_and_a_split_of_its_own(tmp_path):
    files = {split: write_shards(tmp_path / split, "tar", (6, 5), labels="json") for split in ("train", "test")}
    train, held = opened({"tar": None}, data_files=files, max_bad_fraction=0.0)
    assert held.split == "test"
    assert len(held) == len(train) == 11
    assert held.label_names == ["a", "b"]
    assert held.labels.tolist() == [1 - i % 2 for i in range(11)]  # "b", "a", "b", …
    seen = {i for _, _, x in training_batches(train, range(8), 4, 0) for i in numbers(x)}
    assert seen == set(range(11))


def test_bad_images_are_replaced_from_their_block_and_counted_once(shards):
    train, held = opened(shards, "bad")
    seen = {i for _, _, x in training_batches(train, range(40), 4, 3) for i in numbers(x)}
    trained = set(range(N)) - {5, 20, 21}
    assert seen == trained - set(numbers(held.images.fetch(held.indices)))
    assert train.report.kinds() == {"not an image": 3}
    assert sorted(entry["file"] for entry in train.report.entries()) == ["00005.png", "00020.png", "00021.png"]
    with pytest.raises(UserError, match="not an image"):
        opened(shards, "bad", on_bad_image="error")


def test_few_shards_are_said_to_cost_and_fewer_workers_are_used(shards, caplog):
    batches_of(shards, world=7, n=1)
    assert "5 shards for 7 processes: each process reads all rows" in caplog.text
    batches_of(shards, num_workers=3, n=1)
    assert "read by 2 workers a process, for 4 lanes" in caplog.text


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(("kind", "batch"), [("tar", 64), ("parquet", 10**6)])
def test_a_batch_larger_than_an_epoch_is_one_line(shards, kind, batch, num_workers):
    """It would hold images twice, as negatives of themselves."""
    train, held = opened(shards, kind, num_workers)
    with pytest.raises(
        UserError, match=f"holds {N - len(held)} images to train on, fewer than a batch of {batch}: lower"
    ):
        next(training_batches(train, range(10**12), batch, 3))  # and a plan costs no memory
    assert len(next(training_batches(train, range(10**12), 4, 3))[1]) == 4


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_shard_that_cannot_be_read_is_one_line(tmp_path, num_workers, damage):
    pattern = write_shards(tmp_path / "shards", "parquet", SIZES)
    train, _ = opened({"parquet": pattern}, "parquet", num_workers)
    file = tmp_path / "shards" / "003.parquet"
    file.unlink() if damage == "gone" else file.write_bytes(file.read_bytes()[:700])
    with pytest.raises(UserError, match="cannot read shard 3 of 'train': .*; mend it, and resume") as error:
        list(training_batches(train, range(30), 4, 3))
    assert error.value.exit_code == 1
    assert "\n" not in str(error.value)


def test_shards_of_one_row_and_another_batch_size(tmp_path, shards):
    train, _ = opened({"tar": write_shards(tmp_path / "tiny", "tar", (1,) * 30)})
    seen = {i for _, _, x in training_batches(train, range(40), 4, 3) for i in numbers(x)}
    assert 20 <= len(seen) < 30
    train, _ = opened(shards)
    list(training_batches(train, range(3), 4, 3))
    assert len(train.stream.positions) == 4
    list(training_batches(train, range(1), 2, 3))
    assert [lane["epoch"] for lane in train.stream.positions] == [train.stream.first_epoch] * 2


def test_the_number_of_images_is_known_of_parquet_and_needs_steps_elsewhere(shards):
    train, _ = opened(shards, "parquet")
    assert train.num_images == round(0.9 * N)
    args = parse_arguments(["--per_device_train_batch_size", "4"], "", method="jmi")
    assert Plan(args, train.num_images).steps_per_epoch == train.num_images // 4
    assert opened(shards)[0].num_images is None
    with pytest.raises(UserError, match="give --max_train_steps"):
        Plan(args, None)
    args.max_train_steps, args.num_train_epochs = 60, 6.0
    plan = Plan(args, None)
    assert (plan.steps, plan.steps_per_epoch, plan.warmup_steps) == (60, 10, 10)
    assert [step for step in range(1, 61) if plan.checkpoints(step)] == [10, 20, 30, 40, 50, 60]


def test_positions_of_every_process_are_kept_and_another_number_of_them_is_said(shards, monkeypatch, caplog):
    trains = [opened(shards)[0] for _ in range(2)]
    for rank, train in enumerate(trains):
        list(training_batches(train, range(5), 8, 3, rank, 2))
    everything = [train.stream.positions for train in trains]
    monkeypatch.setattr(
        data_state, "gather_object", lambda x: x if isinstance(x[0], list) and not x[0] else everything
    )
    saved = DataState(trains[0]).state_dict()
    assert json.loads(json.dumps(saved))["positions"] == everything
    monkeypatch.setattr(data_state, "num_processes", lambda: 2)
    monkeypatch.setattr(data_state, "process_index", lambda: 1)
    again = opened(shards)[0]
    DataState(again).load_state_dict(saved)
    rest = list(training_batches(again, range(5), 8, 3, 1, 2))
    assert same(rest, list(training_batches(trains[1], range(5), 8, 3, 1, 2)))
    assert "differs from here on" not in caplog.text
    for key in ("epoch", "place", "row", "emitted", "shard"):
        for evil in ("evil", -1, 10**30):
            nowhere = json.loads(json.dumps(saved))
            nowhere["positions"][1][0][key] = evil
            with pytest.raises(ValueError, match="its stream is nowhere"):
                DataState(again).load_state_dict(nowhere)
    monkeypatch.setattr(data_state, "num_processes", lambda: 1)
    monkeypatch.setattr(data_state, "process_index", lambda: 0)
    other = opened(shards)[0]
    DataState(other).load_state_dict(saved)
    assert "read by 2 processes and now is by 1: the order of images differs from here on" in caplog.text
    assert other.stream.first_epoch > max(lane["epoch"] for lanes in everything for lane in lanes)
    list(training_batches(other, range(1), 4, 3))
    assert other.stream.positions[0]["epoch"] == other.stream.first_epoch
    assert "for another batch size" not in caplog.text
    lanes, epoch = len(other.stream.positions), other.stream.positions[0]["epoch"]
    list(training_batches(other, range(1), 5, 3))
    assert f"read in {lanes} lanes and now is in 1, for another batch size" in caplog.text
    assert other.stream.positions[0]["epoch"] > epoch


def test_a_checkpoint_before_the_first_batch_of_a_stream_says_where_it_begins(shards):
    """As one has that is written where a run of another number of processes is taken up."""
    train, again = (opened(shards)[0] for _ in "ab")
    train.stream.begin(7)
    saved = json.loads(json.dumps(DataState(train).state_dict()))
    DataState(again).load_state_dict(saved)
    assert same(*(list(training_batches(one, range(5), 8, 3)) for one in (train, again)))
    assert again.stream.positions[0]["epoch"] >= 7
    for evil in ("evil", -1, 10**30, None):
        with pytest.raises(ValueError, match="its stream is nowhere"):
            DataState(again).load_state_dict(saved | {"first_epoch": evil})


def test_images_without_labels_are_there_for_the_statistics_of_batch_norms(shards):
    train, held = opened(shards, "plain")
    assert 0 < len(train) <= 256
    assert len(train.labelled()) == len(held.labelled()) == 0


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--dataset_name", "shapes"], "shapes are drawn, not read: leave --streaming out"),
        (["--dataset_name", "webdataset"], "needs the place of the data: give --data_files train=A.tar"),
        (["--eval_split", "none"], "no split 'none'"),
        ([], "give --max_train_steps"),
    ],
)
def test_what_cannot_be_streamed_is_one_line(shards, argv, said, tmp_path, capsys):
    tar = ["--dataset_name", "webdataset", "--data_files", f"train={shards['tar']}"]
    given = [] if "--dataset_name" in argv else tar
    assert run("jmi", tmp_path / "run", *given, "--streaming", *FAST, *argv) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "pretrain_jmi.py:" in line]
    assert said in line


def test_a_streamed_run_is_resumed_bit_for_bit(shards, tmp_path, monkeypatch, capsys):
    arguments = ["--dataset_name", "webdataset", "--data_files", f"train={shards['plain']}", "--streaming", *FAST,
                        "--per_device_train_batch_size", 8, "--max_train_steps", 6, "--checkpointing_steps", 2,
                        "--shuffle_buffer_size", 16, "--max_bad_fraction", 0.1, "--mi_steps", 0]  # fmt: skip
    assert run("jmi", tmp_path / "whole", *arguments) == 0
    assert "an unknown number of images of train" in capsys.readouterr().out
    assert results_of(tmp_path / "whole")["bad_images"] == {"not an image": 3}
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(_Stopped):
            run("jmi", tmp_path / "stopped", *arguments)
    again = ["--resume_from_checkpoint", "latest", "--dataloader_num_workers", 2]
    assert run("jmi", tmp_path / "stopped", *arguments, *again) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_what_was_read_before_a_stream_goes_on_counts_for_what_may_be_bad(shards):
    train, again = (opened(shards, "plain")[0] for _ in "ab")
    taken = list(training_batches(train, range(5), 4, 3))
    saved = json.loads(json.dumps(DataState(train).state_dict()))
    assert saved["read"] == 4 * len(taken)
    DataState(again).load_state_dict(saved)
    again.stream.read = 10**6  # as after days
    list(training_batches(again, range(5, 6), 4, 3))
    assert again.report.limits["train"] >= 0.1 * 10**6
    entry = {"split": "train", "kind": "corrupt", "reason": "cut", "file": None}
    bad = [entry | {"row": row} for row in range(2000)]  # of a million images
    DataState(opened(shards, "plain")[0]).load_state_dict(saved | {"read": 10**6, "bad": bad})
    with pytest.raises(UserError, match="max_bad_fraction"):
        DataState(opened(shards, "plain")[0]).load_state_dict(saved | {"bad": bad})
    for evil in (-1, 0.5, "1", None, 10**400):
        with pytest.raises(ValueError, match="no number of images"):
            DataState(again).load_state_dict(saved | {"read": evil})


@pytest.mark.slow
def test_two_processes_resume_a_stream_bit_for_bit(shards, tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    arguments = ["--dataset_name", "webdataset", "--data_files", f"train={shards['plain']}", "--streaming", *FAST,
                 "--per_device_train_batch_size", 4, "--max_train_steps", 6, "--checkpointing_steps", 2,
                 "--shuffle_buffer_size", 8, "--max_bad_fraction", 0.1, "--dataloader_num_workers", 1]  # fmt: skip

    def launch(output_dir, *more):
        argv = command("jmi", output_dir, *arguments, *more)
        subprocess.run([*launcher, *argv], check=True, env=environment())

    launch(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoints" / "checkpoint-6")
    (tmp_path / "again" / "bad_images.jsonl").unlink()
    launch(tmp_path / "again", "--resume_from_checkpoint", "latest")
    assert_same_run(tmp_path / "whole", tmp_path / "again")
    listed = [(tmp_path / name / "bad_images.jsonl").read_bytes() for name in ("whole", "again")]
    assert listed[0] == listed[1]
    assert len(listed[0].splitlines()) == len({json.loads(line)["row"] for line in listed[0].splitlines()}) >= 2
