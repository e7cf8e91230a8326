"""The numbers of a card: those of the run's files, beside pixels and chance, with what they are not."""

import json
import subprocess
import sys

import pytest
import yaml
from huggingface_hub import ModelCard

from hf_mi_ssl.errors import UserError
from hf_mi_ssl.hub import (
    add_evidence,
    render_card,
    write_card,
    write_evidence,
)
from tests.card_runs import ARGUMENTS, RESULTS, ROOT, TEMPLATE, evaluation, table, write_run


def test_the_results_of_the_hub_have_protocol_and_seed(card):
    scores = yaml.safe_load(card.split("---")[1])["model-index"][0]["results"]
    assert [metric["name"] for score in scores for metric in score["metrics"]] == ["kNN", "linear probe"]
    assert scores[0]["metrics"][0]["args"] == {"protocol": "k=20, cosine", "seed": 0}


def test_results_stand_beside_pixels_and_a_random_encoder(card):
    head, rows = table(card, "Results")
    assert head == ["measure", "of", "value", "95 % interval", "n", "data", "seed"]
    assert [row[1] for row in rows[:3]] == ["pixels", "random encoder", "trained encoder"]
    assert rows[2][2:] == ["87.0 %", "86.0 to 88.0", "1,024", "shapes, test", "0"]
    assert "\n- kNN: k=20, cosine\n- linear probe: k=20, cosine\n" in card


def test_each_mi_value_has_interval_ceiling_saturation_n_and_kind(card):
    head, rows = table(card, "What the two views share")
    assert head == ["estimator", "of", "value", "95 % interval", "ceiling", "saturated", "n", "kind"]
    assert rows[0][0] == "cos\\_dv"
    assert rows[0][2:] == ["3.210", "3.200 to 3.220", "6.93", "no", "1,024", "lower bound"]
    assert rows[1][1] == "representations h, trained encoder"
    assert rows[1][-3:] == ["yes", "1,024", "no bound"]


def test_rank_and_collapse_stand_in_a_table_of_their_own(tmp_path):
    names = ("rank/rankme", "collapse/std")
    entries = [evaluation(name, value, of) for name in names for of, value in (("trained", 57.3), ("random", 9.0))]
    card = render_card(write_run(tmp_path, RESULTS | {"evaluations": entries}), TEMPLATE)
    head, rows = table(card, "Rank and collapse")
    assert head == ["measure", "random encoder", "trained encoder", "n", "of"]
    assert rows[0] == ["rank/rankme", "9", "57.3", "1,024", "k=20, cosine"]
    assert "## Results" not in card


@pytest.mark.parametrize("estimator", ["cos_dv", "row_wise_dv", "nwj", "smile", "anything"])
@pytest.mark.parametrize("kind", ["lower_bound", "plugin", "closed_form"])
def test_the_kind_of_an_estimate_is_its_own(tmp_path, estimator, kind):
    results = RESULTS | {"evaluations": [evaluation(f"mi/{estimator}", 0.3, kind=kind)]}
    card = render_card(write_run(tmp_path, results), TEMPLATE)
    (row,) = table(card, "What the two views share")[1]
    assert row[-1] == ("lower bound" if kind == "lower_bound" else "no bound")


@pytest.mark.parametrize(("kind", "bound"), [("bound", True), ("surrogate", False), (None, False)])
def test_a_surrogate_is_never_called_a_bound(tmp_path, kind, bound):
    results = RESULTS | {"evaluations": [evaluation("mi/smile", 0.3), evaluation("mi/cos_dv", 0.3, kind="plugin")]}
    card = render_card(write_run(tmp_path, results | {"row": {"kind": kind}}), TEMPLATE)
    assert ("is a lower bound on the mutual information" in card) == bound
    assert "| lower bound |" not in card


def test_the_card_says_whether_mi_grew_and_what_the_alarm_said(tmp_path):
    numbers = {"gain": 2.16, "standard_error": 0.02, "evaluations": 5}
    growth = {
        "mi/cos_dv": {"grew": True, "because": []} | numbers,
        "mi_h/cos_dv": {"grew": False, "because": ["a", "b"]},
    }
    alarms = [{"kind": "pinned", "step": 40, "message": "the loss stays at ln K. Set temperature=0.2"}]
    card = render_card(write_run(tmp_path, RESULTS | {"growth": growth, "alarms": alarms}), TEMPLATE)
    assert "- embeddings z, cos\\_dv: grew by 2.160 nats (standard error 0.020, 5 evaluations)\n" in card
    assert "- representations h, cos\\_dv: did not grow: a; b\n" in card
    assert "The alarm spoke during training:\n\n- step 40: the loss stays at ln K. Set temperature=0.2\n" in card


def test_a_silent_alarm_is_no_alarm_that_was_not_there(tmp_path):
    run = write_run(tmp_path)
    assert "stayed silent" in render_card(run, TEMPLATE)
    write_run(tmp_path, {key: value for key, value in RESULTS.items() if key != "alarms"})
    assert "alarm" not in render_card(run, TEMPLATE)


