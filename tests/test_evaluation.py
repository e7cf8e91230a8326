"""Claims about what is measured on frozen representations: kNN, linear probe, spectrum, and the figures."""

import math
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from hf_mi_ssl.errors import UserError
from hf_mi_ssl.evaluation import (
    accuracy_interval,
    effective_rank,
    embedding_std,
    figures,
    knn_predict,
    linear_probe,
    mi_figure,
    quality_figure,
    rankme,
    training_figure,
)
from hf_mi_ssl.evaluation.linear_probe import selection_split

probe = sys.modules[linear_probe.__module__]  # the package gives its name to the function


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def labels(n, classes, seed=0):
    return torch.randint(classes, (n,), generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 10), st.integers(1, 25), st.booleans(), st.integers(0, 5))
def test_knn_equals_a_naive_loop_with_ties_by_position(n, m, k, coarse, seed):
    train, test = normal(n, 3, seed=seed), normal(m, 3, seed=seed + 100)
    if coarse:  # rows along the axes: many cosines are equal, and exactly so
        train, test = (z.sign() * F.one_hot(z.abs().argmax(1), 3) for z in (train, test))
    y = labels(n, 4, seed)
    expected = []
    for row in F.normalize(test, dim=1):
        cosines = (row[None] @ F.normalize(train, dim=1).T)[0].tolist()
        nearest = sorted(range(n), key=lambda i: (-cosines[i], i))[:k]
        votes = [sum(math.exp((cosines[i] - 1) / 0.07) for i in nearest if y[i] == c) for c in range(4)]
        expected.append(votes)
    predicted = knn_predict(train, y, test, 4, k=k)
    for votes, c in zip(expected, predicted.tolist()):
        assert votes[c] >= max(votes) * (1 - 1e-4)  # equal votes may fall either way in the last bit


def test_knn_breaks_ties_by_position():
    train = torch.ones(30, 4)
    y = torch.cat([torch.full((5,), 2), torch.zeros(25, dtype=torch.long)])
    assert knn_predict(train, y, torch.ones(3, 4), 3, k=5).tolist() == [2, 2, 2]


def test_knn_refuses_what_it_cannot_rank():
    with pytest.raises(UserError, match="NaN"):
        knn_predict(torch.full((3, 2), math.nan), labels(3, 2), torch.ones(1, 2), 2)
    with pytest.raises(UserError, match="labelled"):
        knn_predict(torch.empty(0, 2), labels(0, 2), torch.ones(1, 2), 2)


def blobs(n, classes, seed):
    y = labels(n, classes, seed)
    return 4 * torch.eye(classes, 16)[y] + 0.5 * normal(n, 16, seed=seed) + 7, y


def test_the_linear_probe_separates_what_is_separable():
    result = linear_probe(*blobs(600, 5, 0), *blobs(300, 5, 1), 5, seed=0)
    assert result.accuracy >= 0.99
    assert result.correct == round(result.accuracy * result.n)
    assert result.n == 300


def test_the_linear_probe_is_at_chance_on_random_labels():
    result = linear_probe(normal(600, 8), labels(600, 4), normal(1000, 8, seed=1), labels(1000, 4, 1), 4, seed=0)
    low, high = accuracy_interval(result.correct, result.n)
    assert low <= 0.25 <= high


def test_the_linear_probe_is_deterministic_and_chooses_without_the_test_set():
    train, test = (normal(300, 8), labels(300, 3)), (normal(100, 8, seed=1), labels(100, 3, 1))
    one = linear_probe(*train, *test, 3, seed=0)
    assert one == linear_probe(*train, *test, 3, seed=0)
    for other in ((test[0], test[1].flip(0)), (test[0], (test[1] + 1) % 3), (100 * test[0][:1], test[1][:1])):
        assert linear_probe(*train, *other, 3, seed=0).chosen == one.chosen


@pytest.mark.parametrize("n", [2, 3, 12, 100])
def test_the_linear_probe_works_on_small_sets_with_absent_classes_and_dead_dimensions(n):
    train, y = blobs(n, 5, 2)
    train[:, 3] = 5.0
    test, test_y = blobs(20, 9, 3)
    result = linear_probe(train, y, test, test_y, 10, seed=0)
    assert 0 <= result.accuracy <= 1


class Largest(TorchDispatchMode):
    """The most elements of a tensor in float64."""

    found = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.dtype == torch.float64:
            self.found = max(self.found, result.numel())
        return result


def test_the_linear_probe_makes_one_copy_of_the_representations_a_few_rows_at_a_time(monkeypatch):
    train, test = (100 * normal(600, 16) + 3, labels(600, 4)), (normal(300, 16, seed=1), labels(300, 4, 1))
    expected = linear_probe(*train, *test, 4, seed=0)
    mean, std = probe._moments(train[0])
    whole = train[0].double()
    assert torch.equal(probe._standardised(train[0], mean, std)[:, :-1], ((train[0] - mean) / std).float())
    assert torch.equal(mean, whole.mean(0))
    assert torch.equal(std, whole.std(0, correction=0))
    monkeypatch.setattr(probe, "_ROWS", 50)
    monkeypatch.setattr(probe, "_LOGITS", 7 * 4 * len(probe.LEARNING_RATES))
    for of_parts, of_all in zip(probe._moments(train[0]), (mean, std)):
        torch.testing.assert_close(of_parts, of_all, rtol=1e-13, atol=1e-13)
    with Largest() as largest:
        assert linear_probe(*train, *test, 4, seed=0) == expected
    assert largest.found <= 50 * 17


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_linear_probe_of_a_gpu_takes_representations_from_the_cpu():
    data = [x for part in (blobs(600, 5, 0), blobs(300, 5, 1)) for x in part]
    there = linear_probe(*(x.cuda() for x in data), 5, seed=0)
    assert linear_probe(*data, 5, 0, torch.device("cuda")).chosen == there.chosen
    assert linear_probe(*data, 5, 0, torch.device("cuda")).accuracy == there.accuracy


