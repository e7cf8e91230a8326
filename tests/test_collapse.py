"""The alarm: its rules on logs made by hand, and on small runs that collapse, stall, diverge or are healthy.

Its thresholds were set with seeds 0 to 9; the runs here have others.
"""

import json

import pytest

from hf_mi_ssl.evaluation import Alarm, growth_verdicts
from hf_mi_ssl.evaluation.causes import likely_cause
from hf_mi_ssl.evaluation.collapse import NOTES, STOPPING, VERDICTS
from hf_mi_ssl.training import read_records
from tests.conftest import small_config
from tests.runs import FAST, Stopped, assert_same_run, data, run, stop_after
from tests.tiny_runs import BATCH, alarms_of, tiny_run

HEALTHY = {"std": 0.95, "mean_cosine": 0.02, "effective_rank": 9.0, "directions": 9.0, "largest_norm": 2.0,
           "calibrated": 2.0, "value": 2.0}  # fmt: skip


def log(*evaluations, steps_between=10, start=(0.1, 0.5)):
    """The records of a run with these evaluations, each what differs from a healthy one, after one at step 0."""
    value, calibrated = start
    records = [_evaluation(0, **HEALTHY | {"std": 0.3, "mean_cosine": 0.9, "calibrated": calibrated})]
    step = 0
    for evaluation in evaluations:
        now = HEALTHY | evaluation
        for _ in range(steps_between):
            step += 1
            wobble = 0.01 * (step % 3 - 1)
            reached = value if step <= 20 else now["value"]
            records.append({"step": step, "loss": -reached - wobble, "value": reached + wobble})
        records.append(_evaluation(step, **now))
    return records


def _evaluation(step, std, mean_cosine, effective_rank, directions, largest_norm, calibrated, value=0.0, ceiling=5.5):
    key = "eval/mi/cos_dv_calibrated"
    record = {"step": step, "eval/collapse/std": std, "eval/collapse/mean_cosine": mean_cosine}
    record |= {"eval/rank/effective_rank": effective_rank, "eval/rank/effective_rank_of_directions": directions}
    record |= {"eval/collapse/largest_norm": largest_norm, key: calibrated}
    return record | {f"{key}/low": calibrated - 0.1, f"{key}/high": calibrated + 0.1, f"{key}/ceiling": ceiling}


def raised(records, method="jmi", steps=None, **columns):
    alarm = Alarm(small_config(method, **columns), steps or records[-1]["step"], 64)
    for record in records:
        alarm(record)
    return alarm.raised


BAD = {
    "complete_collapse": [{"std": 0.05}, {"mean_cosine": 0.995}],
    "dimensional_collapse": [{"effective_rank": 2.2}, {"effective_rank": 2.0, "mean_cosine": 0.9}],
    "outliers": [{"largest_norm": 500.0}, {"largest_norm": 500.0, "effective_rank": 1.0, "directions": 4.0}],
    "information_loss": [{"calibrated": 1.0}],
    "cone": [{"mean_cosine": 0.9}],
    "ceiling_reached": [{"calibrated": 5.2}],
    "pinned": [{"calibrated": 0.5, "value": 0.01}],
    "stagnant": [{"calibrated": 0.5, "value": 0.1}],
}
CASES = [(kind, state) for kind, states in BAD.items() for state in states]


@pytest.mark.parametrize(("kind", "state"), CASES)
def test_each_state_raises_its_alarm_after_three_evaluations_and_not_after_two(kind, state):
    before = [{}] * 2 if kind in ("dimensional_collapse", "information_loss") else []
    found = raised(log(*before, *[state] * 30))
    assert kind in found
    assert set(found) - {kind} <= ({"stagnant", "pinned"} if kind in ("stagnant", "pinned") else set())
    assert raised(log(*before, state, state, {}, state, state, {}, {})) == {}


def test_a_rank_that_falls_to_a_quarter_of_its_best_is_dimensional_collapse_whatever_d_is():
    columns = {"projection_size": 512}
    assert set(raised(log({"effective_rank": 60}, *[{"effective_rank": 14}] * 3), **columns)) == {
        "dimensional_collapse"
    }
    assert raised(log({"effective_rank": 60}, *[{"effective_rank": 16}] * 3), **columns) == {}
    assert raised(log(*[{"effective_rank": 4.5}] * 6), **columns) == {}  # as few clusters end, of D = 512


