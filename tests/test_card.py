"""The model card: says what the run's files say, nothing else, and shows hostile names as text."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hf_mi_ssl import JMIConfig, SDMIConfig
from hf_mi_ssl.encoders import encoder_config
from hf_mi_ssl.errors import UserError
from hf_mi_ssl.hub import (
    add_evidence,
    dataset_license,
    export_encoder,
    export_pretraining,
    licence,
    render_card,
    write_card,
    write_evidence,
)
from hf_mi_ssl.methods import METHODS
from tests.conftest import small_model

ROOT = Path(__file__).parents[1]
CARDS = ROOT / "model_cards"
TEMPLATE = CARDS / "pretraining_card.md"
EXAMPLES = sorted(path.parent for path in CARDS.glob("examples/*/results.json"))
FORMULAS = {
    "cosine": "T(a, b) = ⟨a, b⟩ / ‖a‖‖b‖",
    "expected_score": "J = mean_i T(a_i, b_i)",
    "exact": "M = log mean e^T",
}


def evaluation(name, value, encoder="trained", **facts):
    branch = "online" if encoder == "trained" else None
    rest = {"low": value - 0.01, "high": value + 0.01, "n": 1024, "split": "test", "protocol": "k=20, cosine"}
    return {"name": name, "value": value, "encoder": encoder, "branch": branch} | rest | facts


RESULTS = {
    "method": "jmi",
    "encoder": "resnet_tiny",
    "dataset": "shapes",
    "seed": 0,
    "steps": 640,
    "images_seen": 163840,
    "hardware": {"device": "cpu", "cores": 2},
    "timing": {"seconds": 171.5},
    "versions": {"transformers": "5.23.0"},
    "evaluations": [
        evaluation("knn_top1", 0.31, "pixels"),
        evaluation("knn_top1", 0.42, "random"),
        evaluation("knn_top1", 0.87),
        evaluation("linear_top1", 0.91),
        evaluation("rankme", 57.3),
        evaluation("mi/cos_dv", 3.21, ceiling=6.93),
        evaluation("mi_h/smile", 6.56, ceiling=6.93, kind="plugin"),
    ],
    "row": {"formulas": FORMULAS, "kind": "bound", "arxiv": "2002.05709", "relations": None},
    "alarms": [],
}
ARGUMENTS = {"method": "jmi", "learning_rate": 0.001, "output_dir": "/home/somebody/run", "data_dir": None,
             "imported": ["/home/somebody/my_method.py"]}  # fmt: skip
ROW = {
    "method": "jmi",
    "critic": "cosine",
    "temperature": 0.2,
    "joint": {"expected_score": 1.0},
    "marginal": {"exact": 1.0},
}


def write_run(
    directory, results=RESULTS, arguments=ARGUMENTS, row=ROW, model_type="resnet", figures=("mi_curve.png",)
):
    files = {"results.json": results, "training_args.json": arguments, "pretraining/config.json": row}
    files["config.json"] = {"model_type": model_type}
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(json.dumps(content), encoding="utf-8")
    for name in figures:
        (directory / "figures").mkdir(exist_ok=True)
        (directory / "figures" / name).write_bytes(b"")
    return directory


def table(card, heading):
    """The cells of the first table under a heading, by line."""
    lines = iter(card.split(f"## {heading}\n", 1)[1].splitlines())
    rows = []
    for line in lines:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
        elif rows:
            break
    return rows[0], rows[2:]


@pytest.fixture
def card(tmp_path):
    return render_card(write_run(tmp_path), TEMPLATE)


def test_front_matter_is_metadata_of_the_hub(card):
    data = ModelCard(card).data
    assert (data.library_name, data.pipeline_tag) == ("transformers", "image-feature-extraction")
    assert data.license is None
    assert data.datasets is None  # `shapes` is no repository
    assert {(e.metric_name, e.metric_value, e.dataset_split) for e in data.eval_results} == {
        ("kNN", 0.87, "test"),
        ("linear probe", 0.91, "test"),
    }


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


def test_the_data_set_is_named_with_its_licence_and_local_data_without_their_place(tmp_path, monkeypatch):
    hub = {"dataset": "uoft-cs/cifar10", "dataset_license": "cc0-1.0", "encoder": "someone/encoder"}
    card = render_card(write_run(tmp_path, RESULTS | hub), TEMPLATE)
    assert "on [uoft-cs/cifar10](https://huggingface.co/datasets/uoft-cs/cifar10) by" in card
    assert "- licence of the data set: cc0-1.0" in card
    assert (ModelCard(card).data.datasets, ModelCard(card).data.base_model) == (["uoft-cs/cifar10"], "someone/encoder")

    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret" / "photos").mkdir(parents=True)
    for place in ("/home/somebody/photos", "./photos", "~/photos", "secret/photos"):
        local = RESULTS | {"dataset": place, "encoder": place}
        card = render_card(write_run(tmp_path, local, {"init_from": place, "dataset_name": place}), TEMPLATE)
        assert "photos" not in card
        assert ModelCard(card).data.eval_results is None
    card = render_card(write_run(tmp_path, RESULTS | {"dataset": "imagefolder"}), TEMPLATE)
    assert "without labels on a folder of images by" in card


class Page:
    """What the Hub says of a data set."""

    def __init__(self, data):
        self.card_data = data


@pytest.mark.parametrize(
    ("data", "expected"),
    [({"license": "mit"}, "mit"), ({"license": ["mit", "cc0-1.0"]}, "mit, cc0-1.0"), ({}, None), (None, None)],
)
def test_the_licence_comes_from_the_page_of_the_data_set(data, expected, monkeypatch):
    asked = []
    monkeypatch.setattr(licence.HfApi, "dataset_info", lambda self, name, timeout: asked.append(name) or Page(data))
    assert dataset_license("uoft-cs/cifar10") == expected
    for name in ("shapes", "imagefolder", "/home/somebody/photos"):
        assert dataset_license(name) is None
    assert asked == ["uoft-cs/cifar10"]


def test_a_hub_out_of_reach_costs_the_licence_only():
    assert dataset_license("uoft-cs/cifar10") is None  # tests are offline


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


# The examples


def test_there_is_an_example_of_each_paradigm():
    assert {METHODS[path.name].paradigm for path in EXAMPLES} == {"sdmi", "jmi"}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_are_what_the_template_makes_of_their_files(example):
    """`python recipes/render_card.py model_cards/examples/*` brings them up to date."""
    assert (example / "README.md").read_text(encoding="utf-8") == render_card(example, TEMPLATE)
    figures = {path.name for path in (example / "figures").iterdir()}
    assert {"mi.png", "training.png", "spectrum.png", "neighbours.png", "embedding_map.png"} <= figures


# The row, its sources, and how to load


def test_the_row_is_shown_with_its_formulas(card):
    assert "| critic | cosine |  | T(a, b) = ⟨a, b⟩ / ‖a‖‖b‖ |" in card
    assert "| joint | expected\\_score | 1 | J = mean\\_i T(a\\_i, b\\_i) |" in card
    assert "| marginal | exact | 1 | M = log mean e^T |" in card
    assert "| `temperature` | 0.2 |" in card


def test_every_column_of_either_paradigm_is_shown(tmp_path):
    row = SDMIConfig.from_method("dino", queue_size=5, predictor_hidden_size=6, batch_norm_group_size=7).to_dict()
    card = render_card(write_run(tmp_path, row=row), TEMPLATE)
    columns = set(re.findall(r"^\| `(\w+)` \| .+ \|$", card, re.MULTILINE))
    assert columns | {"encoder_config", "joint", "marginal"} == set(SDMIConfig.columns())
    assert set(JMIConfig.columns()) < set(SDMIConfig.columns())
    assert "\n| `target_assignment` | centering |\n" in card


def test_the_relations_are_said_to_be_those_of_the_row_in_the_table(tmp_path):
    row = RESULTS["row"] | {"relations": "half of `x_y`; ‖p̄ − t̄‖²"}
    card = render_card(write_run(tmp_path, RESULTS | {"row": row}), TEMPLATE)
    assert "\n\nThe table of methods says of jmi: half of \\`x\\_y\\`; ‖p̄ − t̄‖².\n" in card
    assert "The table of methods says" not in render_card(write_run(tmp_path), TEMPLATE)


def test_arguments_hardware_and_figures_are_told_but_not_where_files_lay(card):
    assert "| learning\\_rate | 0.001 |" in card
    assert "/home/somebody" not in card
    assert "data\\_dir" not in card
    assert "- seconds: 171.5" in card
    assert "![mi_curve.png](figures/mi_curve.png)" in card


def test_known_figures_come_first_and_have_a_caption(tmp_path):
    card = render_card(write_run(tmp_path, figures=("a.png", "spectrum.png", "mi.png")), TEMPLATE)
    assert re.findall(r"\(figures/(.*)\)", card) == ["mi.png", "spectrum.png", "a.png"]
    assert "![spectrum.png](figures/spectrum.png)\n\nHow much of the variance" in card


def test_both_papers_are_cited(card):
    assert "eprint = {2510.01345}" in card
    assert "title = {A Simple Framework for Contrastive Learning of Visual Representations}" in card
    assert "https://arxiv.org/abs/2002.05709" in card


@pytest.mark.parametrize("row", METHODS.values(), ids=lambda row: row.name)
def test_the_paper_of_every_row_is_in_the_bibliography(row):
    entries = (CARDS / "citations.bib").read_text(encoding="utf-8").split("\n\n")
    assert [f"eprint = {{{row.arxiv}}}" in entry for entry in entries].count(True) == 1


def test_the_card_has_no_gaps(card):
    assert "\n\n\n" not in card
    assert "None" not in card
    assert "{{" not in card
    assert "{%" not in card


@pytest.mark.parametrize("model_type", ["resnet", "timm_wrapper", "mi_resnet"])
def test_only_mi_resnet_asks_for_remote_code(tmp_path, model_type):
    arguments = ARGUMENTS | {"hub_model_id": "someone/encoder"}
    run = write_run(tmp_path, arguments=arguments, model_type=model_type)
    card = render_card(run, TEMPLATE)
    assert card.count("trust_remote_code=True") == (3 if model_type == "mi_resnet" else 0)
    assert ("`timm`" in card) == (model_type == "timm_wrapper")
    assert 'AutoModel.from_pretrained("someone/encoder", ' in card
    assert 'AutoModel.from_pretrained("another/name", ' in render_card(run, TEMPLATE, model_id="another/name")


@pytest.mark.parametrize("name", ["resnet_tiny", "timm/resnet10t", "mi_resnet18"])
def test_the_snippets_run(tmp_path, name, monkeypatch):
    model = small_model("jmi", encoder_config=encoder_config(name, 32))
    export_encoder(model.encoder, tmp_path, image_size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    export_pretraining(model, tmp_path)
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    Image.new("RGB", (40, 50), "green").save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    card = render_card(".", TEMPLATE)
    encoder, others, whole = (dict() for _ in range(3))
    for space, snippet in zip(
        (encoder, others, whole), re.findall(r"```python\n(.*?)```", card, re.DOTALL), strict=True
    ):
        exec(compile(snippet, "snippet", "exec"), space)
    torch.testing.assert_close(encoder["representation"], others["representation"])
    assert others["classifier"].num_labels == 10
    assert whole["model"].config.method == "jmi"


def test_an_empty_run_gives_a_card_without_those_facts(tmp_path):
    card = render_card(tmp_path, TEMPLATE)
    assert ModelCard(card).data.eval_results is None
    for absent in (
        "## Results",
        "## The method",
        "## Figures",
        "## Training",
        "## Hardware",
        "views share",
        "steps:",
        "seed:",
    ):
        assert absent not in card
    assert "None" not in card
    assert "\n\n\n" not in card


def test_values_that_are_no_numbers_are_left_out(tmp_path):
    bad = [evaluation("knn_top1", 0.5) | {"value": value} for value in (None, "0.9", float("nan"), float("inf"), True)]
    card = render_card(write_run(tmp_path, RESULTS | {"evaluations": bad}), TEMPLATE)
    assert "## Results" not in card
    assert "model-index" not in card


HOSTILE = [
    "name\n---\nlicense: evil",
    "name\r\n---\r\nlicense: evil\r\n---\r\n# owned",
    "<script>alert(1)</script>",
    "<!-- <img src=x onerror=alert(1)>",
    "[click](javascript:alert(1))",
    "![x](https://evil.example/track.png)",
    "https://evil.example www.evil.example",
    "a | b | c |\n| --- | --- |",
    "`code` **bold** _it_ ~~no~~ $x$ # @someone",
    "{{ 7 * 7 }} {% for x in y %} {# no #}",
    "\u202egnp.exe \u200b\u2066hidden\u2069 \x00\x1b[31m \u2028 \x85",
    '\'"key: [1, {a: b}]" & *anchor !!python/object:os.system x',
    "```\n# owned\n```",
    "\\| \\` \\<b>",
    "x" * 10_000,
    "---",
    "yes",
    "\ud800 lone",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_text(tmp_path, name):
    assert_text_where_names_stand(tmp_path, name)


@settings(max_examples=50, deadline=None)
@given(st.text("ab01|`*_[]()<>!\\#$~:@&-={}%./\n\r\t\"' \u202e\u200b\u2028é𝒳", max_size=40))
def test_any_name_stays_text(tmp_path_factory, name):
    assert_text_where_names_stand(tmp_path_factory.mktemp("run"), f"x {name}")  # no Hub id, and no path


def assert_text_where_names_stand(tmp_path, name):
    """Wherever the name stands, the front matter keeps its keys, the tables their columns, and nothing is markup."""
    entries = [evaluation(n, 0.5, split=name, protocol=name) for n in ("knn_top1", "mi/cos_dv", f"mi/{name}", name)]
    verdict = {"grew": False, "because": [name, name]}
    results = dict.fromkeys(("method", "encoder", "dataset", "dataset_license"), name) | {
        "evaluations": [*entries, evaluation("rank/rankme", 2.0, protocol=name), evaluation(f"shape/{name}", 2.0)],
        "hardware": {name: name},
        "row": {"formulas": {name: name}, "kind": "bound", "arxiv": name, "relations": name},
        "alarms": [{"kind": name, "step": name, "message": name}],
        "growth": {f"mi/{name}": verdict, name: verdict},
    }
    row = ROW | {"method": name, "joint": {name: 1.0}}
    arguments = {name: name, "hub_model_id": name, "note": [name]}
    run = write_run(tmp_path, results, arguments, row, figures=("fig.png", "a](x) ![b.png"))
    card = render_card(run, TEMPLATE, model_id=name)

    head, body = card.removeprefix("---\n").split("\n---\n", 1)
    data = yaml.safe_load(head)
    assert set(data) == {"library_name", "pipeline_tag", "tags", "model-index"}
    assert len(ModelCard(card).data.eval_results) == 1
    assert all(len(str(value)) < 100 for value in data["tags"])
    assert body.count("\n# ") == 1
    assert body.count("\n---") == 0
    assert body.count("```") == 8
    assert 'from_pretrained(".")' in body
    # what Markdown and HTML would act on is escaped outside our own text
    assert not any(c in card for c in "\u202e\u200b\u2066\u2028\x00\x1b\x85")
    for markup in ("<script", "<img", "<!--", "<b>", "https://evil", " www.evil", "**bold"):
        assert markup not in body
    for line in body.splitlines():
        if line.startswith("|"):
            columns = line.replace("\\|", "").count("|") - 1
            assert columns in (2, 4, 5, 7, 8)
    links = re.findall(r"(?<!\\)\]\(([^)]*)\)", body)  # those whose bracket is not escaped
    assert links == ["https://arxiv.org/abs/2510.01345", "figures/fig.png"]
    assert " 49 " not in body


def test_a_broken_file_is_one_line(tmp_path):
    (tmp_path / "results.json").write_text("{broken", encoding="utf-8")
    with pytest.raises(UserError, match="is not JSON") as error:
        render_card(tmp_path, TEMPLATE)
    assert "\n" not in str(error.value)


def test_evidence_of_another_encoder_is_refused(tmp_path):
    run_dir = write_run(tmp_path / "run", RESULTS)
    file = tmp_path / "finetune.json"
    file.write_text(json.dumps({"encoder": "somebody/else", "evaluations": [evaluation("finetune_top1", 0.99)]}))
    with pytest.raises(UserError, match="evidence of 'somebody/else'"):
        add_evidence(run_dir, file)
    file.write_text(json.dumps({"encoder": "run", "evaluations": [evaluation("finetune_top1", 0.99)]}))
    add_evidence(run_dir, file)
    assert (run_dir / "finetune.json").exists()