# Evidence of downstream recipes


def downstream(directory, name="finetune.json", value=0.93, **facts):
    directory.mkdir(exist_ok=True)
    rows = [evaluation("finetune_top1_10pct", value, **facts)]
    (directory / name).write_text(json.dumps({"dataset": "uoft-cs/cifar10", "seed": 3, "evaluations": rows}))
    return directory / name


def test_what_a_downstream_recipe_found_stands_beside_the_rest_under_its_own_data_set_and_seed(tmp_path):
    run = write_run(tmp_path / "run")
    downstream(run)
    card = render_card(run, TEMPLATE)
    link = "[uoft-cs/cifar10](https://huggingface.co/datasets/uoft-cs/cifar10), test"
    row = next(row for row in table(card, "Results")[1] if row[0].startswith("fine-tuning"))
    assert row == ["fine-tuning, 10 % of the labels", "trained encoder", "93.0 %", "92.0 to 94.0", "1,024", link, "3"]
    found = {(e.metric_name, e.dataset_type, e.metric_value) for e in ModelCard(card).data.eval_results}
    assert ("fine-tuning, 10 % of the labels", "uoft-cs/cifar10", 0.93) in found
    assert ("kNN", "shapes", 0.87) in found


def test_evidence_from_elsewhere_is_added_and_the_same_measurement_replaced(tmp_path):
    run = write_run(tmp_path / "run")
    for place, value, facts in (("a", 0.9, {}), ("b", 0.8, {"split": "other"}), ("c", 0.7, {})):
        add_evidence(run, downstream(tmp_path / place, value=value, **facts))
    rows = json.loads((run / "finetune.json").read_text())["evaluations"]
    assert [(row["value"], row["split"], row["dataset"]) for row in rows] == [
        (0.7, "test", "uoft-cs/cifar10"),
        (0.8, "other", "uoft-cs/cifar10"),
    ]
    before = (run / "finetune.json").read_bytes()
    add_evidence(run, run / "finetune.json")
    assert (run / "finetune.json").read_bytes() == before
    for file in (tmp_path / "absent" / "knn.json", downstream(tmp_path / "d", "results.json")):
        with pytest.raises(UserError, match="holds no evaluations; give one of knn.json"):
            add_evidence(run, file)


def test_seeds_have_a_mean_and_other_data_protocols_and_sizes_none(tmp_path):
    run = write_run(tmp_path, arguments=ARGUMENTS | {"image_size": 32})
    about = {"dataset": "shapes", "image_size": 32}
    rows = [evaluation("linear_top1", value, seed=seed, **about) for seed, value in enumerate((0.91, 0.94, 0.88))]
    rows += [evaluation("linear_top1", 0.5, seed=3, **about | {"image_size": 64})]
    rows += [evaluation("linear_top1", 0.6, seed=4, protocol="another", **about)]
    write_evidence(run / "linear_probe.json", {"encoder": run.name, "evaluations": rows[:1]})
    write_evidence(run / "linear_probe.json", {"encoder": run.name, "evaluations": rows})
    card = render_card(run, TEMPLATE)
    _, lines = table(card, "Results")
    found = [(line[2], line[5], line[6]) for line in lines if line[0] == "linear probe"]
    assert found == [
        ("91.0 %", "shapes, test", "0"),  # the run's own, found again
        ("94.0 %", "shapes, test", "1"),
        ("88.0 %", "shapes, test", "2"),
        ("91.0 ± 3.0 %", "shapes, test", "3 seeds"),
        ("50.0 %", "shapes, test, 64 pixels", "3"),
        ("60.0 %", "shapes, test", "4"),
    ]
    assert card.count("- ±: standard deviation over seeds of the measurement") == 1
    assert "±" not in render_card(write_run(tmp_path / "one"), TEMPLATE)
    assert [one.metric_value for one in ModelCard(card).data.eval_results][1:] == [0.91, 0.94, 0.88, 0.5, 0.6]
    row = rows[0] | {"image_size": 48}
    write_evidence(run / "linear_probe.json", {"encoder": run.name, "evaluations": [row]})
    assert len(json.loads((run / "linear_probe.json").read_text())["evaluations"]) == 6  # stands beside the others


def test_the_recipe_renders_a_run_again_and_leaves_what_is_no_run_alone(tmp_path):
    run, file = write_run(tmp_path / "run"), downstream(tmp_path / "tuned")
    recipe = [sys.executable, ROOT / "recipes" / "render_card.py"]
    done = subprocess.run([*recipe, run, "--add", file], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (run / "README.md").read_text() == render_card(run, TEMPLATE)
    assert "fine-tuning" in (run / "README.md").read_text()
    assert {path.name for path in run.glob(".*")} == set()

    done = subprocess.run([*recipe, tmp_path / "tuned"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"render_card.py: {tmp_path}/tuned holds no results.json: give the --output_dir of a run\n"
    assert not write_card(tmp_path / "tuned", TEMPLATE)
    assert not (tmp_path / "tuned" / "README.md").exists()
