"""Claims about the estimators that train nothing and use no fixed critic: correlations, neighbours, entropy."""

import math

import pytest
import torch
import torch.nn.functional as F

from hf_mi_ssl.errors import UserError
from hf_mi_ssl.estimators.closed_form import Gaussian, GaussianCopula
from hf_mi_ssl.estimators.entropy_reconstruction import EntropyReconstruction
from hf_mi_ssl.estimators.ksg import KSG
from hf_mi_ssl.estimators.tasks import TASKS, gaussian
from hf_mi_ssl.mi import bounds

ALL = {"gaussian": Gaussian, "copula": GaussianCopula, "ksg": KSG, "entropy": EntropyReconstruction}


def estimate(make, a, b):
    """Fitted on the first half where it fits anything, measured on the second."""
    half = len(a) // 2
    return make().fit(a[:half], b[:half]).estimate(a[half:], b[half:])


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_the_docstring_has_the_formula_and_says_that_it_is_no_bound(make):
    assert make.__doc__.startswith("I = ")
    assert "NOT" in make.__doc__
    assert "Source:" in make.__doc__
    a, b = TASKS["gaussian_2d_1"].sample(200)
    assert estimate(make, a, b).kind == ("closed_form" if make in (Gaussian, GaussianCopula) else "plugin")


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_independent_embeddings_have_none(make):
    errors = []
    for seed in range(10):
        found = estimate(make, *gaussian(4, 0.0).sample(1200, seed))
        errors.append(found.value)
        assert found.value < 4 * found.standard_error + 0.01
    assert abs(sum(errors) / len(errors)) < 0.02


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_the_order_of_the_pairs_and_the_precision_do_not_matter(make):
    a, b = TASKS["gaussian_2d_1"].sample(600)
    estimator = make().fit(a[:300], b[:300])
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    one, two, three = (
        estimator.estimate(a[300:], b[300:]),
        estimator.estimate(a[300:][order], b[300:][order]),
        estimator.estimate(a[300:].double(), b[300:].double()),
    )
    assert one.value == pytest.approx(two.value, abs=1e-6)
    assert one.value == pytest.approx(three.value, abs=1e-5)
    assert one.standard_error == pytest.approx(two.standard_error, abs=1e-6)
    assert (one.n, one.split) == (300, "held-out")


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (torch.zeros(20, 3), torch.zeros(19, 3), "pairs need"),
        (torch.zeros(20), torch.zeros(20), "pairs need"),
        (torch.full((20, 3), torch.nan), torch.zeros(20, 3), "NaN or infinity"),
    ],
)
def test_unusable_pairs_cost_one_line(make, a, b, said):
    with pytest.raises(UserError, match=said):
        make().fit(a, b).estimate(a, b)


# Correlations


def test_the_wishart_correction_takes_the_bias_away():
    """32 + 32 independent dimensions and 500 pairs read 1.09 nats without it."""
    found = torch.tensor([Gaussian().estimate(*gaussian(32, 0.0).sample(500, seed)).value for seed in range(12)])
    assert abs(found.mean()) < 4 * found.std() / math.sqrt(12)
    assert found.std() < 0.06
    a, b = gaussian(32, 0.0).sample(500, 0)
    both = torch.corrcoef(torch.cat([a, b], 1).double().T)
    uncorrected = (both[:32, :32].logdet() + both[32:, 32:].logdet() - both.logdet()) / 2
    assert uncorrected > 1


@pytest.mark.parametrize("make", [Gaussian, GaussianCopula])
def test_the_interval_covers_the_information_of_gaussians(make):
    found = [make().estimate(*TASKS["gaussian_20d_5"].sample(1000, seed)) for seed in range(40)]
    errors = torch.tensor([estimate.value - 5 for estimate in found])
    assert abs(errors.mean()) < (0.03 if make is Gaussian else 0.06)
    assert sum(estimate.low <= 5 <= estimate.high for estimate in found) >= 34
    assert found[0].standard_error == pytest.approx(errors.std().item(), rel=0.4)


