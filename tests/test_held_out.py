"""Evaluation costs what it has to: images pass an encoder once, and processes share the work and find the same."""

import pytest
import torch

from hf_mi_ssl.data.splits import Part
from hf_mi_ssl.data.store import ImageStore
from hf_mi_ssl.evaluation import Evaluation
from hf_mi_ssl.views import clean_view, view_recipes
from tests.conftest import small_model
from tests.test_distributed import run_processes


def evaluation(n_held: int = 9) -> Evaluation:
    parts = []
    for seed, (n, split) in enumerate(((24, "train"), (n_held, "test"))):
        images = torch.randint(256, (n, 3, 16, 16), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
        images[::2, 0] = images[::2, 0] // 2 + 127  # half of them are red
        parts.append(Part(ImageStore(images, torch.arange(n) % 2, "cpu"), torch.arange(n), split))
    return Evaluation(*parts, view_recipes("moco", 16), seed=0, tracked=6)


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
