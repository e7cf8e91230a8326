"""What a recipe does when asked for more: local views, batches larger than what fits, other views."""

import pytest

from tests.runs import FAST, assert_same_run, data, log_of, recipe_of, results_of, run, stop_after
from tests.runs import Stopped as _Stopped


@pytest.mark.parametrize("method", ["simclr", *(pytest.param(m, marks=pytest.mark.slow) for m in ("dino", "swav"))])
def test_local_views_are_trained_on_and_resumed_bit_for_bit(method, flat, tmp_path, monkeypatch):
    arguments = [*data(flat), *FAST, "--local_views", 2, "--local_view_size", 8, "--views", "dino"]
    arguments += ["--checkpointing_steps", 2, "--mi_steps", 0]
    assert run(method, tmp_path / "whole", *arguments) == 0
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(_Stopped):
            run(method, tmp_path / "stopped", *arguments)
    assert run(method, tmp_path / "stopped", *arguments, "--resume_from_checkpoint", "latest") == 0
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
    without = [*data(flat), *FAST, "--views", "dino", "--checkpointing_steps", 2, "--mi_steps", 0]
    assert run(method, tmp_path / "without", *without) == 0
    assert log_of(tmp_path / "without")[1] != log_of(tmp_path / "whole")[1]


@pytest.mark.parametrize("method", ["jmi", *(pytest.param(m, marks=pytest.mark.slow) for m in ("sdmi", "byol"))])
def test_a_loss_over_more_images_than_fit_is_the_loss_of_the_large_batch(method, flat, tmp_path):
    """With split batch norm: the first steps agree until rounding, which batch norm amplifies, tells them apart."""
    shared = [*data(flat), *FAST, "--set", "batch_norm_group_size=8", "--mi_steps", 0, "--optimizer", "sgd"]
    shared += ["--learning_rate", 0.05]
    assert run(method, tmp_path / "whole", *shared, "--per_device_train_batch_size", 32) == 0
    parts = ["--per_device_train_batch_size", 8, "--contrast_batch_size", 32]
    assert run(method, tmp_path / "parts", *shared, *parts) == 0
    steps = [[r for r in log_of(tmp_path / name) if "loss" in r] for name in ("whole", "parts")]
    assert len(steps[0]) == len(steps[1])
    for one, other in list(zip(*steps, strict=True))[:2]:
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-4)
    assert results_of(tmp_path / "parts")["images_seen"] == results_of(tmp_path / "whole")["images_seen"]


@pytest.mark.parametrize(
    ("method", "argv", "said"),
    [
        ("moco_v2", ["--set", "batch_norm_group_size=5"], "does not divide --per_device_train_batch_size 16"),
        ("jmi", ["--contrast_batch_size", 40], "must be a multiple of 16"),
        ("jmi", ["--set", "marginal={queue: 1}"], "needs a queue"),
        ("dino", ["--set", "num_prototypes=null"], "set both or neither"),
        ("nnclr", ["--set", "queue_size=null"], "needs a queue: set queue_size"),
        ("jmi", ["--encoder", "convnextv2_atto", "--local_views", 1, "--local_view_size", 1], "images of 1 pixels"),
        ("jmi", ["--freeze_prototypes_epochs", 1], "no prototypes"),
    ],
)
def test_options_that_do_not_go_together_cost_one_line(method, argv, said, flat, tmp_path, capsys):
    assert run(method, tmp_path, *data(flat), *FAST, *argv) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if recipe_of(method).name in line]
    assert len(lines) == 1
    assert said in lines[0]