def test_gaussian_does_not_change_with_invertible_linear_maps_and_copula_not_with_monotone_ones():
    a, b = TASKS["gaussian_5d_2"].sample(500)
    mix = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mapped = Gaussian().estimate(a.double() @ mix[0] + 7, b.double() @ mix[1])
    assert mapped.value == pytest.approx(Gaussian().estimate(a, b).value, abs=1e-8)
    cubes = GaussianCopula().estimate(a.double() ** 3, b.double().sinh() - 4)
    assert cubes.value == pytest.approx(GaussianCopula().estimate(a, b).value, abs=1e-12)


def test_a_closed_form_is_no_bound():
    for name in ("noisy_labels", "mixture_views_16d"):
        task = TASKS[name]
        found = Gaussian().estimate(*task.sample(2000))
        assert found.low > task.mutual_information()


def test_dimensions_that_do_not_vary_are_left_out_and_said():
    a, b = TASKS["gaussian_5d_2"].sample(500)
    padded = torch.cat([a, a[:, :2] - a[:, 2:4], torch.ones(500, 1)], 1)
    found = Gaussian().estimate(padded, b)
    assert found.value == pytest.approx(Gaussian().estimate(a, b).value, abs=1e-5)
    assert any("of rank 5 and 5 only" in warning for warning in found.warnings)
    assert not any("rank" in warning for warning in Gaussian().estimate(a, b).warnings)


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_what_is_no_bound_says_so(make):
    """Of tight clusters closed forms read tens of nats, and no interval shows it."""
    generator = torch.Generator().manual_seed(0)
    kinds = torch.randint(10, (2000,), generator=generator)
    centres = torch.randn(10, 6, generator=generator)[kinds]
    a, b = (centres + 0.01 * torch.randn(2000, 6, generator=generator) for _ in range(2))
    found = estimate(make, a, b)
    assert any("not a bound" in warning for warning in found.warnings)
    if make in (Gaussian, GaussianCopula):
        assert found.low > math.log(10) + 1
        assert any("for clusters far above" in warning for warning in found.warnings)


@pytest.mark.parametrize(("n", "dimension", "mi"), [(500, 1, 2.0), (300, 2, 1.0), (500, 3, 2.0), (400, 6, 0.0)])
def test_the_interval_of_ksg_covers_its_own_mean(n, dimension, mi):
    found = [KSG().estimate(*gaussian(dimension, mi).sample(n, seed)) for seed in range(50)]
    mean = sum(one.value for one in found) / len(found)
    assert sum(one.low <= mean <= one.high for one in found) >= 42


def test_equal_values_share_their_rank_so_that_labels_in_order_tell_nothing():
    a = torch.arange(3).repeat(400).sort().values  # in the order of the rows, as sorted data sets are
    b = torch.randint(3, (1200,), generator=torch.Generator().manual_seed(0))
    assert GaussianCopula().estimate(F.one_hot(a)[:, :2].float(), F.one_hot(b)[:, :2].float()).value < 0.01


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (torch.randn(20, 12), torch.randn(20, 12), "24 dimensions need more than 48 pairs"),
        (torch.ones(20, 2), torch.randn(20, 2), "all the same"),
        (torch.arange(20.0)[:, None], -2 * torch.arange(20.0)[:, None], "determines the other"),
    ],
)
def test_what_has_no_correlations_costs_one_line(a, b, said):
    with pytest.raises(UserError, match=said):
        Gaussian().estimate(a, b)


# Neighbours


def test_ksg_is_its_formula():
    a, b = (z.double() for z in TASKS["gaussian_2d_1"].sample(60))
    a, b = ((z - z.mean(0)) / z.std(0) for z in (a, b))
    total = 0.0
    for i in range(60):
        others = [j for j in range(60) if j != i]
        near = sorted(max((a[i] - a[j]).abs().max().item(), (b[i] - b[j]).abs().max().item()) for j in others)[2]
        for z in (a, b):
            count = sum((z[i] - z[j]).abs().max().item() < near for j in others)
            total += torch.special.digamma(torch.tensor(count + 1.0).double()).item()
    psi = torch.special.digamma(torch.tensor([3.0, 60.0]).double()).sum().item()
    assert KSG(neighbours=3).estimate(a, b).value == pytest.approx(psi - total / 60, abs=1e-6)


