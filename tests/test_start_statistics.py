"""What has not been trained is measured with batch-norm statistics of training images, and nothing else changes."""

import json

import pytest
import torch
from torch.optim.swa_utils import update_bn

from hf_mi_ssl.data.splits import Part
from hf_mi_ssl.data.store import ImageStore
from hf_mi_ssl.distributed import globalize_batch_norm
from hf_mi_ssl.errors import UserError
from hf_mi_ssl.evaluation import Evaluation, held_out
from hf_mi_ssl.evaluation.batch_norm import with_statistics
from hf_mi_ssl.training import read_records
from hf_mi_ssl.views import view_recipes
from tests.conftest import small_model
from tests.runs import data, run
from tests.test_distributed import run_processes

NAMES = ["jmi", "moco_v2", "sdmi", "dino"]  # global and split batch norm, one branch and two


def batches(n=16, count=2):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, 3, 16, 16, generator=generator) + 1 for _ in range(count)]


def buffers_of(branches):
    return {
        f"{name}.{half}.{key}": value.clone()
        for name, branch in branches.items()
        for half, module in zip(("encoder", "projector"), branch)
        for key, value in module.state_dict().items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_statistics_are_the_mean_over_the_batches_and_the_model_stays_as_it_was(name):
    model, oracle = small_model(name), small_model(name)
    before, state = buffers_of(model.branches), torch.get_rng_state()
    modes = [module.training for module in model.modules()]
    found = buffers_of(with_statistics(model.branches, batches()))
    assert torch.equal(torch.get_rng_state(), state)
    assert modes == [module.training for module in model.modules()]
    after = buffers_of(model.branches)
    assert all(torch.equal(after[key], value) for key, value in before.items())

    class Branch(torch.nn.Module):  # torch's own way to the same statistics
        def __init__(self, encoder, projector):
            super().__init__()
            self.encoder, self.projector = encoder, projector

        def forward(self, view):
            return self.projector(self.encoder(view).pooler_output.flatten(1))

    for branch in oracle.branches.values():
        update_bn(batches(), Branch(*branch))
    for key, value in buffers_of(oracle.branches).items():
        torch.testing.assert_close(found[key], value)
        if key.endswith("running_mean"):
            assert not torch.equal(found[key], before[key])


def test_without_an_image_there_are_no_statistics():
    with pytest.raises(UserError, match="none of the training images"):
        with_statistics(small_model("jmi").branches, [])


def statistics_on_each(rank, world):
    return {
        name: buffers_of(with_statistics(globalize_batch_norm(small_model(name)).branches, batches()))
        for name in NAMES
    }


def test_any_number_of_processes_has_the_same_statistics():
    one = statistics_on_each(0, 1)
    for many in run_processes(2, statistics_on_each):
        for name in NAMES:
            assert all(torch.equal(many[name][key], value) for key, value in one[name].items())


def test_an_untrained_model_is_scaled_as_training_would_scale_it():
    """Batch norm with statistics 0 and 1 leaves embeddings in a cone."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (64, 3, 16, 16), generator=generator, dtype=torch.uint8)
    parts = [Part(ImageStore(images, torch.full((64,), -1), "cpu"), torch.arange(64), split) for split in "ab"]
    evaluation = Evaluation(*parts, view_recipes("simclr", 16), seed=0)
    branches = small_model("jmi").branches
    as_initialised, fair = (evaluation.track(b) for b in (branches, evaluation.with_statistics(branches)))
    assert as_initialised["eval/collapse/mean_cosine"] > 0.5
    assert abs(fair["eval/collapse/mean_cosine"]) < 0.1


@pytest.mark.parametrize("group", [16, 128], ids=["fewer than there are", "more than there are"])
def test_groups_of_more_images_than_are_looked_at_by_default_have_statistics(group, monkeypatch):
    monkeypatch.setattr(held_out, "_STATISTICS_IMAGES", 8)
    images = torch.randint(256, (64, 3, 16, 16), dtype=torch.uint8)
    parts = [Part(ImageStore(images, None, "cpu"), torch.arange(64), split) for split in "ab"]
    branches = small_model("jmi", batch_norm_group_size=group).branches
    found = Evaluation(*parts, view_recipes("simclr", 16), seed=0).with_statistics(branches)
    assert any(not torch.equal(value, buffers_of(branches)[key]) for key, value in buffers_of(found).items())


@pytest.mark.parametrize(("n", "group", "used"), [(23, 8, 16), (5, 8, 5), (16, 8, 16)])
def test_a_batch_that_lacks_an_image_has_the_statistics_of_its_whole_groups(n, group, used):
    """As where a sampled image cannot be read."""
    batch = torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    model = small_model("jmi", batch_norm_group_size=group)
    found = buffers_of(with_statistics(model.branches, [batch]))
    expected = buffers_of(with_statistics(model.branches, [batch[:used]]))
    assert all(torch.equal(value, expected[key]) for key, value in found.items())


@pytest.mark.slow
def test_a_run_at_learning_rate_0_starts_where_it_stays_and_has_not_grown(folder, tmp_path):
    """Batch norm learns its statistics in the first steps: what MI gains by them is no growth."""
    argv = ["--encoder", "resnet_tiny", "--image_size", 16, "--per_device_train_batch_size", 32, "--learning_rate", 0]
    argv += [
        "--num_train_epochs",
        16,
        "--eval_steps",
        999,
        "--mi_steps",
        6,
        "--warmup_epochs",
        0,
        "--dataloader_num_workers",
        0,
    ]
    assert run("jmi", tmp_path, *data(folder), *argv) == 0
    curve = [r["eval/mi/cos_dv_calibrated"] for r in read_records(tmp_path / "metrics.jsonl") if "loss" not in r]
    assert abs(curve[0] - curve[-1]) < 0.1
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["growth"]
    assert not any(verdict["grew"] for verdict in results["growth"].values())
    values = {(row["name"], row["encoder"]): row["value"] for row in results["evaluations"]}
    assert values["mi/cos_dv_calibrated", "random"] == pytest.approx(curve[0], abs=1e-6)
