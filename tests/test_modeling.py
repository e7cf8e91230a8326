"""Loading, by the rules of transformers 5: models are built on the meta device and filled afterwards."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForPreTraining, ConvNextV2Config, Dinov2Config, TimmWrapperConfig

from hf_mi_ssl import JMIConfig, JMIForPreTraining, JMIModel, SDMIForPreTraining, SDMIModel
from hf_mi_ssl.errors import UserError
from tests.conftest import SMALL, forward, small_config, small_model

TARGETS = ["sdmi", "sdmi_ema", "simsiam"]


def moved(model):
    """The model with parameters and buffers that no initialisation gives."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
            else:
                value.fill_(7)
    return model


def loaded(model, path, auto=AutoModelForPreTraining, **more):
    model.save_pretrained(path)
    return auto.from_pretrained(path, output_loading_info=True, **more)


def test_everything_comes_back_bit_for_bit_with_nothing_missing(method, tmp_path):
    model = moved(small_model(method))
    again, info = loaded(model, tmp_path)
    assert type(again) is type(model)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    for (name, value), other in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(value, other), name


def test_what_learns_after_loading_is_what_learned_before(method, tmp_path):
    model = small_model(method)
    again, _ = loaded(model, tmp_path)
    learns = {name: p.requires_grad for name, p in model.named_parameters()}
    assert learns == {name: p.requires_grad for name, p in again.named_parameters()}


def test_automodel_returns_the_encoder_of_a_full_checkpoint_without_a_warning(method, tmp_path, caplog):
    model = moved(small_model(method))
    encoder, info = loaded(model, tmp_path, AutoModel)
    assert type(encoder) is (JMIModel if isinstance(model, JMIForPreTraining) else SDMIModel)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not caplog.records
    for name, value in model.encoder.state_dict().items():
        assert torch.equal(encoder.encoder.state_dict()[name], value)


def test_only_safetensors_are_written(tmp_path):
    small_model("sdmi").save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}


