"""The embedded corpus: a glyph, repeated four times on a noisy background, drawn at run time from independent factors.

    content   discrete, 8 glyphs: the label
    style     discrete, 8 hues of the glyph, 45° apart (each with a jitter of ±6°)
    private   of each copy: position, scale, rotation, polarity (bright or dark); of the image: the shift of the whole
              (which wraps around the borders), contrast, background and its gradient, blobs under the glyphs, noise

Every factor is a pure function of (seed, split, image index), drawn by `counter`, so the corpus needs no file and no
network. It is hard for pixels because the private factors move every one of them. It is learnable because two crops of
one image show different copies: they share the content and little else. The style is a faint tint, since a strong one
survives every colour jitter, tells the images apart, and content is then never learned.

At least one copy is whole, nothing covers it and the noise is bounded, so that content and style can be read off every
image without error; `mutual_information` rests on that.
"""

import math
from collections.abc import Callable, Iterable

import torch
from PIL import Image
from torch import Tensor

from .. import counter
from ..errors import refuse_unknown

SPLIT_SIZES = {"train": 4096, "test": 1024}
GLYPHS = ("disc", "ring", "square", "triangle", "star", "cross", "crescent", "bars")
HUES = 8
CARDINALITIES = {"content": len(GLYPHS), "style": HUES}

_COPIES = 4  # on a lattice of 2 × 2, one in each quarter of the plane before the shift
_BLOBS = 4
_CHUNK = 128  # images painted at once: the working set stays in the cache


def _star(x: Tensor, y: Tensor) -> Tensor:
    sector = torch.remainder(torch.atan2(x, y) + math.pi / 5, 2 * math.pi / 5) - math.pi / 5  # fold onto one point
    radius = torch.hypot(x, y)
    u, v = radius * torch.cos(sector), radius * torch.sin(sector).abs()
    inner = (0.42 * math.cos(math.pi / 5), 0.42 * math.sin(math.pi / 5))  # the edge runs from (1, 0) to this notch
    length = math.hypot(1 - inner[0], inner[1])
    return ((1 - u) * inner[1] - v * (1 - inner[0])) / length


# Distance to the glyph's edge, positive inside, on a plane in which the glyph fits the unit circle; y points up.
_EDGES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "disc": lambda x, y: 0.9 - torch.hypot(x, y),
    "ring": lambda x, y: 0.2 - (torch.hypot(x, y) - 0.75).abs(),
    "square": lambda x, y: 0.7 - torch.maximum(x.abs(), y.abs()),
    "triangle": lambda x, y: torch.minimum(0.5 + y, 0.5 - 0.5 * y - math.sqrt(0.75) * x.abs()),
    "star": _star,
    "cross": lambda x, y: torch.minimum(
        0.95 - torch.maximum(x.abs(), y.abs()), 0.27 - torch.minimum(x.abs(), y.abs())
    ),
    "crescent": lambda x, y: torch.minimum(0.98 - torch.hypot(x, y), torch.hypot(x - 0.5, y) - 0.75),
    "bars": lambda x, y: torch.minimum(0.62 - y.abs(), 0.17 - ((x.abs() - 0.3).abs() - 0.3).abs()),
}


def _draw_factors(indices: Tensor, key_of: Callable[[str], tuple]) -> dict[str, Tensor]:
    """Every factor of the images `indices` (n,): `key_of(factor name)` is the key its draws come from."""

    def uniform(name: str, low: float, high: float, copies: int = 0) -> Tensor:
        index = (indices[:, None], torch.arange(copies)) if copies else (indices,)
        return low + (high - low) * counter.uniform(*key_of(name), name, *index)

    factors = {name: counter.integers(size, *key_of(name), name, indices) for name, size in CARDINALITIES.items()}
    copies = (indices[:, None], torch.arange(_COPIES))
    scale = uniform("scale", 0.28, 0.44, _COPIES)
    room = 0.49 - scale  # a copy never leaves its quarter
    return factors | {
        "scale": scale,
        "x": room * uniform("x", -1, 1, _COPIES),
        "y": room * uniform("y", -1, 1, _COPIES),
        "rotation": uniform("rotation", -math.pi / 9, math.pi / 9, _COPIES),
        "polarity": counter.integers(2, *key_of("polarity"), "polarity", *copies),
        "shift_x": uniform("shift_x", 0, 2),
        "shift_y": uniform("shift_y", 0, 2),
        "contrast": uniform("contrast", 0.28, 0.38),
        "hue_jitter": uniform("hue_jitter", -math.pi / 30, math.pi / 30),
        "background_level": uniform("background_level", 0.44, 0.56),
        "background_hue": uniform("background_hue", 0, 2 * math.pi),
        "gradient": uniform("gradient", 0, 0.05),
        "gradient_angle": uniform("gradient_angle", 0, 2 * math.pi),
        "blob_x": uniform("blob_x", -1, 1, _BLOBS),
        "blob_y": uniform("blob_y", -1, 1, _BLOBS),
        "blob_radius": uniform("blob_radius", 0.03, 0.16, _BLOBS),
        "blob_level": uniform("blob_level", 0.43, 0.57, _BLOBS),
        "blob_hue": uniform("blob_hue", 0, 2 * math.pi, _BLOBS),
        "noise": counter.bits(*key_of("noise"), "noise", indices),
    }


