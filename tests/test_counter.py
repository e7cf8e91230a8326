"""The counter-based generator: a draw depends on its key alone, and draws look random."""

from itertools import pairwise

import pytest
import torch

from hf_mi_ssl import counter


def ks_to_uniform(sample: torch.Tensor) -> float:
    """The Kolmogorov–Smirnov statistic times √n: above 1.95 once in a thousand times."""
    sample = sample.double().flatten().sort().values
    steps = torch.arange(len(sample) + 1, dtype=torch.float64) / len(sample)
    return max((steps[1:] - sample).max(), (sample - steps[:-1]).max()).item() * len(sample) ** 0.5


def test_the_stream_never_changes():
    assert counter.bits("view", 0, 1, torch.arange(2)).tolist() == [-8231810148621053604, -6263532481534403867]
    assert counter.uniform("x", 3, torch.arange(2)).tolist() == [0.8999354243278503, 0.47887104749679565]
    assert counter.integers(1000, "order", -7, torch.arange(4)).tolist() == [31, 800, 765, 982]
    assert counter.permutation(8, "order", 0, 1).tolist() == [7, 6, 5, 1, 3, 2, 0, 4]


def test_a_draw_depends_on_its_key_alone():
    everything = counter.uniform("p", 5, torch.arange(1000), 1)
    some = torch.tensor([997, 3, 3, 500])
    assert torch.equal(counter.uniform("p", 5, some, 1), everything[some])
    assert counter.uniform("p", 5, 500, 1) == everything[500]  # an integer is a constant tensor
    state = torch.get_rng_state()
    counter.permutation(100, "p", 0)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_key_is_broadcast():
    table = counter.bits("p", torch.arange(3).unsqueeze(1), torch.arange(4))
    assert table.shape == (3, 4)
    assert table[2, 1] == counter.bits("p", 2, 1)
    assert counter.bits("p", 1, 2).shape == ()


@pytest.mark.parametrize(
    "other", [("q", 0, 1), ("p", 1, 1), ("p", 0, 2), ("p", 1, 0), ("p", 0), ("p", 0, 1, 0), ("p", -1, 1), ("", 0, 1)]
)
def test_every_part_of_the_key_and_its_place_count(other):
    i = torch.arange(20_000)
    u, v = counter.uniform("p", 0, 1, i), counter.uniform(*other, i)
    assert abs(torch.corrcoef(torch.stack((u, v)))[0, 1]) < 4 / len(i) ** 0.5
    assert ks_to_uniform((u - v) % 1) < 1.95


@pytest.mark.parametrize("key", [("p", 0), ("p", 1), ("another purpose", 123456789), ("p", -1)])
def test_draws_are_uniform(key):
    n = 100_000
    u = counter.uniform(*key, torch.arange(n)).double()
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(u.mean() - 1 / 2) < 4 * (1 / 12 / n) ** 0.5
    assert abs(u.var() - 1 / 12) < 4 * (1 / 180 / n) ** 0.5
    assert ks_to_uniform(u) < 1.95


def test_neighbouring_draws_are_independent():
    n = 100_000
    u = counter.uniform("p", 0, torch.arange(n))
    for lag in (1, 2, 3, 32, 1024):
        assert abs(torch.corrcoef(torch.stack((u[lag:], u[:-lag])))[0, 1]) < 4 / n**0.5
    cells = torch.bincount((u[1:] * 16).long() * 16 + (u[:-1] * 16).long(), minlength=256).double()
    chi_square = ((cells - cells.mean()) ** 2 / cells.mean()).sum()
    assert abs(chi_square - 255) < 4 * (2 * 255) ** 0.5


def test_every_bit_is_fair():
    x = counter.bits("p", torch.arange(20_000))
    ones = torch.stack([(x >> k) & 1 for k in range(64)]).double().mean(1)
    assert (ones - 0.5).abs().max() < 4.5 * 0.5 / len(x) ** 0.5


def test_integers_cover_their_range_evenly():
    n, high = 70_000, 7
    counts = torch.bincount(counter.integers(high, "p", torch.arange(n)), minlength=high)
    assert len(counts) == high
    assert (counts - n / high).abs().max() < 4 * (n / high) ** 0.5


def test_permutations_are_permutations_and_differ_between_epochs():
    orders = [counter.permutation(1000, "order", 0, epoch) for epoch in range(20)]
    for order in orders:
        assert torch.equal(order.sort().values, torch.arange(1000))
    same_place = torch.stack([(a == b).sum() for a, b in pairwise(orders)])
    assert same_place.max() < 8  # one on average, if independent
    assert len(counter.permutation(0, "order", 0)) == 0
