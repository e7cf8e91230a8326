"""Evaluation costs what it has to: images pass an encoder once, and processes share the work and find the same."""

import time

import pytest
import torch
from accelerate import Accelerator

from hf_mi_ssl import JMIConfig, JMIForPreTraining
from hf_mi_ssl.data.splits import Part
from hf_mi_ssl.data.store import ImageStore
from hf_mi_ssl.encoders import encoder_config
from hf_mi_ssl.evaluation import Evaluation
from hf_mi_ssl.evaluation.passes import map_images
from hf_mi_ssl.training import PretrainingArguments, build_optimizer, forward_backward
from hf_mi_ssl.views import RandomViews, clean_view, view_recipes
from tests.conftest import small_model
from tests.test_distributed import run_processes


def evaluation(n_held: int = 9) -> Evaluation:
    parts = []
    for seed, (n, split) in enumerate(((24, "train"), (n_held, "test"))):
        images = torch.randint(256, (n, 3, 16, 16), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
        images[::2, 0] = images[::2, 0] // 2 + 127  # half of them are red
        parts.append(Part(ImageStore(images, torch.arange(n) % 2, "cpu"), torch.arange(n), split))
    return Evaluation(*parts, view_recipes("moco", 16), seed=0, tracked=6)


def calls_on_each(rank, world):
    """With bad images, whose batches are none, in the share of the second process."""
    images = torch.zeros(9, 3, 4, 4, dtype=torch.uint8)
    part = Part(ImageStore(images, None, "cpu", bad={7: "damaged", 8: "damaged"}), torch.arange(9), "test")
    calls = []
    map_images(lambda indices, images: {"x": images.float()}, part, (), 2, lambda: calls.append(1))
    return len(calls)


def test_every_process_is_asked_before_as_many_batches():
    """What is asked is whether all shall leave: the processes have to meet."""
    assert run_processes(2, calls_on_each) == [3, 3]


def test_labelled_images_pass_an_encoder_once_for_all_classifiers():
    trained, random = small_model("sdmi"), small_model("sdmi", seed=1)
    of, seen = evaluation(), {}
    for name, model in (("trained", trained), ("random", random)):
        model.encoder.register_forward_pre_hook(lambda _, x, name=name: seen.setdefault(name, []).append(x[0]))
    of.measure(trained.branches, random.branches, mutual_information=False)
    for name in seen:
        for part in of.parts:
            clean = clean_view(part.images.images, of.recipe)
            assert sum(torch.equal(clean, x) for x in seen[name]) == 1, name
        tracked = clean_view(of.tracked[1].images.images[of.tracked[1].indices], of.recipe)
        assert not any(torch.equal(tracked, x) for x in seen[name])  # what was represented is kept


def measured(rank, world, n_held):
    torch.manual_seed(0)
    of = evaluation(n_held)
    of._linear = lambda train, test: (0, len(test[0]), "not of interest here")
    model, random = small_model("jmi"), small_model("jmi", seed=1)
    rows, _ = of.measure(model.branches, random.branches, mutual_information=False)
    return {(row["name"], row["encoder"]): row["value"] for row in rows}


@pytest.mark.parametrize("n_held", [9, 10])
def test_two_processes_share_the_images_and_find_the_same(n_held):
    alone, (one, other) = measured(0, 1, n_held), run_processes(2, measured, n_held)
    assert one == other
    assert one == pytest.approx(alone, rel=1e-4)
    assert len({value for (name, _), value in alone.items() if name == "knn_top1"}) > 1  # it can tell


@pytest.mark.slow
@pytest.mark.parametrize("method", ["jmi", "barlow_twins"])
def test_a_pair_whose_mi_is_measured_costs_less_than_an_image_in_training(method):
    """So that with 20 images trained for each pair, as `Plan.measures_mi` has them, it costs less than 5 %."""
    config = JMIConfig.from_method(method, encoder_config=encoder_config("resnet_tiny", 32))
    model, accelerator = JMIForPreTraining(config), Accelerator(cpu=True)
    optimizer = build_optimizer(model, PretrainingArguments(method=method))
    recipes, images = view_recipes("moco", 32), torch.randint(256, (2048, 3, 32, 32), dtype=torch.uint8)
    parts = [Part(ImageStore(images, None, "cpu"), torch.arange(2048), split) for split in ("train", "test")]
    of, views = Evaluation(*parts, recipes, seed=0, pairs=1024), RandomViews(recipes, seed=0)

    def train():
        for first in range(0, 512, 128):
            pair = views(images[first : first + 128], 0, torch.arange(first, first + 128))
            forward_backward(accelerator, model, pair, 128)
            optimizer.step()

    def seconds(act) -> float:
        began = time.process_time()
        act()
        return time.process_time() - began

    found = [(seconds(train) / 512, seconds(lambda: of.track(model.branches, quality=False)) / 1024) for _ in range(4)]
    image, pair = (min(one) for one in zip(*found))
    assert pair < image