def test_a_line_is_dimensional_collapse_and_no_point_however_long_its_longest_embedding():
    line = {"std": 0.6, "mean_cosine": 0.01, "effective_rank": 1.01}
    assert set(raised(log({}, *[line | {"largest_norm": 20, "directions": 4.0}] * 3))) == {"dimensional_collapse"}
    found = raised(log({}, *[line | {"largest_norm": 500, "directions": 1.1}] * 3))
    assert set(found) == {"dimensional_collapse", "outliers"}


def test_what_earlier_versions_did_not_log_is_not_judged_and_the_rest_is():
    keys = ("eval/collapse/mean_cosine", "eval/collapse/largest_norm", "eval/rank/effective_rank_of_directions")
    for state, kind in (({"std": 0.05}, "complete_collapse"), ({"effective_rank": 1.2}, "dimensional_collapse")):
        records = [{k: v for k, v in record.items() if k not in keys} for record in log(*[state] * 5)]
        assert set(raised(records)) == {kind}


def test_runs_of_fewer_than_three_evaluations_are_judged_at_their_end():
    bad = {"std": 0.05}
    for evaluations in ([bad], [bad, bad]):
        assert set(raised(log(*evaluations, steps_between=30))) == {"complete_collapse"}
        assert raised(log(*evaluations), steps=1000) == {}
    assert raised(log({}, bad)) == {}
    assert raised(log(bad, {})) == {}


def test_a_short_run_whose_bound_stands_still_is_judged_by_the_evaluations_that_can_tell():
    """`stagnant` needs 40 steps and half of the run: of these three evaluations only the last can."""
    still = {"calibrated": 0.5, "value": 0.1}
    assert set(raised(log(still, still, still, steps_between=15))) == {"stagnant"}
    assert raised(log({}, {}, {}, steps_between=15)) == {}


def test_an_objective_that_falls_before_it_rises_is_not_stagnant_though_one_evaluation_saw_neither():
    """A queue of keys that are not yet like the embeddings makes the bound high at first."""
    objective = [3.0] * 20 + [0.5 + 0.001 * i for i in range(880)]
    steps = [{"step": i + 1, "loss": -v, "value": v + 0.01 * (i % 3)} for i, v in enumerate(objective)]
    ends = [_evaluation(step, **HEALTHY | {"calibrated": 0.5}) for step in (0, 900)]
    assert raised([ends[0], *steps, ends[1]], "moco_v2") == {}
    flat = [{**record, "value": 0.5 + 0.01 * (record["step"] % 3)} for record in steps[20:]]
    assert "stagnant" in raised([ends[0], *steps[:20], *flat, ends[1]], "moco_v2")


def test_falling_objectives_diverge_and_noisy_ones_do_not():
    found = raised(log(*[{"value": -(2.0**k)} for k in range(20)]))
    assert next(iter(found)) == "diverging"
    assert set(found) <= {"diverging", "stagnant"}
    assert raised(log(*[{"value": 2 - 0.5 * (k % 2)} for k in range(20)])) == {}


def test_nothing_is_said_during_the_warm_up():
    collapsed = log(*[{"std": 0.01}] * 6, *[{}] * 6)
    assert "complete_collapse" in raised(collapsed)
    assert raised(collapsed, steps=60 * 50 + 50) == {}  # 2 % of the steps: all six and no more


def test_an_alarm_is_raised_once_and_a_resumed_run_raises_the_same():
    records = log({}, *[{"std": 0.01}] * 5, {}, *[{"std": 0.01}] * 5)
    whole, resumed = (Alarm(small_config("jmi"), 200, 64) for _ in range(2))
    said = [whole(record) for record in records]
    assert [list(new) for new in said if new] == [["complete_collapse"]]
    records = [json.loads(json.dumps(record)) for record in records]
    assert [resumed(record) for record in records[:40]] + [resumed(record) for record in records[40:]] == said
    assert whole.collapsed
    assert whole.stops == resumed.stops != ""


