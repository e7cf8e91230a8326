"""Sources beyond vectors: texts, sounds, images with texts, and two renderings of one latent."""

import math

import torch
from torch import Generator, Tensor, nn
from views import INTEGRATED, Source, Views, seeded

from hf_mi_ssl.estimators.tasks import blob_images


class _Chains:
    """A topic is a Markov chain over 64 words, with favourite words and favourite successors; p(words | topic) is
    known, and with it every posterior."""

    def __init__(self, topics: int, length: int):
        self.topics, self.length = topics, length
        generator = seeded(topics, length)
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
        views = draw(INTEGRATED, seeded(7))
        likelihoods = [chains.log_likelihood(view) for view in (views.a, views.b)]
        a, b, both = (
            math.log(topics) - _entropy(each.log_softmax(1))
            for each in (*likelihoods, likelihoods[0] + likelihoods[1])
        )
        return a + b - both

    return Source(draw, truth, [["tokens", length]], topics)


def _entropy(log_posterior: Tensor) -> float:
    return -(log_posterior.exp() * log_posterior).sum(1).mean().item()


def deleted(length: int = 24) -> Source:
    """Two views of one text of twice the length: each keeps a random half of its words, in their order.

    I is unknown.
    """
    chains = _Chains(8, 2 * length)

    def draw(n: int, generator: Generator) -> Views:
        content = torch.randint(8, (n,), generator=generator)
        text = chains.draw(content, generator)

        def keep() -> Tensor:
            kept = torch.rand(text.shape, generator=generator).argsort(1)[:, :length].sort(1).values
            return text.gather(1, kept)

        return Views(keep(), keep(), {"content": content})

    return Source(draw, lambda: math.nan, [["tokens", length]], 8)


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


def cropped(length: int = 192) -> Source:
    """Two views of one sound of `waveforms`, twice as long: a random crop, a gain, and an eighth of it silenced. I is
    unknown"""
    sounds = waveforms(2 * length)

    def draw(n: int, generator: Generator) -> Views:
        whole = sounds.draw(n, generator)

        def crop() -> Tensor:
            start = torch.randint(length + 1, (n, 1), generator=generator)
            view = whole.a.gather(1, start + torch.arange(length)) * (
                0.7 + 0.6 * torch.rand(n, 1, generator=generator)
            )
            away = torch.arange(length) - torch.randint(length, (n, 1), generator=generator)
            return view.masked_fill((away >= 0) & (away < length // 8), 0.0)

        return Views(crop(), crop(), whole.factors)

    return Source(draw, lambda: math.nan, [["waveform", length]], 8)


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
        return math.log(32) - _entropy(chains.log_posterior(draw(INTEGRATED, seeded(7)).b))

    return Source(draw, truth, [["vector", side * side], ["tokens", length]], 8)


def renderings(nats: float = 3.0) -> Source:
    """An image of four blobs and a vector: two injective renderings of correlated Gaussian latents, I = `nats` exactly

    The label is the quadrant of the first three coordinates of the image's latent.
    """
    task = blob_images(nats)
    rho = math.sqrt(-math.expm1(-2 * nats / 8))
    turn = torch.linalg.qr(torch.randn(24, 8, generator=seeded(24, 8))).Q

    def draw(n: int, generator: Generator) -> Views:
        seed = int(torch.randint(2**40, (), generator=generator))
        image, _ = task.draw(n, torch.Generator().manual_seed(seed))
        again = torch.randn(2, n, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        latent, other = again[0], rho * again[0] + math.sqrt(1 - rho**2) * again[1]
        vector = (other * other.abs().sqrt()) @ turn.double().T
        content = (latent[:, :3] > 0).long() @ torch.tensor([4, 2, 1])
        return Views(image.float(), vector.float(), {"content": content})

    return Source(draw, lambda: nats, [["vector", 256], ["vector", 24]], 8)
