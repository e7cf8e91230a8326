"""Whatever a configuration, a manifest or a log holds, reading it gives its content or one line, never a traceback."""

import json

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_mi_ssl import JMIConfig
from hf_mi_ssl.errors import UserError
from hf_mi_ssl.training import load_checkpoint, parse_arguments, read_records, save_checkpoint
from hf_mi_ssl.training.checkpoints import verify
from tests.test_checkpoints import a_state

EXAMPLES = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
TREES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
KEYS = st.sampled_from(["seed", "set", "learning_rate", "method", "data_files", "output_dir", "views", "compile"])


@EXAMPLES
@given(st.dictionaries(KEYS | st.text(max_size=8), TREES, max_size=4))
def test_any_configuration_is_read_or_refused_in_one_line(tmp_path, content):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(content))
    try:
        args = parse_arguments(["--config", str(tmp_path / "run.yaml")], "", method="jmi")
        JMIConfig.from_method("jmi", **args.columns)
        json.dumps(args.to_dict())
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017


@EXAMPLES
@given(st.binary(max_size=60))
def test_any_bytes_are_read_as_a_configuration_or_refused_in_one_line(tmp_path, content):
    (tmp_path / "run.yaml").write_bytes(content)
    try:
        parse_arguments(["--config", str(tmp_path / "run.yaml")], "", method="jmi")
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("run"), 1, a_state(), {"identity": {}}, 1)


@EXAMPLES
@given(
    TREES
    | st.fixed_dictionaries({"format_version": st.just(1) | PLAIN, "files": TREES})
    | st.dictionaries(st.text(max_size=8), st.fixed_dictionaries({"size": PLAIN, "xxh3_128": PLAIN})).map(
        lambda files: {"format_version": 1, "step": 1, "files": files}
    )
)
def test_any_manifest_is_right_or_rejected(checkpoint, tree):
    manifest = checkpoint / "manifest.json"
    good = manifest.read_text()
    manifest.write_text(json.dumps(tree))
    try:
        assert verify(checkpoint)
        with pytest.raises(UserError, match="cannot resume from"):
            load_checkpoint(checkpoint)
    finally:
        manifest.write_text(good)
    assert verify(checkpoint) is None


RECORDS = st.lists(
    st.fixed_dictionaries({"step": st.integers(0, 99), "loss": st.none() | st.floats(-1e100, 1e100)}), max_size=6
)


@EXAMPLES
@given(RECORDS, st.integers(0, 400))
def test_a_log_cut_anywhere_is_read_up_to_its_last_whole_line(tmp_path, records, length):
    lines = [json.dumps(record) + "\n" for record in records]
    log = tmp_path / "metrics.jsonl"
    log.write_text("".join(lines)[:length])
    found = read_records(log)
    assert found == records[: len(found)]
    whole = "".join(lines)[:length].count("\n")
    assert len(found) in (whole, whole + 1)  # a line is whole without its end, too


@EXAMPLES
@given(RECORDS, st.binary(min_size=1, max_size=30))
def test_whatever_follows_in_a_log_its_records_are_kept(tmp_path, records, debris):
    log = tmp_path / "metrics.jsonl"
    log.write_bytes("".join(json.dumps(record) + "\n" for record in records).encode() + b"\x00" + debris)
    assert read_records(log) == records