def _paint(f: dict[str, Tensor], size: int) -> Tensor:
    """The images (n, 3, size, size), uint8, that the factors describe."""
    n = len(f["content"])
    axis = (torch.arange(size) + 0.5) * (2 / size) - 1
    px, py = axis.expand(size, size), -axis[:, None].expand(size, size)  # x to the right, y up, in (−1, 1)

    def per_image(value: Tensor) -> Tensor:
        return value.view(n, 1, 1)

    def coverage(edge: Tensor) -> Tensor:
        return (edge * (size / 2) + 0.5).clamp_(0, 1)  # antialiased over one pixel

    def colour(level: Tensor | float, chroma: float, hue: Tensor) -> Tensor:
        """Mean channel `level`, `chroma` away from grey towards the angle `hue`: (n, 3, 1, 1)."""
        thirds = torch.tensor([0, 2, -2]) * (math.pi / 3)
        return (torch.as_tensor(level).view(-1, 1) + chroma * torch.cos(hue[:, None] - thirds)).view(n, 3, 1, 1)

    angle = f["gradient_angle"]
    slope = per_image(f["gradient"]) * (px * per_image(angle.cos()) + py * per_image(angle.sin()))
    image = colour(f["background_level"], 0.02, f["background_hue"]) + slope[:, None]
    for k in range(_BLOBS):
        distance = torch.hypot(px - per_image(f["blob_x"][:, k]), py - per_image(f["blob_y"][:, k]))
        mask = coverage(per_image(f["blob_radius"][:, k]) - distance)
        image = torch.lerp(image, colour(f["blob_level"][:, k], 0.03, f["blob_hue"][:, k]), mask[:, None])

    lx = torch.remainder(px + per_image(f["shift_x"]), 2)  # the plane before the shift, (0, 2)
    ly = torch.remainder(py + per_image(f["shift_y"]), 2)
    copy = ((lx >= 1).long() + 2 * (ly >= 1)).flatten(1)  # which quarter, hence which copy, each pixel belongs to

    def per_copy(value: Tensor) -> Tensor:
        return value.gather(1, copy).view(n, size, size)

    scale, cos, sin = per_copy(f["scale"]), per_copy(f["rotation"].cos()), per_copy(f["rotation"].sin())
    dx, dy = (lx % 1 - 0.5 - per_copy(f["x"])) / scale, (ly % 1 - 0.5 - per_copy(f["y"])) / scale
    gx, gy = cos * dx + sin * dy, cos * dy - sin * dx
    edge = torch.empty(n, size, size)
    for content, name in enumerate(GLYPHS):
        of = f["content"] == content
        edge[of] = _EDGES[name](gx[of], gy[of])
    tint = colour(0.5, 0.05, f["style"] * (2 * math.pi / HUES) + f["hue_jitter"])
    brightness = per_copy(f["contrast"][:, None] * (2 * f["polarity"] - 1))
    image = torch.lerp(image, tint + brightness[:, None], coverage(edge * scale)[:, None])

    bits = counter.bits(f["noise"][:, None], torch.arange(size * size)).view(n, 1, size, size)
    noise = ((bits >> torch.tensor([0, 16, 32]).view(3, 1, 1)) & 0xFFFF).float() / 0xFFFF - 0.5  # one draw, 3 channels
    return (image + 0.06 * noise).clamp_(0, 1).mul_(255).round_().to(torch.uint8)


