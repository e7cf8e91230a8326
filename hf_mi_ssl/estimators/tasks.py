"""Pairs whose mutual information is known: what an estimator has to find, or, as a bound, must not exceed.

    z_a, z_b = TASKS["gaussian_20d_5"].sample(4096, seed=0)
    TASKS["gaussian_20d_5"].mutual_information()     # 5.0 nats

Beds of the benchmark "Beyond Normal" (arXiv 2306.11078), of class-structured views, and images.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Generator, Tensor

from ..data.shapes import mutual_information, shapes_pairs
from ..errors import UserError

Draw = Callable[[int, Generator], tuple[Tensor, Tensor]]
Map = Callable[[Tensor], Tensor]

_NORMAL = {"dtype": torch.float64}
_INTEGRATED = 2**17  # draws for the two integrals that have no formula: standard error 0.001 nats


@dataclass(frozen=True)
class Task:
    """A joint law of (z_a, z_b) with known mutual information.

    Args:
        description: the law in a few words.
        draw: n and a generator -> n independent pairs (n, D_a), (n, D_b).
        truth: the mutual information, in nats.
    """

    description: str
    draw: Draw
    truth: Callable[[], float]

    def sample(self, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """n independent pairs, float32 (n, D_a), (n, D_b): a function of (n, seed). Raises UserError for n < 1."""
        if n < 1:
            raise UserError(f"a sample needs at least one pair, not {n}")
        z_a, z_b = self.draw(n, torch.Generator().manual_seed(seed))
        return z_a.float(), z_b.float()

    def mutual_information(self) -> float:
        """I(z_a; z_b) in nats: a closed form, but for the Gaussian mixtures (an integral, ± 0.003 at three errors)."""
        return self.truth()

    def mapped(self, description: str, map_a: Map, map_b: Map | None = None) -> "Task":
        """The task seen through injective maps of each side, which leave its mutual information as it is."""

        def draw(n: int, generator: Generator) -> tuple[Tensor, Tensor]:
            z_a, z_b = self.draw(n, generator)
            return map_a(z_a), (map_b or map_a)(z_b)

        return Task(description, draw, self.truth)


def gaussian(dimension: int, nats: float) -> Task:
    """z_b = ρ z_a + √(1 − ρ²) ε in each coordinate: I = −D/2 log(1 − ρ²)"""
    return Task(
        f"Gaussian, {dimension}-d",
        lambda n, generator: _correlated(n, dimension, _correlation(dimension, nats), generator),
        lambda: nats,
    )


def student(dimension: int, nats: float, freedom: int) -> Task:
    """Gaussian over a shared √(χ²_ν / ν): I = its MI + f(ν) + f(ν + 2D) − 2 f(ν + D), f(x) = log Γ(x/2) − ψ(x/2) x/2

    Dependent even where uncorrelated, because both sides share their scale (arXiv 2306.11078, appendix).
    """

    def draw(n: int, generator: Generator) -> tuple[Tensor, Tensor]:
        z_a, z_b = _correlated(n, dimension, _correlation(dimension, nats), generator)
        chi = torch.randn(n, freedom, generator=generator, **_NORMAL).square().mean(1, keepdim=True).sqrt()
        return z_a / chi, z_b / chi

    def f(x: float) -> float:
        return math.lgamma(x / 2) - x / 2 * torch.special.digamma(torch.tensor(x / 2, dtype=torch.float64)).item()

    shared = f(freedom) + f(freedom + 2 * dimension) - 2 * f(freedom + dimension)
    return Task(f"Student-t with {freedom} degrees of freedom, {dimension}-d", draw, lambda: nats + shared)


def uniform_noise(dimension: int, width: float) -> Task:
    """z_b = z_a + u, z_a uniform on [0, 1], u on [−w, w], w ≤ ½, in each coordinate: I = D (w − log 2w)"""

    def draw(n: int, generator: Generator) -> tuple[Tensor, Tensor]:
        z_a, u = torch.rand(2, n, dimension, generator=generator, **_NORMAL)
        return z_a, z_a + width * (2 * u - 1)

    return Task(f"uniform additive noise, {dimension}-d", draw, lambda: dimension * (width - math.log(2 * width)))


def noisy_labels(classes: int, flip: float) -> Task:
    """One of K labels and its copy, another label with probability p, as units: I = log K − H(p) − p log(K − 1)"""

    def draw(n: int, generator: Generator) -> tuple[Tensor, Tensor]:
        label = torch.randint(classes, (n,), generator=generator)
        other = (label + torch.randint(1, classes, (n,), generator=generator)) % classes
        flipped = torch.rand(n, generator=generator) < flip
        return torch.eye(classes)[label], torch.eye(classes)[torch.where(flipped, other, label)]

    entropy = -flip * math.log(flip) - (1 - flip) * math.log(1 - flip)
    return Task(
        f"{classes} labels, {flip:.0%} of the copies wrong",
        draw,
        lambda: math.log(classes) - entropy - flip * math.log(classes - 1),
    )


def mixture(classes: int, dimension: int, spread: float, within: float, noise: float, shared: bool) -> Task:
    """Views of one of K Gaussian clusters, z = μ_C + σ_w e + σ_v e′, |μ_k| = spread: if `shared`, both have the same μ
    and the same e; else each has its own centres. I = I(C; z_a) + I(C; z_b) − I(C; z_a, z_b) + I(z_a; z_b | C)
    """
    centres = spread * _directions(2 - shared, classes, dimension).expand(2, -1, -1)
    variance = within**2 + noise**2
    rho = within**2 / variance if shared else 0.0

    def draw(n: int, generator: Generator) -> tuple[Tensor, Tensor]:
        label = torch.randint(classes, (n,), generator=generator)
        e_a, e_b = _correlated(n, dimension, rho, generator)
        return centres[0, label] + math.sqrt(variance) * e_a, centres[1, label] + math.sqrt(variance) * e_b

    @lru_cache
    def truth() -> float:
        z_a, z_b = draw(_INTEGRATED, torch.Generator().manual_seed(0))
        sides = [(z_a, centres[0]), (z_b, centres[1])]
        turned = [[(a + b) / math.sqrt(2 + 2 * rho), (a - b) / math.sqrt(2 - 2 * rho)] for a, b in zip(*sides)]
        sides.append(tuple(torch.cat(parts, 1) for parts in turned))  # both sides, in coordinates that are white
        of_a, of_b, of_both = (_label_information(z, centre, variance) for z, centre in sides)
        return of_a + of_b - of_both - dimension / 2 * math.log1p(-(rho**2))

    kind = "views" if shared else "labels"
    return Task(f"{kind} of {classes} Gaussian clusters, {dimension}-d", draw, truth)


def blob_images(nats: float, side: int = 16) -> Task:
    """Images (side²) of four blobs, one in each quarter, whose eight coordinates are those of `gaussian` through Φ

    A blob is a sampled Gaussian bump without noise, so that the image tells its place: I is that of the coordinates.
    """
    half = side // 2
    pixels = torch.arange(half, **_NORMAL) + 0.5

    def paint(z: Tensor) -> Tensor:
        place = 1 + (half - 2) * torch.special.ndtr(z).view(-1, 4, 2, 1)  # at least a pixel away from the edge
        profile = torch.exp(-((pixels - place) ** 2) / 2)  # (n, 4, 2, half)
        quarters = profile[:, :, 0, :, None] * profile[:, :, 1, None, :]
        return quarters.view(-1, 2, 2, half, half).transpose(2, 3).reshape(-1, side * side)

    return gaussian(8, nats).mapped(f"images of blobs, {side} × {side}", paint)


def shapes_images(share: str, size: int, grey: bool) -> Task:
    """Renderings of the embedded corpus that share one factor, as pixels in [−1, 1]: I = H(factor)

    Exact as long as the factor can be read off every image, which the tests do at these sizes.
    """

    def draw(n: int, generator: Generator) -> tuple[Tensor, Tensor]:
        seed = int(torch.randint(2**40, (), generator=generator))
        images = (view.float() / 127.5 - 1 for view in shapes_pairs(n, size, seed, (share,))[:2])
        z_a, z_b = (view.mean(1).flatten(1) if grey else view.flatten(1) for view in images)
        return z_a, z_b

    return Task(f"shapes that share their {share}, {size} pixels", draw, lambda: mutual_information((share,)))


def spiralled(z: Tensor) -> Tensor:
    """z -> e^{|z|² A} z, A the rotation of the first two coordinates: shells turn by different angles."""
    angle, (x, y) = z.square().sum(1), z[:, :2].T
    turned = [angle.cos() * x - angle.sin() * y, angle.sin() * x + angle.cos() * y]
    return torch.cat([torch.stack(turned, 1), z[:, 2:]], 1)


def rotated(z: Tensor) -> Tensor:
    """z in a basis of its own: no coordinate, and so no cosine, agrees with the other view's."""
    return z @ torch.linalg.qr(_directions(z.shape[1], z.shape[1])).Q


