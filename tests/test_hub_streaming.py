"""A data set of the Hub, streamed over HTTP: what its files on disk give, from any position; faults in one line."""

import json

import datasets
import pytest

from hf_mi_ssl.data import training_batches
from hf_mi_ssl.errors import UserError
from tests.hub_server import Fault, HubServer, hub
from tests.runs import FAST, Stopped, assert_same_run, results_of, run, stop_after
from tests.shards import write_shards
from tests.test_streams import KINDS, SIZES, batches_of, opened, same


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    root = tmp_path_factory.mktemp("shards")
    return {kind: write_shards(root / kind, kind, SIZES) for kind in KINDS}


@pytest.fixture(scope="module")
def server(shards, tmp_path_factory):
    """A Hub that holds them as data sets tar and parquet."""
    with (
        HubServer() as server,
        hub(tmp_path_factory.mktemp("home"), server) as place,
        pytest.MonkeyPatch.context() as m,
    ):
        server.names = {kind: f"{place.owner}/{kind}" for kind in KINDS}
        m.setattr(datasets.config, "HF_ENDPOINT", server.url)
        m.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        m.setattr(datasets.config, "STREAMING_READ_MAX_RETRIES", 2)
        m.setattr(datasets.config, "STREAMING_READ_RETRY_INTERVAL", 0)
        for kind, pattern in shards.items():
            place.api.create_repo(server.names[kind], repo_type="dataset")
            folder = pattern.rpartition("/")[0]
            place.api.upload_folder(
                repo_id=server.names[kind], repo_type="dataset", folder_path=folder, path_in_repo="train"
            )
        yield server


@pytest.fixture(autouse=True)
def whole_again(server, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    yield
    server.faults.clear()


def place_of(server, kind):
    return {"dataset_name": server.names[kind], "data_files": None}


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_the_hub_gives_the_batches_of_the_files(server, shards, kind, num_workers):
    there = batches_of(shards, kind, num_workers, **place_of(server, kind))
    assert same(there, batches_of(shards, kind))
    assert server.requests(r"GET /datasets/tester/" + kind)


@pytest.mark.parametrize("kind", KINDS)
def test_it_goes_on_bit_for_bit(server, shards, kind):
    train, _ = opened(shards, kind, **place_of(server, kind))
    whole, positions = [], []
    for batch in training_batches(train, range(14), 4, 3):
        whole.append(batch)
        positions.append(json.dumps(train.stream.positions))
    for step in (1, 6, 13):
        again, _ = opened(shards, kind, **place_of(server, kind))
        again.stream.positions = json.loads(positions[step - 1])
        assert same(list(training_batches(again, range(step, 14), 4, 3)), whole[step:])


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("status", [404, pytest.param(500, marks=pytest.mark.slow)])  # 500: after many attempts
def test_a_hub_that_stops_answering_is_one_line(server, shards, num_workers, status):
    train, _ = opened(shards, "parquet", num_workers, **place_of(server, "parquet"))
    server.faults.append(Fault(r"(GET|HEAD) /(datasets/tester|large)/", status))
    with pytest.raises(UserError, match="cannot read shard . of 'train': .*; mend it, and resume") as error:
        list(training_batches(train, range(30), 4, 3))
    assert error.value.exit_code == 1
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_run_is_resumed_bit_for_bit(server, tmp_path, monkeypatch):
    arguments = ["--dataset_name", server.names["tar"], "--streaming", *FAST, "--per_device_train_batch_size", 8,
                 "--max_train_steps", 6, "--checkpointing_steps", 2, "--shuffle_buffer_size", 16,
                 "--mi_steps", 0]  # fmt: skip
    assert run("jmi", tmp_path / "whole", *arguments) == 0
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(Stopped):
            run("jmi", tmp_path / "stopped", *arguments)
    assert run("jmi", tmp_path / "stopped", *arguments, "--resume_from_checkpoint", "latest") == 0
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
    assert results_of(tmp_path / "whole")["evaluations"]