def _render(factors: dict[str, Tensor], size: int) -> Tensor:
    n = len(factors["content"])
    images = torch.empty(n, 3, size, size, dtype=torch.uint8)
    for start in range(0, n, _CHUNK):
        images[start : start + _CHUNK] = _paint({k: v[start : start + _CHUNK] for k, v in factors.items()}, size)
    return images


def shapes_content(indices: Tensor, seed: int = 0, split: str = "train") -> Tensor:
    """The labels of the images with these indices, int64 (n,), without drawing them."""
    return counter.integers(len(GLYPHS), "shapes", seed, split, "content", indices)


def shapes_at(
    indices: Tensor, size: int = 64, seed: int = 0, split: str = "train"
) -> tuple[Tensor, dict[str, Tensor]]:
    """The images with these indices (n,) of the endless stream (seed, split): see `shapes`."""
    factors = _draw_factors(indices, lambda name: ("shapes", seed, split))
    return _render(factors, size), factors


def shapes(n: int, size: int = 64, seed: int = 0, split: str = "train") -> tuple[Tensor, dict[str, Tensor]]:
    """The first n images of the stream (seed, split), uint8 (n, 3, size, size), and their factors.

    `size` is the side in pixels (64; 32 is possible). `factors["content"]` (int64 (n,), 0 … 7, an index into `GLYPHS`)
    is the label, `factors["style"]` (int64 (n,), 0 … 7) the hue; the others are the private factors, by name.
    """
    return shapes_at(torch.arange(n), size, seed, split)


def shapes_pairs(
    n: int, size: int = 64, seed: int = 0, share: Iterable[str] = ("content", "style")
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """n pairs of renderings that share the factors named in `share` and nothing else: their MI is known exactly.

    Returns images a and b, uint8 (n, 3, size, size) each, and the shared factors, int64 (n,) each. Raises `UserError`
    for a name that is not in `CARDINALITIES`.
    """
    refuse_unknown("shared factor", share := tuple(share), CARDINALITIES)

    def view(name: str) -> dict[str, Tensor]:
        return _draw_factors(
            torch.arange(n),
            lambda factor: ("shapes pairs", seed) if factor in share else ("shapes pairs", seed, name),
        )

    a, b = view("a"), view("b")
    return _render(a, size), _render(b, size), {name: a[name] for name in share}


def mutual_information(share: Iterable[str] = ("content", "style")) -> float:
    """I(A; B) in nats of the images of `shapes_pairs`: H(shared factors) = Σ log cardinality.

    Let S be the shared factors. A and B are independent given S, for all else is drawn independently; so
    I(A; B) ≤ I(A; S) ≤ H(S). And S is a function of A as well as of B (a decoder in the tests reads it off without
    error, at 64 pixels), so I(A; B) ≥ I(S; S) = H(S). Hence equality; S is uniform, with independent parts.

    Augmented views of *one* image have no such value: they also share its noise, blobs and background, to an
    extent that no formula gives.
    """
    refuse_unknown("shared factor", share := set(share), CARDINALITIES)
    return sum(math.log(CARDINALITIES[name]) for name in share)


class ShapesCorpus:
    """The split "train" or "test" as a corpus, with the members of `corpora.Corpus`."""

    name = "shapes"
    available_splits = list(SPLIT_SIZES)
    label_names = list(GLYPHS)

    def __init__(self, split: str, seed: int = 0):
        refuse_unknown("split of 'shapes'", [split], SPLIT_SIZES)
        self.split = split
        self.seed = seed
        self.fingerprint = f"shapes-{split}-{SPLIT_SIZES[split]}-seed{seed}"
        self.labels = shapes_content(torch.arange(len(self)), seed, split)

    def __len__(self) -> int:
        return SPLIT_SIZES[self.split]

    def read(self, index: int) -> Image.Image:
        """Image `index`, RGB, 64 × 64."""
        image = self.squares(torch.tensor([range(len(self))[index]]), 64)[0]
        return Image.fromarray(image.permute(1, 2, 0).numpy())

    def squares(self, indices: Tensor, size: int, bad: dict | None = None) -> Tensor:
        """The images `indices` (n,), drawn at this size rather than resized: uint8 (n, 3, size, size). None is bad."""
        return shapes_at(indices, size, self.seed, self.split)[0]