def drop(path, prefix):
    tensors = load_file(path / "model.safetensors")
    kept = {name: value for name, value in tensors.items() if not name.startswith(prefix)}
    assert len(kept) < len(tensors)
    save_file(kept, path / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("method", ["sdmi", "sdmi_ema"])
def test_a_target_that_the_checkpoint_lacks_is_rebuilt_from_the_online_branch(method, tmp_path):
    model = moved(small_model(method))
    model.save_pretrained(tmp_path)
    drop(tmp_path, "target.")
    again, info = AutoModelForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    for online, target in zip((again.encoder, again.projector), (again.target.encoder, again.target.projector)):
        for (name, value), other in zip(online.state_dict().items(), target.state_dict().values()):
            assert torch.equal(value, other), name


@pytest.mark.parametrize("prefix", ["projector.", "predictor.", "encoder.", "target.projector."])
def test_what_a_checkpoint_lacks_is_initialised_and_reported(prefix, tmp_path):
    name = "simsiam" if prefix == "predictor." else "sdmi_ema"
    model = moved(small_model(name))
    model.save_pretrained(tmp_path)
    drop(tmp_path, prefix)
    again, info = AutoModelForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"]
    assert all(key.startswith(prefix) for key in info["missing_keys"])
    for key, value in again.state_dict().items():
        assert value.isfinite().all(), key
        assert value.abs().max() < 100, key  # not the memory that meta tensors were given


@pytest.mark.parametrize("method", TARGETS)
def test_a_target_starts_as_the_online_branch_or_from_a_draw_of_its_own(method):
    model = small_model(method)
    if not model.target.has_own_encoder:
        return
    value = next(model.encoder.parameters())
    assert torch.equal(value, next(model.target.encoder.parameters()))
    assert value.data_ptr() != next(model.target.encoder.parameters()).data_ptr()
    other = small_model(method, target_init="independent")
    assert not torch.equal(next(other.encoder.parameters()), next(other.target.encoder.parameters()))


def test_tying_weights_again_does_not_reset_a_target_that_has_moved():
    model = moved(small_model("sdmi_ema"))
    before = next(model.target.parameters()).clone()
    model.tie_weights()
    assert torch.equal(before, next(model.target.parameters()))


def test_an_ema_target_follows_and_copies_statistics_and_counters():
    model = small_model("sdmi_ema")
    start = [p.clone() for p in model.target.projector.parameters()]
    moved(model.encoder), moved(model.projector)
    model.update_target(0.75)
    for before, now, online in zip(start, model.target.projector.parameters(), model.projector.parameters()):
        torch.testing.assert_close(now, 0.75 * before + 0.25 * online)
    for own, other in zip(model.target.buffers(), [*model.encoder.buffers(), *model.projector.buffers()]):
        assert torch.equal(own, other)


@pytest.mark.parametrize("method", ["sdmi", "simsiam"])
def test_targets_that_do_not_follow_stay_where_they_are(method):
    model = small_model(method)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.update_target(0.5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_m_step_comes_every_so_many_e_steps():
    model = small_model("sdmi", m_step_every=3)
    assert [model.phases_at(step) for step in range(4)] == [("E",), ("E",), ("E", "M"), ("E",)]
    assert small_model("simsiam").phases_at(2) == ("E",)


def test_weights_can_be_loaded_in_bf16_and_the_bound_is_still_float32(tmp_path, views):
    again, _ = loaded(small_model("sdmi_ema"), tmp_path, dtype=torch.bfloat16)
    assert next(again.parameters()).dtype == torch.bfloat16
    outputs = forward(again, *(view.bfloat16() for view in views))
    assert outputs.loss.dtype == torch.float32


def test_a_subclass_with_an_override_of_its_own_saves_and_loads(tmp_path, views):
    class Doubled(JMIForPreTraining):
        def forward(self, view_a, view_b):
            outputs = super().forward(view_a, view_b)
            outputs.loss = 2 * outputs.loss
            return outputs

    torch.manual_seed(0)
    model = Doubled(small_config("jmi")).eval()
    model.save_pretrained(tmp_path)
    again = Doubled.from_pretrained(tmp_path)
    assert torch.equal(again(*views).loss, model(*views).loss)


def test_a_nested_timm_encoder_keeps_the_initial_weights_of_timm(tmp_path):
    encoder = TimmWrapperConfig(architecture="resnet18", num_labels=0)
    torch.manual_seed(0)
    model = JMIForPreTraining(JMIConfig.from_method("jmi", encoder_config=encoder, **SMALL))
    deviation = model.encoder.timm_model.layer1[0].conv1.weight.std().item()
    assert deviation == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)  # He, fan out; transformers would give 0.02
    assert not model.encoder.timm_model.layer1[0].bn2.weight.any()  # timm starts the last gain of a block at zero
    again, info = loaded(model, tmp_path)
    assert not info["missing_keys"]
    assert torch.equal(again.encoder.timm_model.conv1.weight, model.encoder.timm_model.conv1.weight)


def test_start_from_gives_every_encoder_in_the_model_the_given_weights():
    model, other = small_model("sdmi", target_init="independent"), moved(small_model("jmi"))
    model.start_from(other.encoder)
    for encoder, _ in model.branches.values():
        assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), other.encoder.parameters()))


def test_building_on_the_meta_device_allocates_nothing():
    with torch.device("meta"):
        model = SDMIForPreTraining(small_config("sdmi", encoder_config=ConvNextV2Config(patch_size=2)))
    assert {p.device.type for p in model.parameters()} == {"meta"}


def test_what_no_image_reaches_is_frozen_so_that_distributed_training_does_not_wait_for_it():
    encoder = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=4)
    assert encoder.use_mask_token
    model = SDMIForPreTraining(small_config("sdmi", encoder_config=encoder))
    statistics = [buffer.clone() for buffer in model.buffers()]
    model.check_images(16)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"encoder.embeddings.mask_token", "target.encoder.embeddings.mask_token"}
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(one, other) for one, other in zip(statistics, model.buffers()))
    assert model.encoder.training
    with pytest.raises(UserError, match="does not take images of 2 pixels"):
        model.check_images(2)  # smaller than a patch


def test_checking_images_leaves_a_target_that_follows_frozen(method):
    model = small_model(method)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    model.check_images(16)
    assert before == {name: p.requires_grad for name, p in model.named_parameters()}
