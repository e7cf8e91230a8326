"""Hostile names stay text in a card, and broken files cost one line."""

import json
import re

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mi_ssl.errors import UserError
from hf_mi_ssl.hub import (
    add_evidence,
    render_card,
)
from tests.card_runs import RESULTS, ROW, TEMPLATE, evaluation, write_run


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
