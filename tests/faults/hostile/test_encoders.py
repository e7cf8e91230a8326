"""Encoders from strangers: nothing they hold runs, nobody is asked for what they name, and the answer is one line."""

import json
import shutil

import pytest
from safetensors.torch import save_file

from hf_mi_ssl.errors import ExitCode, UserError
from hf_mi_ssl.evaluation.frozen import input_of
from hf_mi_ssl.training import data_of, parse_arguments
from tests.faults.harness import images_of, train
from tests.faults.hostile.strangers import (
    AUTO_MAP,
    BILLIONS,
    DEEP,
    EVIL,
    REMOTE,
    STEPS,
    configured,
    device,
    in_another_file,
    pipe,
    some_fast,
)


def evil_module(at):
    (at / "modeling_evil.py").write_text("import os\nos.makedirs('hacked')\nclass Evil: pass\n")


ENCODERS = {
    "code beside a known type": configured(auto_map=AUTO_MAP),
    "code beside an unknown type": configured(auto_map=AUTO_MAP, model_type="evil"),
    "code beside no type": configured(auto_map=AUTO_MAP, model_type=None),
    "code elsewhere": configured(auto_map=REMOTE, model_type="evil"),
    "trust asked for": configured(auto_map=AUTO_MAP, model_type="evil", trust_remote_code=True),
    "timm from the Hub": configured(model_type="timm_wrapper", architecture="hf_hub:evil/model"),
    "timm from a directory": configured(model_type="timm_wrapper", architecture="local-dir:/etc"),
    "timm of no name": configured(model_type="timm_wrapper", architecture="../../evil"),
    "timm of a list": configured(model_type="timm_wrapper", architecture=["resnet18"]),
    "kernels": configured(attn_implementation="evil/kernel"),
    "kernels within": configured(_attn_implementation_internal="evil/kernel"),
    "kernels in ViT": configured(model_type="vit", _attn_implementation="evil/kernel"),
    "backbone from the Hub": configured(model_type="detr", backbone="evil/model", use_pretrained_backbone=True),
    "backbone that is looked up": configured(model_type="rf_detr", backbone="evil/model"),
    "backbone in a file of another name": in_another_file(model_type="rf_detr", backbone="evil/model"),
    "backbone of one word": configured(model_type="rf_detr", backbone="evil"),
    "backbone from the Hub within": configured(
        model_type="detr", backbone_config={"model_type": "timm_backbone", "backbone": "hf-hub:evil/model"}
    ),
    "backbone from a directory": configured(model_type="detr", backbone="local-dir:/etc"),
    "timm from the Hub within": configured(
        model_type="perception_lm", vision_config={"model_type": "timm_wrapper", "architecture": "hf-hub:evil/model"}
    ),
    "weights of timm elsewhere": configured(
        model_type="timm_wrapper", architecture="resnet18", model_args={"checkpoint_path": "/etc/passwd"}
    ),
    "another name": configured(_name_or_path="evil/model"),
    "quantised": configured(quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True}),
    "quantised by strangers": configured(quantization_config={"quant_method": "evil"}),
    "billions of channels": configured(hidden_sizes=[10**9, 10**9]),
    "negative sizes": configured(hidden_sizes=[-8, -16]),
    "sizes of text": configured(hidden_sizes="evil"),
    "layers without end": configured(depths=[10**9, 1]),
    "type of a list": configured(model_type=["resnet"]),
    "type of a path": configured(model_type="../../evil"),
    "dtype of code": configured(dtype="__import__('os').system('x')"),
    "architecture of a path": configured(architectures=["../../os.system"], model_type="evil"),
    "activation of code": configured(hidden_act="__import__('os').system"),
    "deep": lambda at: (at / "config.json").write_bytes(DEEP),
    "pickle as config": lambda at: (at / "config.json").write_bytes(EVIL),
    "list as config": lambda at: (at / "config.json").write_text("[]"),
    "huge number": lambda at: (at / "config.json").write_text('{"model_type": ' + "9" * 5000 + "}"),
    "pickle as weights": lambda at: (at / "model.safetensors").write_bytes(EVIL),
    "pickle in place of weights": lambda at: (at / "model.safetensors").rename(at / "pytorch_model.bin"),
    "billions of numbers": lambda at: (at / "model.safetensors").write_bytes(BILLIONS),
    "no weights": lambda at: save_file({}, at / "model.safetensors", metadata={"format": "pt"}),
    "pipe as config": pipe("config.json"),
    "pipe as weights": pipe("model.safetensors"),
    "pipe as preprocessor": pipe("preprocessor_config.json"),
    "device as config": device("config.json"),
    "device as weights": device("model.safetensors"),
    "adapter of the Hub": lambda at: (at / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "evil/model", "peft_type": "LORA"}'
    ),
}  # fmt: skip
# What they say is ignored
HARMLESS = {"code beside a known type", "another name", "quantised by strangers", "pipe as preprocessor",
            "adapter of the Hub"}  # fmt: skip


