"""Data for the experiments, by name: two views, most of known mutual information, and the towers that take them.

Vectors, token sequences, waveforms, images with texts, and photographs go through one interface: a source draws
`Views`, says the MI of its two views in nats or nan, and which towers its encoder needs.
"""

import math
from collections.abc import Callable

import torch
from laws import noisy_law
from modalities import captions, cropped, deleted, renderings, tokens, waveforms
from photographs import cifar10
from torch import Generator, Tensor, nn
from views import INTEGRATED, Source, Views, seeded

from hf_mi_ssl.data.shapes import mutual_information, shapes_pairs


def mixture(dimension: int, classes: int = 10, spread: float = 4.0, within: float = 0.5, noise: float = 0.5) -> Source:
    """Views x + noise ε of x = μ_c + within e, |μ_c| = spread. I = I(C; a) + I(C; b) − I(C; a, b) + I(a; b | C)"""
    if dimension == 2:
        angle = torch.arange(classes) * (2 * math.pi / classes)
        centres = spread * torch.stack([angle.cos(), angle.sin()], 1)
    else:
        centres = torch.randn(classes, dimension, generator=seeded(classes, dimension))
        centres = spread * nn.functional.normalize(centres, dim=1)
    variance, rho = within**2 + noise**2, within**2 / (within**2 + noise**2)

    def draw(n: int, generator: Generator) -> Views:
        content = torch.randint(classes, (n,), generator=generator)
        x = centres[content] + within * torch.randn(n, dimension, generator=generator)
        a, b = (x + noise * torch.randn(n, dimension, generator=generator) for _ in range(2))
        return Views(a, b, {"content": content})

    def of_label(z: Tensor, means: Tensor, scale: float) -> float:
        log_posterior = torch.log_softmax(-torch.cdist(z, means).square() / (2 * scale), 1)
        return math.log(classes) + (log_posterior.exp() * log_posterior).sum(1).mean().item()

    def truth() -> float:
        views = draw(INTEGRATED, seeded(7))
        single = of_label(views.a, centres, variance) + of_label(views.b, centres, variance)
        both = of_label((views.a + views.b) / 2, centres, variance * (1 + rho) / 2)  # their mean tells all of c
        return single - both - dimension / 2 * math.log1p(-(rho**2))

    return Source(draw, truth, [["vector", dimension]], classes)


def factors(bits: int, survival: float, classes: int = 8, noises: int = 16, dimension: int = 32) -> Source:
    """Views x(c, s, u): content c shared, style s of `bits` bits that survives with probability p, nuisance u private

    x is a fixed injective function of discrete factors, so that I(a; b) = log K + I(s_a; s_b) exactly, with s_b = s_a
    with probability p + (1 − p)/2^B and any other style equally likely. `all_inputs` are the only inputs that exist.
    """
    styles = 2**bits
    x = _rendered(classes, styles, noises, dimension)

    def draw(n: int, generator: Generator) -> Views:
        content, style, other = (torch.randint(k, (n,), generator=generator) for k in (classes, styles, styles))
        style_b = torch.where(torch.rand(n, generator=generator) < survival, style, other)
        a, b = (x[content, s, torch.randint(noises, (n,), generator=generator)] for s in (style, style_b))
        return Views(a, b, {"content": content, "style": style, "style_b": style_b})

    def truth() -> float:
        same = survival + (1 - survival) / styles
        entropy = -same * math.log(same)
        if same < 1:
            entropy -= (1 - same) * math.log((1 - same) / (styles - 1))
        return math.log(classes) + math.log(styles) - entropy

    return Source(draw, truth, [["vector", dimension]], classes)


def all_inputs(bits: int, classes: int = 8, noises: int = 16, dimension: int = 32) -> Views:
    """Every input of `factors`, once: they are equally likely."""
    grid = torch.cartesian_prod(torch.arange(classes), torch.arange(2**bits), torch.arange(noises))
    x = _rendered(classes, 2**bits, noises, dimension).flatten(0, 2)
    return Views(x, x, {"content": grid[:, 0], "style": grid[:, 1]})


def _rendered(classes: int, styles: int, noises: int, dimension: int) -> Tensor:
    """x (K, S, U, D): two random layers over the factors; style is written larger than content, as colour is."""
    generator = seeded(classes, styles, noises, dimension)
    parts = [torch.randn(k, 64, generator=generator) for k in (classes, styles, noises)]
    sums = parts[0][:, None, None] + 1.5 * parts[1][None, :, None] + 1.5 * parts[2][None, None, :]
    return torch.tanh(sums) @ torch.randn(64, dimension, generator=generator) / 8


def shapes(size: int = 32) -> Source:
    """Two renderings of the embedded corpus that share content and style and nothing else, as pixels. I = log 64"""

    def draw(n: int, generator: Generator) -> Views:
        seed = int(torch.randint(2**40, (), generator=generator))
        a, b, shared = shapes_pairs(n, size, seed)
        a, b = (view.float() / 127.5 - 1 for view in (a, b))
        return Views(a, b, {name: value.long() for name, value in shared.items()})

    return Source(draw, mutual_information, [], 8)


SOURCES: dict[str, Callable[..., Source]] = {
    function.__name__: function
    for function in (
        mixture,
        factors,
        noisy_law,
        tokens,
        waveforms,
        captions,
        renderings,
        shapes,
        cifar10,
        deleted,
        cropped,
    )
}
