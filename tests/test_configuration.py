"""The columns as strict configurations: what is accepted, what is refused, and in which words."""

import json

import pytest
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, ConvNextV2Config

from hf_mi_ssl import JMIConfig, SDMIConfig
from hf_mi_ssl.errors import UserError
from hf_mi_ssl.methods import METHODS


def test_jmi_has_no_column_for_what_only_two_branches_have():
    for column in ("predictor_hidden_size", "target", "target_momentum", "target_init", "m_step_every", "symmetric"):
        assert column in SDMIConfig.columns()
        assert column not in JMIConfig.columns()
        with pytest.raises(UserError, match="unknown column of JMIConfig"):
            JMIConfig(**{column: 1})


@pytest.mark.parametrize("build", [JMIConfig, lambda **columns: JMIConfig.from_method("jmi", **columns)])
def test_an_unknown_column_is_refused_with_the_nearest_one(build):
    with pytest.raises(UserError, match="unknown column of JMIConfig 'temprature'; did you mean 'temperature'\\?"):
        build(temprature=0.1)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 0}, "temperature must be above 0"),
        ({"projection_size": 0}, "projection_size must be above 0"),
        ({"projection_size": 12.5}, "projection_size"),
        ({"critic": "cosin"}, "did you mean 'cosine'"),
        ({"joint": {"expected_scores": 1.0}}, "did you mean 'expected_score'"),
        ({"marginal": {"exakt": 1.0}}, "did you mean 'exact'"),
        ({"joint": {}}, "needs a joint term"),
        ({"target": "emma"}, "target"),
        ({"target_momentum": 1.5}, "between 0 and 1"),
        ({"m_step_every": 0}, "above 0"),
        ({"predictor_hidden_size": 0}, "above 0"),
    ],
)
def test_a_value_that_cannot_be_is_refused_in_one_line(columns, said):
    with pytest.raises(UserError) as raised:
        SDMIConfig.from_method("sdmi", **columns)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_method_of_the_other_paradigm_names_the_recipe_to_use():
    with pytest.raises(UserError, match="pretrain_jmi.py"):
        SDMIConfig.from_method("simclr")
    with pytest.raises(UserError, match="pretrain_sdmi.py"):
        JMIConfig.from_method("simsiam")


def test_a_row_overrides_defaults_and_a_column_overrides_the_row():
    assert SDMIConfig.from_method("simsiam").projection_size == METHODS["simsiam"].columns["projection_size"]
    assert SDMIConfig.from_method("simsiam", projection_size=64).projection_size == 64
    assert SDMIConfig.from_method("simsiam").method == "simsiam"


def test_an_ablation_is_a_deleted_key():
    assert JMIConfig.from_method("jmi", marginal={}).marginal == {}


@pytest.mark.parametrize(
    "encoder",
    [None, {"model_type": "convnextv2", "patch_size": 2}, ConvNextV2Config(patch_size=2), {"model_type": "mi_resnet"}],
)
def test_the_nested_encoder_is_kept_with_its_class_through_json(encoder, tmp_path):
    config = JMIConfig(encoder_config=encoder)
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert type(again) is JMIConfig
    assert type(again.encoder_config) is type(config.encoder_config)
    assert again.encoder_config.to_dict() == config.encoder_config.to_dict()


def test_the_nested_encoder_can_be_updated_while_loading(tmp_path):
    JMIConfig(encoder_config=ConvNextV2Config()).save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path, encoder_config={"drop_path_rate": 0.5})
    assert again.encoder_config.drop_path_rate == 0.5


def test_a_checkpoint_with_a_column_of_another_version_is_refused_by_name(tmp_path):
    JMIConfig().save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"temperatur": 3}))
    with pytest.raises(UserError, match="temperatur"):
        AutoConfig.from_pretrained(tmp_path)


def test_a_strict_subclass_checks_its_own_columns_too():
    @strict
    class WithQueue(SDMIConfig):
        model_type = "with_queue"
        queue_length: int = 16

    assert WithQueue(queue_length=8).queue_length == 8
    with pytest.raises(StrictDataclassError):
        WithQueue(queue_length="long")
    with pytest.raises(UserError, match="did you mean 'queue_length'"):
        WithQueue(queue_lenght=8)
