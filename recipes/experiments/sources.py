"""Data for the experiments: two views whose mutual information is known, and the encoders that take them.

Vectors, token sequences, waveforms, and images with texts go through one interface: a source draws `Views`, says the
MI of its two views in nats, and which towers its encoder needs. The models are those of the package; `ToyEncoder` is
the only part that is not, because an encoder of images takes neither vectors nor tokens.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from huggingface_hub.dataclasses import strict
from torch import Generator, Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from hf_mi_ssl.data.shapes import mutual_information, shapes_pairs
from hf_mi_ssl.estimators.tasks import blob_images

_INTEGRATED = 2**14  # draws for the integrals that have no formula: standard error about 0.005 nats


@strict
class ToyConfig(PreTrainedConfig):
    """An encoder of views that are no RGB images.

    Args:
        towers (`list`): [kind, size] of each modality: `vector` (size numbers), `tokens` (size words of a vocabulary
            of 64) or `waveform` (size samples). A view goes to the tower of its size: sizes differ.
        hidden_size (`int`, *optional*, defaults to 64): of the representation h, and of hidden layers.
    """

    model_type = "toy_encoder"

    towers: list | None = None
    hidden_size: int = 64
    num_channels: int = 1

    @property
    def image_size(self) -> tuple[int, int]:
        """What the package asks an encoder for, to learn the size of h."""
        return 1, (self.towers or [["vector", 2]])[0][1]


class ToyEncoder(PreTrainedModel):
    """view (n, size) -> `pooler_output` (n, hidden_size), of the tower whose size the view has."""

    config: ToyConfig
    main_input_name = "pixel_values"

    def __init__(self, config: ToyConfig):
        super().__init__(config)
        self.towers = nn.ModuleDict(
            {str(size): _TOWERS[kind](size, config.hidden_size) for kind, size in config.towers}
        )
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """As torch does it, at construction."""

    def forward(self, pixel_values: Tensor, **kwargs) -> BaseModelOutputWithPooling:
        view = pixel_values.flatten(1)
        return BaseModelOutputWithPooling(pooler_output=self.towers[str(view.shape[1])](view))


AutoConfig.register(ToyConfig.model_type, ToyConfig, exist_ok=True)
AutoModel.register(ToyConfig, ToyEncoder, exist_ok=True)


class _Words(nn.Module):
    """Words and pairs of neighbours, averaged over the sequence."""

    def __init__(self, hidden: int):
        super().__init__()
        self.embedding = nn.Embedding(64, 32)
        self.neighbours = nn.Linear(64, hidden)

    def forward(self, view: Tensor) -> Tensor:
        words = self.embedding(view.long())
        return self.neighbours(torch.cat([words[:, 1:], words[:, :-1]], 2)).relu().mean(1)


def _vector(size: int, hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())


def _tokens(size: int, hidden: int) -> nn.Module:
    return nn.Sequential(_Words(hidden), nn.Linear(hidden, hidden), nn.ReLU())


def _waveform(size: int, hidden: int) -> nn.Module:
    filters = nn.Conv1d(1, 48, 32, stride=8)
    pooled = [nn.Unflatten(1, (1, size)), filters, nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten()]
    return nn.Sequential(*pooled, nn.Linear(48, hidden), nn.ReLU())


_TOWERS: dict[str, Callable[[int, int], nn.Module]] = {"vector": _vector, "tokens": _tokens, "waveform": _waveform}


@dataclass(frozen=True)
class Views:
    """Row i of a and of b: two views of one thing. `factors` are what it was made of, int64 (n,) each."""

    a: Tensor
    b: Tensor
    factors: dict[str, Tensor]

    @property
    def labels(self) -> Tensor:
        return self.factors["content"]


@dataclass(frozen=True)
class Source:
    """A law of two views.

    Args:
        draw: n and a generator -> Views.
        truth: the mutual information of the views, in nats.
        towers: of the encoder.
        classes: how many values the label has.
    """

    draw: Callable[[int, Generator], Views]
    truth: Callable[[], float]
    towers: list = field(default_factory=list)
    classes: int = 0


def _seeded(*numbers: int) -> Generator:
    return torch.Generator().manual_seed(math.prod(numbers) + len(numbers))


def mixture(dimension: int, classes: int = 10, spread: float = 4.0, within: float = 0.5, noise: float = 0.5) -> Source:
    """Views x + noise ε of x = μ_c + within e, |μ_c| = spread. I = I(C; a) + I(C; b) − I(C; a, b) + I(a; b | C)"""
    if dimension == 2:
        angle = torch.arange(classes) * (2 * math.pi / classes)
        centres = spread * torch.stack([angle.cos(), angle.sin()], 1)
    else:
        centres = torch.randn(classes, dimension, generator=_seeded(classes, dimension))
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
        views = draw(_INTEGRATED, _seeded(7))
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
    generator = _seeded(classes, styles, noises, dimension)
    parts = [torch.randn(k, 64, generator=generator) for k in (classes, styles, noises)]
    sums = parts[0][:, None, None] + 1.5 * parts[1][None, :, None] + 1.5 * parts[2][None, None, :]
    return torch.tanh(sums) @ torch.randn(64, dimension, generator=generator) / 8


class _Chains:
    """A topic is a Markov chain over 64 words, with favourite words and favourite successors; p(words | topic) is
    known, and with it every posterior."""

    def __init__(self, topics: int, length: int):
        self.topics, self.length = topics, length
        generator = _seeded(topics, length)
        words = torch.randn(topics, 1, 64, generator=generator)
        successors = torch.randn(topics, 64, 64, generator=generator)
        self.moves = (0.9 * words + 0.4 * successors).softmax(2)
        self.cumulative = self.moves.cumsum(2)

    def draw(self, topic: Tensor, generator: Generator) -> Tensor:
        words = [torch.randint(64, topic.shape, generator=generator)]
        for _ in range(self.length - 1):
            chance = torch.rand(len(topic), 1, generator=generator)
            words.append((self.cumulative[topic, words[-1]] < chance).sum(1).clamp(max=63))
        return torch.stack(words, 1)

    def log_posterior(self, words: Tensor) -> Tensor:
        return self.log_likelihood(words).log_softmax(1)

    def log_likelihood(self, words: Tensor) -> Tensor:
        return self.moves.log()[:, words[:, :-1], words[:, 1:]].sum(2).T  # (n, topics)


def tokens(topics: int = 8, length: int = 24) -> Source:
    """Two independent texts on one topic. I = I(T; a) + I(T; b) − I(T; a, b): given the topic they are independent"""
    chains = _Chains(topics, length)

    def draw(n: int, generator: Generator) -> Views:
        content = torch.randint(topics, (n,), generator=generator)
        return Views(chains.draw(content, generator), chains.draw(content, generator), {"content": content})

    def truth() -> float:
        views = draw(_INTEGRATED, _seeded(7))
        likelihoods = [chains.log_likelihood(view) for view in (views.a, views.b)]
        a, b, both = (
            math.log(topics) - _entropy(each.log_softmax(1))
            for each in (*likelihoods, likelihoods[0] + likelihoods[1])
        )
        return a + b - both

    return Source(draw, truth, [["tokens", length]], topics)


def _entropy(log_posterior: Tensor) -> float:
    return -(log_posterior.exp() * log_posterior).sum(1).mean().item()


def waveforms(length: int = 192, pitches: int = 8, timbres: int = 4, noise: float = 0.3) -> Source:
    """Harmonics of one of 8 pitches in one of 4 timbres, shared; phases, gain and noise private. I = log 8 + log 4

    Exact as long as pitch and timbre can be read off a waveform, which a test does.
    """
    frequency = 0.02 * 2 ** (torch.arange(pitches) / pitches)
    order = torch.arange(1, 5)
    loudness = nn.functional.normalize(
        torch.tensor([[1, 0.2, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0.0], [1, 0, 0, 1]]), dim=1
    )

    def draw(n: int, generator: Generator) -> Views:
        content = torch.randint(pitches, (n,), generator=generator)
        style = torch.randint(timbres, (n,), generator=generator)

        def play() -> Tensor:
            phase = 2 * math.pi * torch.rand(n, 4, 1, generator=generator)
            angle = 2 * math.pi * frequency[content, None, None] * order[:, None] * torch.arange(length) + phase
            gain = 0.7 + 0.6 * torch.rand(n, 1, generator=generator)
            sound = gain * (loudness[style, :, None] * angle.sin()).sum(1)
            return sound + noise * torch.randn(n, length, generator=generator)

        return Views(play(), play(), {"content": content, "style": style})

    return Source(draw, lambda: math.log(pitches * timbres), [["waveform", length]], pitches)


def captions(side: int = 12, length: int = 32) -> Source:
    """An image of a blob, at one of 8 places in one of 4 widths, and a text whose topic says both. I = I(S; text)

    The image tells place and width S without error, the text up to its posterior, and given S they are independent.
    """
    chains = _Chains(32, length)
    angle = torch.arange(8) * (math.pi / 4)
    places = (side - 1) / 2 + 0.3 * side * torch.stack([angle.cos(), angle.sin()], 1)
    widths = torch.tensor([0.7, 1.1, 1.7, 2.6])
    pixel = torch.arange(side)

    def draw(n: int, generator: Generator) -> Views:
        content = torch.randint(8, (n,), generator=generator)
        style = torch.randint(4, (n,), generator=generator)
        offset = places[content, :, None] + 0.6 * torch.rand(n, 2, 1, generator=generator) - 0.3 - pixel
        profile = torch.exp(-offset.square() / (2 * widths[style, None, None] ** 2))
        image = (profile[:, 0, :, None] * profile[:, 1, None, :]).flatten(1)
        image = image + 0.1 * torch.randn(image.shape, generator=generator)
        return Views(image, chains.draw(4 * content + style, generator), {"content": content, "style": style})

    def truth() -> float:
        return math.log(32) - _entropy(chains.log_posterior(draw(_INTEGRATED, _seeded(7)).b))

    return Source(draw, truth, [["vector", side * side], ["tokens", length]], 8)


def renderings(nats: float = 3.0) -> Source:
    """An image of four blobs and a vector: two injective renderings of correlated Gaussian latents, I = `nats` exactly

    The label is the quadrant of the first three coordinates of the image's latent.
    """
    task = blob_images(nats)
    rho = math.sqrt(-math.expm1(-2 * nats / 8))
    turn = torch.linalg.qr(torch.randn(24, 8, generator=_seeded(24, 8))).Q

    def draw(n: int, generator: Generator) -> Views:
        seed = int(torch.randint(2**40, (), generator=generator))
        image, _ = task.draw(n, torch.Generator().manual_seed(seed))
        again = torch.randn(2, n, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        latent, other = again[0], rho * again[0] + math.sqrt(1 - rho**2) * again[1]
        vector = (other * other.abs().sqrt()) @ turn.double().T
        content = (latent[:, :3] > 0).long() @ torch.tensor([4, 2, 1])
        return Views(image.float(), vector.float(), {"content": content})

    return Source(draw, lambda: nats, [["vector", 256], ["vector", 24]], 8)


def shapes(size: int = 32) -> Source:
    """Two renderings of the embedded corpus that share content and style and nothing else, as pixels. I = log 64"""

    def draw(n: int, generator: Generator) -> Views:
        seed = int(torch.randint(2**40, (), generator=generator))
        a, b, shared = shapes_pairs(n, size, seed)
        a, b = (view.float() / 127.5 - 1 for view in (a, b))
        return Views(a, b, {name: value.long() for name, value in shared.items()})

    return Source(draw, mutual_information, [], 8)


SOURCES: dict[str, Callable[..., Source]] = {
    function.__name__: function for function in (mixture, factors, tokens, waveforms, captions, renderings, shapes)
}
