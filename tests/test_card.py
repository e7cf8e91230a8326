"""The model card: metadata, row, sources, snippets and examples, and nothing that no file says."""

import json
import re

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image

from hf_mi_ssl import JMIConfig, SDMIConfig
from hf_mi_ssl.encoders import encoder_config
from hf_mi_ssl.hub import (
    dataset_license,
    export_encoder,
    export_pretraining,
    licence,
    render_card,
)
from hf_mi_ssl.methods import METHODS
from tests.card_runs import ARGUMENTS, CARDS, EXAMPLES, RESULTS, TEMPLATE, write_run
from tests.conftest import small_model


def test_front_matter_is_metadata_of_the_hub(card):
    data = ModelCard(card).data
    assert (data.library_name, data.pipeline_tag) == ("transformers", "image-feature-extraction")
    assert data.license is None
    assert data.datasets is None  # `shapes` is no repository
    assert {(e.metric_name, e.metric_value, e.dataset_split) for e in data.eval_results} == {
        ("kNN", 0.87, "test"),
        ("linear probe", 0.91, "test"),
    }


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


def test_a_start_from_trained_weights_is_said(tmp_path):
    assert "An image encoder trained without labels on" in render_card(write_run(tmp_path, RESULTS), TEMPLATE)
    for start, said in (("microsoft/resnet-18", "microsoft/resnet-18"), ("./secret", "another encoder")):
        card = render_card(write_run(tmp_path, RESULTS, {"init_from": start}), TEMPLATE)
        assert f"An image encoder trained further, without labels, from {said}, which may have seen labels, on" in card


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
