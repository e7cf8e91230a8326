"""Claims about sums over all re-pairings: block by block what the whole matrix gives, in memory linear in n."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hf_mi_ssl.estimators import streamed, track
from hf_mi_ssl.estimators.fixed import ESTIMATORS, CosDV, InfoNCE, RowWiseDV
from hf_mi_ssl.estimators.fixed_critic import cross_fit_all
from hf_mi_ssl.estimators.streamed import Cosines, Exponential
from hf_mi_ssl.mi import bounds
from hf_mi_ssl.mi.critics import cosine, score_matrix
from hf_mi_ssl.mi.pairs import off_diagonal


def pairs_of(n, dimension, dtype=torch.float64, seed=0):
    a, noise = torch.randn(2, n, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (a + 0.3).to(dtype), (0.7 * a + 0.7 * noise + 0.3).to(dtype)


def dense(name, estimator, scores):
    """The statistic of each estimator from the whole matrix of cosines, (N, N)."""
    if name in ("cos_dv", "row_wise_dv", "info_nce"):
        formula = {"cos_dv": bounds.dv, "row_wise_dv": bounds.row_wise_dv, "info_nce": bounds.info_nce}[name]
        return formula(scores / estimator.temperature).item()
    if name == "cos_dv_calibrated":
        return bounds.dv(estimator.scale * scores).item()
    if name == "nwj":
        return bounds.nwj(estimator.scale * scores + 1 - estimator.log_z).item()
    scores = estimator.scale * scores + estimator.offset
    if name == "jsd":
        return estimator.to_nats(math.log(2) + bounds.jsd(scores).item() / 2)
    if name == "smile":
        return (scores.diagonal().mean() - off_diagonal(scores).clamp(-5, 5).exp().mean().log()).item()
    return scores.diagonal().mean().item()


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("n", [2, 33, 200])
def test_streamed_is_dense(name, n, monkeypatch):
    monkeypatch.setattr(streamed, "_BLOCK", 1)
    monkeypatch.setattr(streamed, "_FEWEST_ROWS", 16)  # blocks of 16 rows, the last one shorter
    estimator = ESTIMATORS[name]().fit(*pairs_of(100, 6, seed=1))
    estimator.floor = -math.inf
    a, b = pairs_of(n, 6)
    expected = dense(name, estimator, score_matrix(cosine, a, b))
    assert estimator.estimate(a, b).value == pytest.approx(min(expected, math.log(n)), abs=1e-9)


def test_the_size_of_the_blocks_does_not_matter(monkeypatch):
    pairs = pairs_of(150, 6)
    whole = cross_fit_all({name: make() for name, make in ESTIMATORS.items()}, *pairs)
    monkeypatch.setattr(streamed, "_BLOCK", 1)
    monkeypatch.setattr(streamed, "_FEWEST_ROWS", 7)
    for name, make in ESTIMATORS.items():
        blocks = cross_fit_all({name: make()}, *pairs)[name]
        assert blocks.value == pytest.approx(whole[name].value, abs=1e-9)
        assert blocks.standard_error == pytest.approx(whole[name].standard_error, abs=1e-9)


def test_the_law_of_the_negatives_has_their_mean_and_their_exponential_moment():
    a, b = pairs_of(300, 6)
    scores = score_matrix(cosine, a, b)
    t, w = Cosines(a, b).law()
    assert w.sum().item() == pytest.approx(1, abs=1e-12)
    assert (w @ t).item() == pytest.approx(off_diagonal(scores).mean().item(), abs=1e-12)
    log_z = torch.logsumexp(w.log() + 26 * t, 0).item()
    assert log_z == pytest.approx(bounds.log_mean_exp(26 * off_diagonal(scores)).item(), abs=1e-5)


class LargestTensor(TorchDispatchMode):
    """The most elements of a tensor that any operation has returned."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


def test_tracking_holds_no_matrix_of_all_pairs():
    n = 3000
    with LargestTensor() as largest:
        track(*pairs_of(n, 8, torch.float32), "test")
    assert n * 8 <= largest.numel <= streamed._BLOCK < n * n / 8


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_float32_agrees_with_float64_and_narrow_types_are_widened(name, dtype):
    pairs = pairs_of(200, 8, dtype)
    narrow, wide = (
        cross_fit_all({name: ESTIMATORS[name]()}, *(z.to(d) for z in pairs))[name] for d in (dtype, torch.float64)
    )
    assert narrow.value == pytest.approx(wide.value, abs=2e-5)
    assert narrow.standard_error == pytest.approx(wide.standard_error, abs=2e-5)


@pytest.mark.parametrize("make", [CosDV, RowWiseDV, InfoNCE])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_of_500_are_stable(make, sign, dtype):
    """Of cosines of ±1, of any, and near +1 or −1 throughout, the streamed value is that of the whole matrix."""
    cone = [z.abs() + 5 for z in pairs_of(100, 3, dtype)]
    for a, b in (pairs_of(100, 1, dtype), pairs_of(100, 3, dtype), (cone[0], sign * cone[1])):
        kernel, pairs = make(0.002).kernel(), Cosines(a, b)
        value, influence = make(0.002).influence(pairs.positives, pairs.sums([kernel])[kernel])
        names = {CosDV: "cos_dv", RowWiseDV: "row_wise_dv", InfoNCE: "info_nce"}
        expected = dense(names[make], make(0.002), score_matrix(cosine, a.double(), b.double()))
        assert value == pytest.approx(expected, abs=1e-3)
        assert influence.isfinite().all()
        assert influence.mean().item() == pytest.approx(0, abs=1e-3)
        assert make(0.002).estimate(a, b).value <= math.log(100)


def sums_of(scores, scale=1.0, size=17):
    sums = Exponential(scores.diagonal().double(), scale)
    for start in range(0, len(scores), size):
        sums.add(slice(start, min(start + size, len(scores))), scores[start : start + size])
    return sums


def test_dv_of_any_scores_in_blocks_is_the_dense_bound_in_float64_and_stable_at_500():
    scores = torch.randn(60, 60, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    for shift, scale in ((0, 1), (500, 1), (-500, 1), (0, 150)):
        shifted = scale * scores + shift
        value, influence = sums_of(shifted).dv
        assert value == pytest.approx(bounds.dv(shifted).item(), abs=1e-9)
        assert influence.isfinite().all()
        assert influence.mean().abs() < 1e-9
        assert sums_of(scores, scale).dv[0] == pytest.approx(bounds.dv(scale * scores).item(), abs=1e-9)


def test_the_influence_is_the_change_of_the_bound_when_a_pair_gains_weight():
    n = 400
    a, b = pairs_of(n, 2)
    scores = (a @ b.T) / 3
    value, influence = sums_of(scores).dv
    keep = torch.arange(1, n)
    without = bounds.dv(scores[keep][:, keep]).item()  # the jack-knife: ψ_i ≈ (n − 1)(L − L without i)
    assert influence[0].item() == pytest.approx((n - 1) * (value - without), abs=0.02)