def test_the_selection_split_is_a_stratified_tenth():
    y = torch.arange(5).repeat_interleave(200)
    mask = selection_split(y, seed=3)
    assert torch.bincount(y[mask]).tolist() == [20] * 5
    assert not torch.equal(mask, selection_split(y, seed=4))


def test_the_linear_probe_says_what_is_wrong():
    train, y = blobs(20, 3, 0)
    for bad in ((train, y + 1, train, y), (train[:1], y[:1], train, y), (train, y, train * math.inf, y)):
        with pytest.raises(UserError):
            linear_probe(*bad, 3, seed=0)


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_the_wilson_interval_holds_the_accuracy(n, p):
    correct = round(p * n)
    low, high = accuracy_interval(correct, n)
    assert 0 <= low <= correct / n + 1e-12
    assert correct / n - 1e-12 <= high <= 1


def test_the_wilson_interval_of_a_known_case():
    assert accuracy_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    with pytest.raises(UserError):
        accuracy_interval(0, 0)


def orthonormal(n, r, seed):
    return torch.linalg.qr(normal(n, r, seed=seed).double())[0]


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 60), st.integers(2, 60), st.data())
def test_a_flat_spectrum_of_rank_r_has_rank_r(n, dimension, data):
    r = data.draw(st.integers(1, min(n - 1, dimension)))
    left = orthonormal(n, r + 1, 0) if r + 1 <= n else orthonormal(n, r, 0)
    assert rankme(left[:, :r] @ orthonormal(dimension, r, 1).T) == pytest.approx(r, rel=1e-6)
    centred = torch.linalg.qr(torch.cat([torch.ones(n, 1).double(), left[:, :r]], 1))[0][:, 1:]
    assert effective_rank(3 + centred @ orthonormal(dimension, r, 1).T) == pytest.approx(r, rel=1e-6)


def test_rankme_weighs_singular_values_and_effective_rank_eigenvalues():
    sigma = torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64)
    axes = torch.linalg.qr(torch.cat([torch.ones(50, 1).double(), normal(50, 3).double()], 1))[0][:, 1:]
    for rank, p in ((rankme, sigma / sigma.sum()), (effective_rank, sigma**2 / (sigma**2).sum())):
        assert rank(axes * sigma) == pytest.approx(math.exp(-(p * p.log()).sum()), rel=1e-6)


def test_a_constant_has_rank_1_and_no_spread():
    for z in (torch.full((100, 8), 0.1), torch.zeros(5, 8), torch.full((1, 8), 0.3)):
        assert rankme(z) == pytest.approx(1, abs=1e-6)
        assert effective_rank(z) == 1
        assert embedding_std(z) == pytest.approx(0, abs=1e-6)


def test_isotropic_embeddings_have_std_1_and_full_rank():
    z = normal(4000, 16)
    assert embedding_std(z) == pytest.approx(1, abs=0.01)
    assert embedding_std(5 * z) == pytest.approx(embedding_std(z), abs=1e-6)
    assert 15.9 < effective_rank(z) <= 16
    assert rankme(z[:10]) <= 10


def record(step):
    values = {"step": step, "value": step / 10, "joint/expected_score": 1.0, "marginal/exact": 0.5 / step}
    for key in ("eval/mi/cos_dv", "eval/mi_h/jsd"):
        values |= {key: 1.0, f"{key}/low": 0.9, f"{key}/high": 1.1, f"{key}/ceiling": 4.9, f"{key}/n": 100}
    return values | {"eval/knn_top1": 0.5, "eval/rank/rankme": 9.0, "eval/collapse/std": 0.0}


@pytest.mark.parametrize("draw", [training_figure, mi_figure, quality_figure])
def test_figures_draw_what_there_is_and_write_nothing_else(draw, tmp_path):
    path = tmp_path / "figure.png"
    assert not draw([], path)
    assert not draw([{"step": 1, "loss": 3.0, "value": None}], path)
    assert not path.exists()
    for records in ([record(1)], [{"step": 0}, record(1), {"step": 2, "value": 1.0}, record(3)]):
        assert draw(records, path, "sdmi · shapes")
        assert path.stat().st_size > 5000
        path.unlink()


@pytest.mark.parametrize("draw", [training_figure, mi_figure, quality_figure])
def test_figures_name_alarms_at_their_step_and_show_saturation(draw, tmp_path, monkeypatch):
    drawn, make = [], figures.new_figure
    monkeypatch.setattr(figures, "new_figure", lambda **size: drawn.append(make(**size)) or drawn[-1])
    alarms = {3: {"dimensional_collapse": "…", "stagnant": "…"}, 4: {"cone": "…"}}
    records = [record(step) | {"alarm": alarms.get(step, {})} for step in range(1, 6)]
    records = [r | {"eval/mi/cos_dv/saturated": int(r["step"] > 2)} for r in records]
    assert draw(records, tmp_path / "figure.png")
    for axis in drawn[0].axes:
        lines = {line.get_xdata()[0]: line.get_color() for line in axis.lines if line.get_linestyle() == ":"}
        assert lines == {3: figures._ALARM, 4: figures._NOTE}
    assert [text.get_text() for text in drawn[0].axes[0].texts] == ["dimensional collapse, stagnant", "cone"]
    hollow = [line for axis in drawn[0].axes for line in axis.lines if line.get_markerfacecolor() == "white"]
    assert [list(line.get_xdata()) for line in hollow if len(line.get_xdata())] == (
        [[3, 4, 5]] if draw is mi_figure else []
    )
