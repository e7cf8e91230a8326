"""Whole models from strangers: loaded exactly or not at all; nothing runs, nobody is asked, and a line says so."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_mi_ssl import SDMIConfig, SDMIForPreTraining
from hf_mi_ssl.errors import ExitCode, UserError
from hf_mi_ssl.evaluation.saved import load_saved
from hf_mi_ssl.hub import export_pretraining
from hf_mi_ssl.training.downstream import run_downstream
from tests.conftest import small_model
from tests.faults.hostile.strangers import DEEP, EVIL, REMOTE, changed, device, some_fast


@pytest.fixture(scope="module")
def whole(encoder, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("whole")
    shutil.copytree(encoder, directory, dirs_exist_ok=True)
    export_pretraining(small_model("byol"), directory)
    return directory


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop(next(iter(t))), "lacks weights"),
        (lambda t: t.update(evil=torch.ones(2)), "also holds weights"),
        (lambda t: t["projector.0.weight"].fill_(float("inf")), "has infinite or undefined weights"),
        (lambda t: t.update({"projector.0.weight": torch.ones(2, 2)}), "cannot load the whole model"),
    ],
)
def test_a_whole_model_is_loaded_exactly_or_not_at_all(change, said, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "copy")
    assert isinstance(load_saved(str(tmp_path / "copy")), SDMIForPreTraining)
    file = tmp_path / "copy" / "pretraining" / "model.safetensors"
    found = load_file(file)
    change(found)
    save_file(found, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=said):
        load_saved(str(tmp_path / "copy"))


def of_whole(**keys):
    """The whole model's config.json with these keys, `encoder_…` in that of its encoder."""

    def change(config):
        for key, value in keys.items():
            (config["encoder_config"] if key.startswith("encoder_") and key != "encoder_config" else config)[
                key if key == "encoder_config" else key.removeprefix("encoder_")
            ] = value

    return lambda at: changed("config.json", change)(at / "pretraining")


WHOLES = {
    "timm from the Hub": of_whole(encoder_config={"model_type": "timm_wrapper", "architecture": "hf_hub:evil/model"}),
    "backbone from the Hub": of_whole(
        encoder_config={"model_type": "detr", "backbone": "evil/model", "use_pretrained_backbone": True}
    ),
    "backbone that is looked up": of_whole(encoder_config={"model_type": "rf_detr", "backbone": "evil/model"}),
    "backbone of the encoder within": of_whole(
        encoder_config={
            "model_type": "detr",
            "backbone_config": {"model_type": "timm_backbone", "backbone": "hf-hub:evil/model"},
        }
    ),
    "code of the encoder": of_whole(encoder_config={"model_type": "evil", "auto_map": REMOTE}),
    "code of the whole": of_whole(auto_map=REMOTE, model_type="evil"),
    "no type": of_whole(encoder_config={}),
    "encoder of text": of_whole(encoder_config="evil/model"),
    "kernels": of_whole(attn_implementation="evil/kernel"),
    "kernels of the encoder": of_whole(encoder_attn_implementation="evil/kernel"),
    "unknown term": of_whole(joint={"evil": 1.0}),
    "terms of a list": of_whole(joint=[1]),
    "method of a list": of_whole(method=["byol"]),
    "dtype of code": of_whole(dtype="os.system"),
    "quantised": of_whole(quantization_config={"quant_method": "gptq"}),
    "temperature of nothing": of_whole(temperature=float("nan")),
    "layers without end": of_whole(projector_num_layers=10**9),
    "layers of the encoder": of_whole(encoder_depths=[10**7, 1]),
    "queue without end": of_whole(queue_size=10**12),
    "width without end": of_whole(projection_size=10**9),
    "deep": lambda at: (at / "pretraining" / "config.json").write_bytes(DEEP),
    "pickle as config": lambda at: (at / "pretraining" / "config.json").write_bytes(EVIL),
    "device as config": lambda at: device("config.json")(at / "pretraining"),
}


@pytest.mark.parametrize("name", some_fast(*WHOLES))
def test_a_hostile_whole_model_runs_nothing_asks_nobody_and_costs_one_line(name, whole, tmp_path, seen, capfd):
    hostile = tmp_path / "whole"
    shutil.copytree(whole, hostile)
    WHOLES[name](hostile)
    code, said = seen.attempt(lambda: run_downstream(lambda: print(load_saved(str(hostile)))), capfd)
    assert code == ExitCode.ARGUMENTS, said
    assert sum("cannot load the whole model" in line for line in said.splitlines()) == 1


def test_so_many_were_tried(figure, seen):
    seen.show(figure, "whole models", len(WHOLES))
    assert len(WHOLES) >= 20


def test_a_row_made_in_code_asks_nobody_either(seen):
    seen.counts.zero_()
    with pytest.raises(UserError, match="would have to be fetched: backbone=evil"):
        SDMIConfig(encoder_config={"model_type": "rf_detr", "backbone": "evil"})
    assert seen.counts[0] == 0