def test_what_was_not_measured_is_not_judged():
    records = log(*[{"std": 0.01, "calibrated": 0.19}] * 8)
    without = [{k: v for k, v in record.items() if not k.startswith("eval/mi")} for record in records]
    assert set(raised(without)) == {"complete_collapse"}
    only_mi = [{k: v for k, v in r.items() if not k.startswith(("eval/coll", "eval/rank"))} for r in records]
    assert set(raised(only_mi)) == set()
    assert raised([{"step": 0}, {"step": 1, "loss": None, "value": None}, {"step": 1}]) == {}


def test_few_directions_stop_a_run_only_when_the_views_share_less():
    """A few kinds of images end in as few directions, and share all that they can."""

    def alarm_of(*evaluations):
        alarm = Alarm(small_config("jmi"), 100, 64)
        for record in log(*evaluations):
            alarm(record)
        return alarm

    classes = alarm_of(*[{"effective_rank": 2.0, "calibrated": 1.09}] * 8)
    assert "dimensional_collapse" in classes.raised
    assert classes.stops == ""
    falling = alarm_of({}, *[{"effective_rank": 2.0, "calibrated": 0.9}] * 8)
    assert "few directions" in falling.stops


def test_only_failures_stop_a_run():
    assert not set(NOTES) & set(STOPPING)
    alarm = Alarm(small_config("jmi"), 100, 64)
    for record in log(*[{"mean_cosine": 0.9, "calibrated": 5.3}] * 5):
        alarm(record)
    assert set(alarm.raised) == set(NOTES)
    assert alarm.stops == ""


@pytest.mark.parametrize(
    ("kind", "method", "columns", "said"),
    [
        ("complete_collapse", "simsiam", {"predictor_hidden_size": None}, "there is no predictor"),
        ("complete_collapse", "jmi", {"marginal": {}}, "no marginal term"),
        ("complete_collapse", "jmi", {"marginal": {"exact": 0}}, "no marginal term has a weight. Set one"),
        ("complete_collapse", "simsiam", {"predictor_schedule": "cosine"}, "predictor_schedule=constant"),
        ("complete_collapse", "byol", {"target_momentum": 0.0}, "target_momentum=0 "),
        ("complete_collapse", "byol", {"target_momentum": 0.9999}, "hardly moves the target"),
        (
            "complete_collapse",
            "simsiam",
            {"projector_output_norm": False, "projector_hidden_norm": False},
            "no batch norm",
        ),
        ("dimensional_collapse", "vicreg", {"marginal": {"variance": 25.0}}, "covariance"),
        ("dimensional_collapse", "barlow_twins", {}, "redundancy=0.0051"),
        ("pinned", "jmi", {"temperature": 100.0}, "temperature=100"),
        ("stagnant", "jmi", {}, "--learning_rate"),
        ("diverging", "jmi", {"temperature": 0.001}, "temperature=0.001"),
        ("diverging", "vicreg", {}, "Lower --learning_rate"),
    ],
)
def test_the_likely_cause_is_read_off_the_row(kind, method, columns, said):
    assert said in likely_cause(kind, small_config(method, **columns), steps=1000)


@pytest.mark.parametrize("kind", list(VERDICTS))
def test_every_kind_has_a_cause_in_every_row(kind, method):
    text = likely_cause(kind, small_config(method), steps=100)
    assert 20 < len(text) < 200
    assert "\n" not in text


# Small runs, of seeds that no threshold was set with

COMPLETE = [("jmi", {"marginal": {}, "projector_output_norm": False})]
COMPLETE += [("simsiam", {"predictor_hidden_size": None, "projector_output_norm": False})]
DIMENSIONAL = [
    ("simsiam", {"predictor_hidden_size": None}),
    ("jmi", {"marginal": {}}),
    ("vicreg", {"marginal": {"variance": 25.0}}),
    ("barlow_twins", {"marginal": {}}),
]
OTHER = [
    ("stagnant", "jmi", {"lr": 0.0}),
    ("stagnant", "jmi", {"shared": False}),
    ("diverging", "vicreg", {"marginal": {}, "uphill": True}),
]
ILL = [("complete_collapse", *case) for case in COMPLETE] + [("dimensional_collapse", *case) for case in DIMENSIONAL]
FAST_SEED, MORE_SEEDS = [10], [pytest.param(seed, marks=pytest.mark.slow) for seed in (11, 12, 13)]


