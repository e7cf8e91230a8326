"""The model card: says what the run's files say, nothing else, and shows hostile names as text."""

import json
import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from hf_mi_ssl import JMIConfig, SDMIConfig
from hf_mi_ssl.errors import UserError
from hf_mi_ssl.hub import render_card

TEMPLATE = Path(__file__).parents[1] / "model_cards" / "pretraining_card.md"
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
        evaluation("mi_h/smile", 4.56, ceiling=6.93),
    ],
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
    return render_card(write_run(tmp_path), TEMPLATE, formulas=FORMULAS, kind="bound", arxiv="2002.05709")


def test_front_matter_is_metadata_of_the_hub(card):
    data = ModelCard(card).data
    assert (data.library_name, data.pipeline_tag) == ("transformers", "image-feature-extraction")
    assert data.license is None
    assert data.datasets is None  # `shapes` is no repository
    assert {(e.metric_name, e.metric_value, e.dataset_split) for e in data.eval_results} == {
        ("knn_top1", 0.87, "test"),
        ("linear_top1", 0.91, "test"),
    }


def test_results_stand_beside_pixels_and_a_random_encoder(card):
    head, rows = table(card, "Results")
    assert head == ["measure", "of", "value", "interval", "n", "split", "protocol"]
    assert [row[1] for row in rows[:3]] == ["pixels", "random encoder", "trained encoder, online branch"]
    assert rows[2][2:] == ["0.87", "0.86 to 0.88", "1,024", "test", "k=20, cosine"]


def test_each_mi_value_has_interval_ceiling_n_and_kind(card):
    head, rows = table(card, "What the two views share")
    assert head == ["estimator", "of", "value", "interval", "ceiling", "n", "split", "kind"]
    assert rows[0][0] == "cos\\_dv"
    assert rows[0][2:] == ["3.21", "3.2 to 3.22", "6.93", "1,024", "test", "lower bound on MI"]
    assert rows[1][1] == "representations h, trained encoder"
    assert rows[1][-1] == "surrogate, not MI"


@pytest.mark.parametrize(("kind", "bound"), [("bound", True), ("surrogate", False), (None, False)])
def test_a_surrogate_is_never_called_a_bound(tmp_path, kind, bound):
    results = RESULTS | {"evaluations": [evaluation("mi/smile", 0.3), evaluation("mi/cos_dv", 0.3, kind="surrogate")]}
    card = render_card(write_run(tmp_path, results), TEMPLATE, formulas=FORMULAS, kind=kind)
    assert ("is a lower bound on the mutual information" in card) == bound
    assert "lower bound on MI" not in card


def test_the_row_is_shown_with_its_formulas(card):
    assert "| critic | cosine |  | T(a, b) = ⟨a, b⟩ / ‖a‖‖b‖ |" in card
    assert "| joint | expected\\_score | 1 | J = mean\\_i T(a\\_i, b\\_i) |" in card
    assert "| marginal | exact | 1 | M = log mean e^T |" in card
    assert "| `temperature` | 0.2 |" in card


def test_every_column_of_either_paradigm_is_shown(tmp_path):
    row = SDMIConfig.from_method("dino", queue_size=5, predictor_hidden_size=6, batch_norm_group_size=7).to_dict()
    _, rows = table(render_card(write_run(tmp_path, row=row), TEMPLATE), "The method")
    columns = {name.strip("`") for name, _ in rows}
    assert columns | {"encoder_config", "joint", "marginal"} == set(SDMIConfig.columns())
    assert set(JMIConfig.columns()) < set(SDMIConfig.columns())
    assert ["`target_assignment`", "centering"] in rows


def test_the_relations_are_said_to_be_those_of_the_row_in_the_table(tmp_path):
    run = write_run(tmp_path)
    card = render_card(run, TEMPLATE, relations="half of `x_y`; ‖p̄ − t̄‖²")
    assert "\n\nThe table of methods says of jmi: half of \\`x\\_y\\`; ‖p̄ − t̄‖².\n" in card
    assert "The table of methods says" not in render_card(run, TEMPLATE)


def test_arguments_hardware_and_figures_are_told_but_not_where_files_lay(card):
    assert "| learning\\_rate | 0.001 |" in card
    assert "/home/somebody" not in card
    assert "data\\_dir" not in card
    assert "- seconds: 171.5" in card
    assert "![mi_curve.png](figures/mi_curve.png)" in card


def test_both_papers_are_cited(card):
    assert "eprint = {2510.01345}" in card
    assert "https://arxiv.org/abs/2002.05709" in card


def test_the_card_has_no_gaps(card):
    assert "\n\n\n" not in card
    assert "None" not in card
    assert "{{" not in card
    assert "{%" not in card


@pytest.mark.parametrize("model_type", ["resnet", "timm_wrapper", "mi_resnet"])
def test_only_mi_resnet_asks_for_remote_code(tmp_path, model_type):
    arguments = ARGUMENTS | {"hub_model_id": "someone/encoder"}
    card = render_card(write_run(tmp_path, arguments=arguments, model_type=model_type), TEMPLATE)
    assert ("trust_remote_code=True" in card) == (model_type == "mi_resnet")
    assert ("`timm`" in card) == (model_type == "timm_wrapper")
    assert 'AutoModel.from_pretrained("someone/encoder", ' in card
    snippet = card.split("```python\n")[1].split("```")[0]
    compile(snippet, "snippet", "exec")


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
    """Wherever the name stands, the front matter keeps its keys, the tables their columns, and nothing is markup."""
    entries = [evaluation(n, 0.5, split=name, protocol=name) for n in ("knn_top1", "mi/cos_dv", f"mi/{name}", name)]
    results = dict.fromkeys(("method", "encoder", "dataset"), name) | {
        "evaluations": entries,
        "hardware": {name: name},
    }
    row = ROW | {"method": name, "joint": {name: 1.0}}
    arguments = {name: name, "hub_model_id": name, "note": [name]}
    run = write_run(tmp_path, results, arguments, row, figures=("fig.png", "a](x) ![b.png"))
    card = render_card(run, TEMPLATE, formulas={name: name}, kind="bound", arxiv=name, relations=name)

    head, body = card.removeprefix("---\n").split("\n---\n", 1)
    data = yaml.safe_load(head)
    assert set(data) == {"library_name", "pipeline_tag", "tags", "model-index"}
    assert len(ModelCard(card).data.eval_results) == 1
    assert all(len(str(value)) < 100 for value in data["tags"])
    assert body.count("\n# ") == 1
    assert body.count("\n---") == 0
    assert body.count("```") == 4
    assert 'from_pretrained(".")' in body
    # what Markdown and HTML would act on is escaped outside our own text
    assert not any(c in card for c in "\u202e\u200b\u2066\u2028\x00\x1b\x85")
    for markup in ("<script", "<img", "<!--", "<b>", "https://evil", " www.evil", "**bold"):
        assert markup not in body
    for line in body.splitlines():
        if line.startswith("|"):
            columns = line.replace("\\|", "").count("|") - 1
            assert columns in (2, 4, 7, 8)
    links = re.findall(r"(?<!\\)\]\(([^)]*)\)", body)  # those whose bracket is not escaped
    assert links == ["https://arxiv.org/abs/2510.01345", "figures/fig.png"]
    assert " 49 " not in body


def test_a_broken_file_is_one_line(tmp_path):
    (tmp_path / "results.json").write_text("{broken", encoding="utf-8")
    with pytest.raises(UserError, match="is not JSON") as error:
        render_card(tmp_path, TEMPLATE)
    assert "\n" not in str(error.value)
