"""Bugs that peers have around training, in evaluation and scripts, each as the test that catches it."""

import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from PIL import Image

from hf_mi_ssl.data.splits import Part, open_train_and_held_out
from hf_mi_ssl.data.store import ImageStore
from hf_mi_ssl.evaluation import Evaluation
from hf_mi_ssl.training import PretrainingArguments, parse_arguments
from hf_mi_ssl.views import clean_view, view_recipes
from tests.conftest import small_model

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def evaluation():
    """Of 24 and 36 images: with a batch of 7, the last of the 36 comes alone."""

    def build(batch_size=512):
        parts = []
        for seed, (n, split) in enumerate(((24, "train"), (36, "test"))):
            generator = torch.Generator().manual_seed(seed)
            images = torch.randint(256, (n, 3, 16, 16), generator=generator, dtype=torch.uint8)
            parts.append(Part(ImageStore(images, torch.arange(n) % 2, "cpu"), torch.arange(n), split))
        return Evaluation(*parts, view_recipes("moco", 16), seed=0, batch_size=batch_size)

    return build


def test_measuring_leaves_batch_norm_and_modes_as_they_were(evaluation):
    model = small_model("moco_v2")
    frozen = model.encoder.embedder.eval()  # a part that was in eval mode before stays in it
    modes = [module.training for module in model.modules()]
    before, seen = {name: value.clone() for name, value in model.named_buffers()}, []
    model.encoder.register_forward_pre_hook(lambda module, _: seen.append((module.training, torch.is_grad_enabled())))
    evaluation().track(model.branches)
    evaluation().measure(model.branches, small_model("moco_v2", seed=1).branches)
    assert set(seen) == {(False, False)}
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    assert modes == [module.training for module in model.modules()]
    assert not frozen.training


def test_the_bank_of_the_knn_is_of_clean_images_seen_by_the_encoder_as_it_is(evaluation):
    model, seen = small_model("jmi"), []
    model.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    measured = evaluation()
    for _ in range(2):  # the second time, too: nothing is kept from an earlier encoder
        seen.clear()
        measured.track(model.branches, mutual_information=False)
        for part, pixels in zip(measured.parts, seen[-2:], strict=True):
            assert torch.equal(pixels, clean_view(part.images.images, measured.recipe))


def test_a_last_batch_of_one_image_is_measured_like_any_other(evaluation):
    model = small_model("sdmi")
    whole, parts = (evaluation(size).track(model.branches) for size in (512, 7))
    assert parts == pytest.approx(whole, rel=1e-3, abs=1e-4)


# Scripts


def test_every_flag_is_read_and_nothing_is_read_that_is_no_flag():
    """Of the Hugging Face scripts, one reads a flag that its parser does not have, and others ignore flags."""
    sources = [path for glob in ("recipes/pretrain_*.py", "hf_mi_ssl/training/*.py", "hf_mi_ssl/hub/push.py")
               for path in ROOT.glob(glob)]  # fmt: skip
    read = {name for path in sources for name in re.findall(r"\bargs\.([a-z_]+)", path.read_text())}
    assert len(read) > 20
    assert not [name for name in read if not hasattr(parse_arguments([], "", method="jmi"), name)]
    made = PretrainingArguments
    derived = (made.data_arguments, made.columns.fget, made.files.fget, made.draws_images.fget)
    through = {name for of in derived for name in re.findall(r"[a-z_]+", inspect.getsource(of))}
    assert {field.name for field in fields(PretrainingArguments)} <= read | through


@pytest.mark.parametrize("name", ["validation", "val", "valid", "dev", "test"])
def test_the_files_that_a_user_holds_out_are_not_ignored(name, tmp_path):
    import datasets

    for split, n in (("train", 6), (name, 3)):
        path = tmp_path / f"{split}_{n}.png"
        Image.new("RGB", (8, 8)).save(path)
        cells = [{"bytes": path.read_bytes(), "path": None}] * n
        features = datasets.Features({"image": datasets.Image()})
        datasets.Dataset.from_dict({"image": cells}, features=features).to_parquet(tmp_path / f"{split}.parquet")
    files = {split: str(tmp_path / f"{split}.parquet") for split in ("train", name)}
    train, held = open_train_and_held_out(
        dataset_name="parquet", data_files=files, train_split="train", eval_split=None, image_size=8, seed=0,
        device=torch.device("cpu"),
    )  # fmt: skip
    assert (len(train), len(held), held.split) == (6, 3, name)
