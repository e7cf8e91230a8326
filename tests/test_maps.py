"""The figures of single images say what they claim: whose neighbours, which directions, which colours."""

import numpy as np
import pytest
import torch

from hf_mi_ssl.data import Part
from hf_mi_ssl.data.store import ImageStore
from hf_mi_ssl.evaluation import Evaluation, draw_maps
from hf_mi_ssl.evaluation.maps import map_figure, neighbours_figure, spectrum_figure
from hf_mi_ssl.views import view_recipes
from tests.conftest import small_model

N = 40


def part(labels=None, size=8) -> Part:
    """Images whose brightness is their number; only the odd ones are meant."""
    images = torch.arange(2 * N, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, size, size).clone()
    return Part(ImageStore(images, labels, "cpu"), torch.arange(1, 2 * N, 2), "test")


def embedded(seed=0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    spaces = {"h": (N, 12), "z": (N, 6), "colour": (N, 3)}
    return {
        name: {space: torch.rand(shape, generator=generator) for space, shape in spaces.items()}
        for name in ("random", "trained")
    }


def shown(figure) -> np.ndarray:
    """The brightness of the middle of each cell of the grid, (rows, columns)."""
    grid = figure.axes[0].images[0].get_array()
    return grid[38::76, 38::76, 0]


def test_each_row_shows_a_query_and_then_its_neighbours_by_cosine(tmp_path):
    h = torch.randn(N, 12, generator=torch.Generator().manual_seed(0))
    rows = shown(neighbours_figure(h, part(), "title"))
    assert rows.shape == (6, 10)
    unit = h / h.norm(dim=1, keepdim=True)
    for row in rows:
        query, *neighbours = [(int(brightness) - 1) // 2 for brightness in row]  # image number 2i + 1 is the i-th
        expected = (unit @ unit[query]).argsort(descending=True).tolist()
        assert [query, *neighbours] == expected[:10]


def test_a_query_stands_first_among_duplicates_and_large_images_are_made_small():
    figure = neighbours_figure(torch.ones(N, 4), part(size=100), "title")
    rows = shown(figure)
    assert len({row[0] for row in rows.tolist()}) == 6


def test_frames_mark_neighbours_of_the_querys_class():
    h = torch.eye(2).repeat_interleave(N // 2, 0) + 0.01 * torch.rand(N, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(2 * N) // N  # as h has it
    assert len(neighbours_figure(h, part(labels), "title").axes[0].patches) == 6 * 9
    assert len(neighbours_figure(h, part(1 - labels), "title").axes[0].patches) == 6 * 9
    assert len(neighbours_figure(h, part(), "title").axes[0].patches) == 0
    labels[1] = -1  # one without a label: none is framed
    assert len(neighbours_figure(h, part(labels), "title").axes[0].patches) == 0


def test_the_spectrum_is_that_of_the_covariance():
    found = embedded()
    axes = spectrum_figure(found, "title").axes
    for axis, space in zip(axes, "hz"):
        for line, name in zip(axis.lines, ("random", "trained")):
            expected = torch.linalg.eigvalsh(torch.cov(found[name][space].double().T)).flip(0)
            np.testing.assert_allclose(line.get_ydata(), expected / expected.sum(), rtol=1e-9)


def looks(axis) -> int:
    """How many classes can be told apart, by colour or by shape."""
    shapes = [(points, points.get_paths()[0].vertices.tobytes()) for points in axis.collections]
    return len({(str(colour), shape) for points, shape in shapes for colour in points.get_facecolors()})


def test_the_map_shows_the_principal_components_in_the_colours_of_classes_or_of_images():
    found = embedded()
    labels = torch.arange(N) % 3
    axis = map_figure(found, labels, "title").axes[1]
    points = np.concatenate([of_class.get_offsets() for of_class in axis.collections])
    h = found["trained"]["h"].double()
    variances = torch.linalg.eigvalsh(torch.cov(h.T)).flip(0)
    np.testing.assert_allclose(points.var(0, ddof=1), variances[:2], rtol=1e-9)
    assert f"{variances[0] / variances.sum():.0%}" in axis.get_xlabel()
    assert [text.get_text() for text in axis.texts] == ["0", "1", "2"]
    assert looks(axis) == 3
    assert looks(map_figure(found, torch.arange(N) % 20, "title").axes[1]) == 20
    for unnamed in (None, torch.arange(N), labels - 1):  # none, too many classes, some without a label
        axis = map_figure(found, unnamed, "title").axes[1]
        np.testing.assert_allclose(axis.collections[0].get_facecolors()[:, :3], found["trained"]["colour"], atol=1e-6)
        assert not axis.texts


def test_classes_are_told_apart_without_red_and_green_by_colour_and_shape():
    figure = map_figure(embedded(), torch.arange(N) % 20, "title")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [str(label) for label in range(20)]
    looks = {(handle.get_color(), handle.get_marker()) for handle in legend.legend_handles}
    assert len(looks) == 20
    assert len({colour for colour, _ in looks}) == 8
    drawn = figure.axes[1].collections
    assert sum(len(points.get_offsets()) for points in drawn) == N
    assert len(drawn) == 3


def test_no_number_of_a_class_is_written_on_another():
    label = torch.arange(90) % 3
    h = torch.randn(90, 4, generator=torch.Generator().manual_seed(0)) + 20.0 * (label == 2)[:, None]
    found = {"h": h, "colour": torch.zeros(90, 3)}
    axis = map_figure({"random": found, "trained": found}, label, "run").axes[1]
    assert [text.get_text() for text in axis.texts] == ["0", "2"]  # 1 lies where 0 does


@pytest.mark.parametrize(("n", "width"), [(8, 1), (9, 5), (40, 12)])
def test_everything_is_drawn_of_few_images_and_of_collapsed_embeddings(n, width, tmp_path):
    few = Part(part().images, torch.arange(n), "test")
    flat = {name: {"h": torch.ones(n, width), "z": torch.ones(n, width), "colour": torch.zeros(n, 3)}
            for name in ("random", "trained")}  # fmt: skip
    names = {path.name for path in draw_maps(flat, few, tmp_path / "figures", "title")}
    assert names == {"spectrum.png", "embedding_map.png", "neighbours.png"}
    assert names == {path.name for path in (tmp_path / "figures").iterdir()}


def test_images_are_left_out_when_asked_and_nothing_is_drawn_of_a_handful(tmp_path):
    names = {path.name for path in draw_maps(embedded(), part(), tmp_path, "title", show_images=False)}
    assert names == {"spectrum.png", "embedding_map.png"}
    handful = Part(part().images, torch.arange(7), "test")
    assert draw_maps(embedded(), handful, tmp_path / "none", "title") == []
    assert not (tmp_path / "none").exists()


def test_what_is_embedded_are_clean_views_of_the_held_out_images_without_a_trace_on_the_model():
    model = small_model("jmi").train()
    held = part(size=16)
    evaluation = Evaluation(part(size=16), held, view_recipes("moco", 16), seed=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = evaluation.embed_clean(model.branches)
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "h": (N, 16),
        "z": (N, 16),
        "colour": (N, 3),
    }
    torch.testing.assert_close(found["colour"][:, 0], held.indices / 255)
    again = evaluation.embed_clean(model.branches)
    assert all(torch.equal(found[name], again[name]) for name in found)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