@pytest.mark.parametrize("name", some_fast(*ENCODERS))
def test_a_hostile_encoder_runs_nothing_asks_nobody_and_costs_one_line(name, encoder, flat, tmp_path, seen, capfd):
    hostile = tmp_path / "encoder"
    shutil.copytree(encoder, hostile)
    evil_module(hostile)
    ENCODERS[name](hostile)
    argv = [*images_of(flat), *STEPS, "--init_from", hostile]
    code, said = seen.attempt(lambda: train("jmi", tmp_path / "run", *argv), capfd, seconds=60)
    assert code == (0 if name in HARMLESS else ExitCode.ARGUMENTS), said
    if code:
        assert len([line for line in said.splitlines() if line.startswith("pretrain_jmi.py")]) == 1


def test_so_many_were_tried(figure, seen):
    seen.show(figure, "encoders", len(ENCODERS))
    assert len(ENCODERS) >= 30


def test_a_processor_that_leaves_its_type_to_the_configuration_asks_nobody(encoder, tmp_path, seen):
    seen.counts.zero_()
    hostile = shutil.copytree(encoder, tmp_path / "encoder")
    ENCODERS["backbone that is looked up"](hostile)
    (hostile / "preprocessor_config.json").write_text("{}")
    with pytest.raises(UserError, match="would have to be fetched: backbone=evil/model"):
        input_of(str(hostile))
    assert seen.counts[0] == 0


PROCESSORS = [{"image_mean": 3}, {"image_mean": [0.5, 0.5]}, {"image_std": [0.0, 1.0, 1.0]}, {"image_std": ["x"] * 3},
              {"image_mean": [float("nan")] * 3}, {"crop_size": {"height": 10**9, "width": 10**9}},
              {"crop_size": {"height": "x", "width": "x"}}, {"crop_size": [[]], "size": [1, 2]}]  # fmt: skip


@pytest.mark.parametrize("said", [*PROCESSORS, "deep"])
def test_a_hostile_image_processor_costs_one_line(said, encoder, tmp_path):
    hostile = shutil.copytree(encoder, tmp_path / "encoder")
    file = hostile / "preprocessor_config.json"
    assert input_of(str(hostile))["size"] == 8
    file.write_bytes(DEEP) if said == "deep" else file.write_text(json.dumps(json.loads(file.read_text()) | said))
    with pytest.raises(UserError, match="cannot read the image processor"):
        input_of(str(hostile))


@pytest.mark.parametrize("said", ['{"seed": null}', f'{{"seed": {10**30}}}', '{"seed": [1]}', '{"seed": -1}', DEEP])
def test_hostile_arguments_of_a_run_cost_one_line(said, encoder, tmp_path):
    hostile = shutil.copytree(encoder, tmp_path / "encoder")
    (hostile / "training_args.json").write_bytes(said if isinstance(said, bytes) else said.encode())
    with pytest.raises(UserError, match="does not say which seed"):
        data_of(str(hostile), parse_arguments([], ""))