@pytest.mark.parametrize(("name", "within"), [("gaussian_2d_1", 0.05), ("asinh_student_3d", 0.3)])
def test_ksg_is_near_the_truth_in_few_dimensions(name, within):
    found = KSG().estimate(*TASKS[name].sample(1500))
    assert abs(found.value - TASKS[name].mutual_information()) < within


def test_ksg_refuses_many_dimensions_and_repeated_pairs():
    with pytest.raises(UserError, match="7 dimensions: project to at most 6"):
        KSG().estimate(torch.randn(50, 7), torch.randn(50, 2))
    with pytest.raises(UserError, match="repeat exactly"):
        KSG().estimate(*(torch.eye(3)[torch.arange(60) % 3] for _ in range(2)))
    with pytest.raises(UserError, match="more than 9 pairs"):
        KSG(neighbours=9).estimate(*torch.randn(2, 9, 2))


# Entropy and reconstruction


def test_normalisers_of_von_mises_fisher_cancel():
    """In three dimensions, where log C(κ) = log κ − log 4π sinh κ: leave-one-out entropy plus mean log q(b | a)."""
    a, b = (F.normalize(z.double(), dim=1) for z in gaussian(3, 1.5).sample(200))
    estimator = EntropyReconstruction().fit(a, b)
    c = math.log(k := estimator.scale) - math.log(4 * math.pi * math.sinh(k))
    kernel = (c + k * b @ b.T).fill_diagonal_(-torch.inf)
    entropy = -(torch.logsumexp(kernel, 1) - math.log(199)).mean()
    reconstruction = (c + k * (a * b).sum(1)).mean()
    assert estimator.estimate(a, b).value == pytest.approx((entropy + reconstruction).item(), abs=1e-9)


def test_it_is_row_wise_dv_with_negatives_of_the_same_view_at_its_best_scale():
    a, b = (F.normalize(z.double(), dim=1) for z in gaussian(8, 2.0).sample(300))
    estimator = EntropyReconstruction().fit(a, b)

    def value(scale):
        scores = b @ b.T
        return bounds.row_wise_dv(scale * (scores - torch.diag(scores.diagonal()) + torch.diag((a * b).sum(1))))

    assert estimator.estimate(a, b).value == pytest.approx(value(estimator.scale).item(), abs=1e-9)
    assert value(estimator.scale) > max(value(0.98 * estimator.scale), value(1.02 * estimator.scale))


def test_clusters_have_the_logarithm_of_their_number_and_no_value_exceeds_log_n():
    labels = torch.randint(6, (1000,), generator=torch.Generator().manual_seed(0))
    found = estimate(EntropyReconstruction, torch.eye(6)[labels], torch.eye(6)[labels])
    assert abs(found.value - math.log(6)) < 4 * found.standard_error + 0.02
    same = gaussian(32, 0.0).sample(64)[0]
    assert estimate(EntropyReconstruction, same, same).value == math.log(32)


def test_it_covers_the_value_of_its_population():
    """The interval is that of what it estimates at its κ, which a large sample tells."""
    task = gaussian(8, 2.0)
    estimator = EntropyReconstruction().fit(*task.sample(1000, 99))
    population = sum(estimator.estimate(*task.sample(4000, 100 + seed)).value for seed in range(4)) / 4
    found = [estimator.estimate(*task.sample(500, seed)) for seed in range(40)]
    assert sum(estimate.low <= population <= estimate.high for estimate in found) >= 34


def test_it_needs_a_fit_and_one_size():
    a, b = gaussian(3, 1.0).sample(40)
    with pytest.raises(UserError, match="call fit first"):
        EntropyReconstruction().estimate(a, b)
    with pytest.raises(UserError, match="of one size, not 3 and 2"):
        EntropyReconstruction().fit(a, b[:, :2])