@pytest.mark.parametrize("seed", FAST_SEED + MORE_SEEDS)
@pytest.mark.parametrize(("kind", "method", "columns"), ILL + OTHER)
def test_runs_that_go_wrong_raise_the_right_alarm(kind, method, columns, seed):
    config, records = tiny_run(method, seed, **columns)
    said = alarms_of(config, records)
    assert kind in said
    if kind == "dimensional_collapse":
        assert "complete_collapse" not in said
    alarm = Alarm(config, records[-1]["step"], BATCH)
    for record in records:
        alarm(record)
    grew = [verdict["grew"] for verdict in growth_verdicts(records, {}, alarm.collapsed).values()]
    assert grew == [False, False]


@pytest.mark.parametrize("seed", FAST_SEED + MORE_SEEDS)
def test_healthy_runs_of_every_row_raise_none(method, seed):
    config, records = tiny_run(method, seed, steps=100)
    assert set(alarms_of(config, records)) <= set(NOTES)
    assert growth_verdicts(records, {}, collapsed=False)["mi/cos_dv"]["gain"] > 0


COLLAPSING = ["--set", "marginal={}", "projector_hidden_norm=false", "--learning_rate", 0.05, "--num_train_epochs", 5,
              "--eval_steps", 4, "--checkpointing_steps", 4, "--warmup_epochs", 0]  # fmt: skip


def test_a_run_warns_once_records_the_alarm_and_stops_if_asked_to(flat, tmp_path, caplog, capsys, monkeypatch):
    argv = [*data(flat), *FAST, "--set", "projector_output_norm=false", *COLLAPSING]
    assert run("jmi", tmp_path / "whole", *argv) == 0
    results = json.loads((tmp_path / "whole" / "results.json").read_text())
    alarm = next(alarm for alarm in results["alarms"] if alarm["kind"] == "complete_collapse")
    assert sum(alarm["message"] in record.message for record in caplog.records) == 1
    lines = [record for record in read_records(tmp_path / "whole" / "metrics.jsonl") if "alarm" in record]
    assert {"complete_collapse": alarm["message"]}.items() <= lines[0]["alarm"].items()
    assert all("the embeddings have collapsed" in verdict["because"] for verdict in results["growth"].values())

    # Stopped and resumed in between, it says the same at the same step, and ends there
    with monkeypatch.context() as patch:
        stop_after(6, patch)
        with pytest.raises(Stopped):
            run("jmi", tmp_path / "stopped", *argv, "--stop_on_collapse")
    again = [*argv, "--resume_from_checkpoint", "latest"]
    for _ in range(2):
        assert run("jmi", tmp_path / "stopped", *again, "--stop_on_collapse") == 3
        error = capsys.readouterr().err
        assert f"stopped after step {alarm['step']}" in error
        assert alarm["message"] in error
    assert (tmp_path / "stopped" / "checkpoints" / f"checkpoint-{alarm['step']}").exists()
    assert not (tmp_path / "stopped" / "results.json").exists()
    assert run("jmi", tmp_path / "stopped", *again) == 0  # on without the flag
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_a_run_of_one_evaluation_that_collapsed_is_published_with_its_alarm(flat, tmp_path):
    once = ["--set", "projector_output_norm=false", *COLLAPSING, "--eval_steps", 1000, "--mi_steps", 0]
    assert run("jmi", tmp_path, *data(flat), *FAST, *once, "--stop_on_collapse") == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert [alarm["kind"] for alarm in results["alarms"]] == ["complete_collapse"]


@pytest.mark.parametrize("number", ["1" + "0" * 400, "1e300", "NaN", "-Infinity"])
def test_a_log_is_read_up_to_a_number_that_no_run_writes(number, tmp_path):
    line = '{"step": %d, "loss": 1, "value": %s}\n'
    (tmp_path / "metrics.jsonl").write_text(line % (1, "2e38") + line % (2, number) + line % (3, 1))
    assert [record["step"] for record in read_records(tmp_path / "metrics.jsonl")] == [1]
