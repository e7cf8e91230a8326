"""The embedded corpus: deterministic, hard for pixels, with independent factors that can be read off every image."""

import math

import pytest
import torch
import torch.nn.functional as F
from transformers import ResNetConfig, ResNetModel

from hf_mi_ssl.data.corpora import load_corpus
from hf_mi_ssl.data.shapes import (
    _EDGES,
    GLYPHS,
    HUES,
    SPLIT_SIZES,
    mutual_information,
    shapes,
    shapes_at,
    shapes_content,
    shapes_pairs,
)
from hf_mi_ssl.errors import UserError


@pytest.fixture(scope="module")
def corpus():
    return {split: shapes(n, split=split) for split, n in SPLIT_SIZES.items()}


def glyph_masks(images):
    """How far each pixel is glyph, 0 … 1: glyphs are 0.28 … 0.38 brighter or darker than grey, all else within 0.2."""
    level = images.float().div(255).mean(1)
    return ((level - 0.5).abs() > 0.2).float()


def decode_content(images):
    """The glyph with the best overlap (IoU) over positions, scales and rotations; it knows the glyphs' shapes only."""
    size = images.shape[-1]
    axis = ((torch.arange(size) + size // 2) % size - size // 2) * (2 / size)  # centred on pixel (0, 0), wrapping
    x, y = axis.expand(size, size), -axis[:, None].expand(size, size)
    spectrum = torch.fft.rfft2(glyph_masks(images))

    def overlap(template):  # at every position of the template, on the torus: (n, size, size)
        return torch.fft.irfft2(spectrum * torch.fft.rfft2(template.float()).conj(), s=(size, size))

    best = torch.zeros(len(GLYPHS), len(images))
    for scale in (0.29, 0.33, 0.37, 0.41, 0.44):
        in_reach = overlap(torch.hypot(x, y) < 1.03 * scale)
        for content, name in enumerate(GLYPHS):
            for degrees in (0,) if name in ("disc", "ring") else (-20, -10, 0, 10, 20):
                cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
                template = _EDGES[name]((cos * x + sin * y) / scale, (cos * y - sin * x) / scale) > 0
                both = overlap(template)
                iou = both / (template.sum() + in_reach - both)
                best[content] = torch.maximum(best[content], iou.amax((1, 2)))
    return best.argmax(0)


def decode_style(images):
    """The hue of the mean colour of the glyphs."""
    mask = glyph_masks(images)[:, None]
    red, green, blue = ((images.float() * mask).sum((2, 3)) / mask.sum((2, 3))).unbind(1)
    angle = torch.atan2((green - blue) * math.sqrt(3), 2 * red - green - blue)
    return (angle / (2 * math.pi / HUES)).round().long() % HUES


def knn_accuracy(train, test, labels, expected, k=20):
    train, test = (F.normalize(x.flatten(1).float(), dim=1) for x in (train, test))
    similarity, neighbours = (test @ train.T).topk(k)
    votes = torch.zeros(len(test), len(GLYPHS)).scatter_add_(1, labels[neighbours], (similarity / 0.07).exp())
    return (votes.argmax(1) == expected).float().mean().item()


def test_content_and_style_are_functions_of_the_image_so_the_mutual_information_of_pairs_is_exact():
    images, factors = shapes(512, seed=7)
    assert torch.equal(decode_content(images), factors["content"])
    assert torch.equal(decode_style(images), factors["style"])


def test_style_is_read_without_error_from_the_whole_corpus(corpus):
    for images, factors in corpus.values():
        assert torch.equal(decode_style(images), factors["style"])


def test_pixels_separate_the_glyphs_to_at_most_two_fifths(corpus):
    (train, f), (test, g) = corpus["train"], corpus["test"]
    labels, expected = f["content"], g["content"][:512]
    assert knn_accuracy(train, test[:512], labels, expected) <= 0.4
    assert knn_accuracy(train / 255 - 0.5, test[:512] / 255 - 0.5, labels, expected) <= 0.4


def test_a_random_encoder_separates_the_glyphs_to_at_most_half(corpus):
    (train, f), (test, g) = corpus["train"], corpus["test"]
    torch.manual_seed(0)
    shape = {"depths": [1, 1, 1, 1], "hidden_sizes": [32, 64, 128, 256], "embedding_size": 32}
    encoder = ResNetModel(ResNetConfig(layer_type="basic", **shape)).eval()

    @torch.no_grad()
    def represent(images):
        return torch.cat([encoder((x / 255 - 0.5) / 0.25).pooler_output for x in images.split(256)])

    assert knn_accuracy(represent(train), represent(test[:512]), f["content"], g["content"][:512]) <= 0.5


@pytest.mark.parametrize(("a", "b"), [("content", "style"), ("content", "polarity"), ("style", "polarity")])
def test_factors_are_independent_and_uniform(corpus, a, b):
    factors = corpus["train"][1]
    first, second = factors[a], factors[b] if factors[b].ndim == 1 else factors[b][:, 0]
    counts = torch.bincount(first * 8 + second, minlength=64).view(8, 8)[:, : int(second.max()) + 1].double()
    expected = len(first) / counts.numel()
    assert (counts - expected).abs().max() < 4 * math.sqrt(expected)


def test_private_factors_do_not_tell_the_content(corpus):
    factors = corpus["train"][1]
    for name in ("scale", "x", "y", "rotation", "contrast", "background_level", "gradient"):
        value = factors[name].double().reshape(len(factors["content"]), -1)[:, 0]
        for content in range(len(GLYPHS)):
            of = value[factors["content"] == content]
            assert abs(of.mean() - value.mean()) < 4 * value.std() / math.sqrt(len(of))


def test_an_image_is_a_pure_function_of_seed_split_and_index():
    images, factors = shapes(300, seed=3)
    indices = torch.tensor([299, 5, 128])
    some, their_factors = shapes_at(indices, seed=3)
    assert torch.equal(some, images[indices])
    assert all(torch.equal(their_factors[name], value[indices]) for name, value in factors.items())
    assert torch.equal(shapes_content(indices, seed=3), their_factors["content"])


def test_splits_and_seeds_are_disjoint_streams():
    streams = [shapes(64, size=32, seed=seed, split=split)[0] for seed in (0, 1) for split in ("train", "test")]
    distinct = torch.cat(streams).flatten(1).unique(dim=0)
    assert len(distinct) == 4 * 64


@pytest.mark.parametrize("size", [32, 64, 96])
def test_images_are_uint8_rgb_at_the_size_asked_for(size):
    images, factors = shapes(5, size=size)
    assert images.shape == (5, 3, size, size)
    assert images.dtype == torch.uint8
    assert factors["content"].dtype == torch.int64


@pytest.mark.parametrize("share", [("content", "style"), ("content",), ("style",), ()])
def test_pairs_share_the_named_factors_and_nothing_else(share):
    a, b, factors = shapes_pairs(400, seed=1, share=share)
    assert set(factors) == set(share)
    same = (decode_style(a) == decode_style(b)).float().mean().item()
    if "style" in share:
        assert same == 1
        assert torch.equal(decode_style(a), factors["style"])
    else:
        assert abs(same - 1 / HUES) < 4 * math.sqrt(7 / 64 / 400)
    difference = (a.float() - b.float()).abs().flatten(1).mean(1)
    assert difference.min() > 5  # no pair repeats its pixels: noise, positions and polarities are drawn anew


def test_pairs_share_content_iff_asked():
    for share, expected in ((("content",), 1), (("style",), 1 / 8)):
        a, b, _ = shapes_pairs(48, seed=2, share=share)
        same = (decode_content(a) == decode_content(b)).float().mean().item()
        assert abs(same - expected) <= 4 * math.sqrt(expected * (1 - expected) / 48)


def test_mutual_information_is_the_entropy_of_what_is_shared():
    assert mutual_information() == pytest.approx(math.log(64))
    assert mutual_information(("content",)) == pytest.approx(math.log(8))
    assert mutual_information(()) == 0


def test_an_unknown_factor_names_the_nearest():
    for call in (lambda: shapes_pairs(1, share=("contents",)), lambda: mutual_information(("contents",))):
        with pytest.raises(UserError, match="did you mean 'content'"):
            call()


def test_the_corpus_is_the_stream_with_labels_and_names():
    corpus = load_corpus("shapes", split="test")
    images, factors = shapes(10, split="test")
    assert len(corpus) == SPLIT_SIZES["test"]
    assert torch.equal(corpus.squares(torch.arange(10), 64), images)
    assert torch.equal(corpus.labels[:10], factors["content"])
    assert corpus.label_names == list(GLYPHS)
    assert corpus.available_splits == ["train", "test"]
    assert corpus.read(3).size == (64, 64)
    assert corpus.fingerprint != load_corpus("shapes", split="train").fingerprint


def test_a_split_that_does_not_exist_is_named_with_those_that_do():
    with pytest.raises(UserError, match="unknown split of 'shapes' 'validation'; known: test, train"):
        load_corpus("shapes", split="validation")