def _correlation(dimension: int, nats: float) -> float:
    return math.sqrt(-math.expm1(-2 * nats / dimension))


def _correlated(n: int, dimension: int, rho: float, generator: Generator) -> tuple[Tensor, Tensor]:
    z_a, noise = torch.randn(2, n, dimension, generator=generator, **_NORMAL)
    return z_a, rho * z_a + math.sqrt(1 - rho**2) * noise


def _directions(*shape: int) -> Tensor:
    """Fixed unit vectors."""
    generator = torch.Generator().manual_seed(math.prod(shape))
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator, **_NORMAL), dim=-1)


def _label_information(z: Tensor, centres: Tensor, variance: float) -> float:
    """I(C; z) = log K − E H(C | z) of equally likely Gaussian clusters around `centres` (K, D)."""
    log_posterior = torch.log_softmax(-torch.cdist(z, centres).square() / (2 * variance), 1)
    return math.log(len(centres)) + (log_posterior.exp() * log_posterior).sum(1).mean().item()


TASKS: dict[str, Task] = {
    "independent_8d": gaussian(8, 0.0),
    "gaussian_2d_1": gaussian(2, 1.0),
    "gaussian_5d_2": gaussian(5, 2.0),
    "gaussian_20d_5": gaussian(20, 5.0),
    "gaussian_64d_3": gaussian(64, 3.0),
    "rotated_16d_3": gaussian(16, 3.0).mapped("Gaussian, 16-d, one side rotated", lambda z: z, rotated),
    "cubic_5d_2": gaussian(5, 2.0).mapped("Gaussian, 5-d, one side cubed", lambda z: z**3, lambda z: z),
    "half_cube_5d_2": gaussian(5, 2.0).mapped("z |z|^½ of a Gaussian, 5-d", lambda z: z * z.abs().sqrt()),
    "uniform_margins_5d_2": gaussian(5, 2.0).mapped("Gaussian copula, uniform margins, 5-d", torch.special.ndtr),
    "student_3d": student(3, 1.0, 2),
    "asinh_student_3d": student(3, 1.0, 2).mapped("asinh of that Student-t", torch.asinh),
    "spiral_3d": gaussian(3, 1.5).mapped("spiralled Gaussian, 3-d", spiralled),
    "uniform_noise_3d": uniform_noise(3, 0.3),
    "noisy_labels": noisy_labels(10, 0.2),
    "mixture_labels_5d": mixture(8, 5, 10.0, 0.0, 1.0, shared=False),
    "mixture_views_16d": mixture(8, 16, 4.0, 1.0, 1.0, shared=True),
    "blob_images": blob_images(2.0),
    "shapes_style": shapes_images("style", 32, grey=False),
    "shapes_content": shapes_images("content", 64, grey=True),
}
