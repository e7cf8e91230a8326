"""The data of the experiments: what is called known mutual information, by a second way to it, from log-densities or
from counts; and what is read off every sample."""

import math
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "recipes" / "experiments"))

import laws  # noqa: E402
import modalities  # noqa: E402
import sources  # noqa: E402

N = 20_000


def test_the_information_of_a_mixture_is_the_mean_log_ratio_of_its_densities():
    classes, spread, within, noise = 5, 3.0, 0.6, 0.8
    source = sources.mixture(2, classes, spread, within, noise)
    views = source.draw(N, torch.Generator().manual_seed(1))
    angle = torch.arange(classes) * (2 * math.pi / classes)
    centres = spread * torch.stack([angle.cos(), angle.sin()], 1)
    single = (within**2 + noise**2) * torch.eye(2)
    both = torch.kron(
        torch.tensor([[within**2 + noise**2, within**2], [within**2, within**2 + noise**2]]), torch.eye(2)
    )

    def log_density(z: torch.Tensor, means: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
        law = torch.distributions.MultivariateNormal(means, covariance)
        return law.log_prob(z[:, None]).logsumexp(1) - math.log(classes)

    joint = log_density(torch.cat([views.a, views.b], 1), centres.repeat(1, 2), both)
    ratio = joint - log_density(views.a, centres, single) - log_density(views.b, centres, single)
    assert source.truth() == pytest.approx(ratio.mean().item(), abs=0.05)


def test_the_information_of_factors_is_that_of_their_counts():
    source = sources.factors(bits=2, survival=0.6)
    views = source.draw(200_000, torch.Generator().manual_seed(1))
    content, a, b = (views.factors[name] for name in ("content", "style", "style_b"))
    counts = torch.zeros(32, 32).index_put_((4 * content + a, 4 * content + b), torch.ones(len(a)), accumulate=True)
    p = counts / counts.sum()
    plug_in = torch.special.xlogy(p, p).sum() - torch.special.xlogy(p.sum(0), p.sum(0)).sum()
    plug_in = plug_in - torch.special.xlogy(p.sum(1), p.sum(1)).sum()
    assert source.truth() == pytest.approx(plug_in.item(), abs=0.01)
    inputs = sources.all_inputs(2)
    assert len(inputs.a.unique(dim=0)) == len(inputs.a) == 8 * 4 * 16  # injective: the factors can be read off


def test_the_information_of_noisy_laws_is_that_of_their_densities():
    rho = 1 / 1.25  # white x, noise of half its size
    assert sources.noisy_law("gaussian").truth() == pytest.approx(-8 / 2 * math.log(1 - rho**2), rel=2e-3)
    views = sources.noisy_law("uniform", 3).draw(4000, torch.Generator().manual_seed(1))
    edge = math.sqrt(3)  # x is uniform on ±√3
    normal = torch.distributions.Normal(0.0, 1.0)

    def inside(centre: torch.Tensor, scale: float) -> torch.Tensor:
        return (normal.cdf((edge - centre) / scale) - normal.cdf((-edge - centre) / scale)) / (2 * edge)

    a, b = views.a.double(), views.b.double()
    mean = torch.exp(-((a - b) ** 2) / 4 / 0.25) / math.sqrt(4 * math.pi * 0.25)
    ratio = mean * inside((a + b) / 2, 0.5 / math.sqrt(2)) / (inside(a, 0.5) * inside(b, 0.5))
    assert sources.noisy_law("uniform", 3).truth() == pytest.approx(ratio.log().sum(1).mean().item(), abs=0.08)
    for law in laws.MOMENTS:
        x = sources.noisy_law(law, 4, noise=0.0).draw(N, torch.Generator().manual_seed(1)).a
        torch.testing.assert_close(torch.cov(x.T), torch.eye(4), rtol=0, atol=0.1)


def test_the_information_of_texts_is_the_mean_log_ratio_of_their_likelihoods():
    source = sources.tokens()
    views = source.draw(4000, torch.Generator().manual_seed(1))
    chains = modalities._Chains(8, 24)
    a, b = (chains.log_likelihood(view) for view in (views.a, views.b))
    ratio = (a + b).logsumexp(1) - a.logsumexp(1) - b.logsumexp(1) + math.log(8)
    assert source.truth() == pytest.approx(ratio.mean().item(), abs=0.03)
    most_likely = a.argmax(1) == views.labels
    assert 0.5 < most_likely.double().mean() < 1.0


def test_views_of_one_text_keep_half_of_its_words_and_of_one_sound_a_part_of_it(monkeypatch):
    texts = []
    draw = modalities._Chains.draw
    monkeypatch.setattr(
        modalities._Chains, "draw", lambda self, topic, g: texts.append(draw(self, topic, g)) or texts[0]
    )
    views = sources.deleted(length=6).draw(50, torch.Generator().manual_seed(0))
    for view in (views.a, views.b):
        for text, words in zip(texts[0].tolist(), view.tolist()):
            rest = iter(text)
            assert all(word in rest for word in words)  # in their order
    assert (views.a != views.b).any()
    assert math.isnan(sources.deleted().truth())
    sounds = []
    monkeypatch.setattr(modalities, "waveforms", lambda length: sounds.append(sources.waveforms(length)) or sounds[0])
    views = sources.cropped().draw(40, torch.Generator().manual_seed(0))
    whole = sounds[0].draw(40, torch.Generator().manual_seed(0)).a
    for view in (views.a, views.b):
        windows = whole.unfold(1, 192, 1)  # every crop of every sound
        heard = view != 0
        assert (heard.sum(1) >= 192 - 24).all()
        gain = (windows * view[:, None]).sum(2) / (windows.square() * heard[:, None]).sum(2)
        apart = ((gain[:, :, None] * windows - view[:, None]) * heard[:, None]).abs().amax(2)
        best = apart.min(1)
        assert best.values.max() < 1e-4
        gains = gain.gather(1, best.indices[:, None])
        assert 0.69 < gains.min() < gains.max() < 1.31


def test_pitch_and_timbre_can_be_read_off_every_waveform():
    views = sources.waveforms().draw(2000, torch.Generator().manual_seed(1))
    times, order = torch.arange(192), torch.arange(1, 5)
    frequency = 0.02 * 2 ** (torch.arange(8) / 8)
    angle = 2 * math.pi * frequency[:, None, None] * order[:, None] * times  # (8, 4, 192)
    energy = (
        torch.einsum("nt,kht->nkh", views.a, angle.sin()) ** 2 + torch.einsum("nt,kht->nkh", views.a, angle.cos()) ** 2
    )
    timbre = torch.tensor([[1, 0.2, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0.0], [1, 0, 0, 1]])
    expected = torch.nn.functional.normalize(timbre, dim=1)
    fits = torch.einsum("nkh,sh->nks", energy.sqrt(), expected).flatten(1).argmax(1)
    assert (fits == 4 * views.labels + views.factors["style"]).double().mean() > 0.999


def test_the_image_of_a_rendering_tells_its_label():
    views = sources.renderings().draw(500, torch.Generator().manual_seed(1))
    quarters = views.a.view(-1, 2, 8, 2, 8).transpose(2, 3)  # rows and columns of the quarters, then pixels
    pixels = torch.arange(8.0) - 3.5
    mass = quarters.sum((3, 4))
    rows = (quarters.sum(4) @ pixels) / mass
    columns = (quarters.sum(3) @ pixels) / mass
    bits = torch.stack([rows[:, 0, 0], columns[:, 0, 0], rows[:, 0, 1]], 1)
    clear = bits.abs().min(1).values > 0.1
    label = (bits > 0).long() @ torch.tensor([4, 2, 1])
    assert (label == views.labels)[clear].double().mean() > 0.99


def test_the_marginal_term_of_a_law_is_said_to_be_infinite_where_it_is():
    """By the integral over a product of two coordinates, cut off further and further out."""
    x = torch.linspace(0, 100, 401, dtype=torch.float64)
    scale = 0.5 - 0.5 / math.pi
    tails = {"gaussian": -x.square() / 2, "laplace": -(2**0.5) * x, "rectified": -scale * x.square() / 2}
    for law, tail in tails.items():
        for tau in (0.9, 1.5, 3.0, 12.0):
            exponent = tail[:, None] + tail + torch.outer(x, x) / tau
            grows = exponent[-1, -1] > 0 or exponent[-1].max() > 0
            assert (tau <= laws.INFINITE_TO[law]) == bool(grows), (law, tau)
