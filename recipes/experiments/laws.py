"""Laws of one covariance, Gaussian and not, and two noisy views of some of them."""

import math

import torch
from torch import Generator, Tensor
from views import Source, Views, seeded

LAWS = ("gaussian", "uniform", "laplace", "student", "clusters", "rectified")
SKEWED = ("clusters", "rectified")
# White, E_Q e^{xᵀy/τ} is infinite up to this τ: the law's tails beat the Gaussian's, or its scale; its own M does not
# exist there, only a sample's. Of the rectified 1/Var(relu(ε)).
INFINITE_TO = {"gaussian": 1.0, "laplace": math.inf, "student": math.inf, "rectified": 1 / (0.5 - 0.5 / math.pi)}


def draw_law(name: str, n: int, dimension: int, generator: Generator) -> Tensor:
    """(n, D), of any mean and scale; the coordinates of student and of clusters depend on one another."""
    normal = torch.randn(n, dimension, generator=generator, dtype=torch.float64)
    uniform = torch.rand(n, dimension, generator=generator, dtype=torch.float64)
    if name == "uniform":
        return uniform
    if name == "laplace":
        return (uniform - 0.5).sign() * torch.log1p(-2 * (uniform - 0.5).abs())
    if name == "student":
        chi = torch.randn(n, 8, generator=generator, dtype=torch.float64).square().mean(1, keepdim=True).sqrt()
        return normal / chi
    if name == "clusters":
        centres = torch.eye(dimension + 1, dimension, dtype=torch.float64)
        return centres[torch.randint(dimension + 1, (n,), generator=generator)] + 0.1 * normal
    return normal.relu() if name == "rectified" else normal


MOMENTS = {  # mean and standard deviation of a coordinate, of the laws whose coordinates are independent
    "gaussian": (0.0, 1.0),
    "uniform": (0.5, 12**-0.5),
    "laplace": (0.0, 2**0.5),
    "rectified": ((2 * math.pi) ** -0.5, (0.5 - 0.5 / math.pi) ** 0.5),
}


def noisy_law(law: str, dimension: int = 8, noise: float = 0.5) -> Source:
    """Views x + noise ε of white x whose coordinates are independent: I is D times that of one, on a grid.

    The label says which of the first three coordinates are above their mean.
    """
    centre, scale = MOMENTS[law]

    def draw(n: int, generator: Generator) -> Views:
        x = ((draw_law(law, n, dimension, generator) - centre) / scale).float()
        a, b = (x + noise * torch.randn(x.shape, generator=generator) for _ in range(2))
        return Views(a, b, {"content": (x[:, :3] > 0).long() @ torch.tensor([4, 2, 1])})

    def truth() -> float:
        x = (draw_law(law, 2**20, 1, seeded(7))[:, 0] - centre) / scale
        atoms = x.sort().values.view(4096, -1).mean(1)
        grid = torch.linspace(atoms.min().item() - 4 * noise, atoms.max().item() + 4 * noise, 400, dtype=torch.float64)
        given = torch.softmax(-(grid[:, None] - atoms).square() / (2 * noise**2), 0)  # p(a | x), on the grid
        joint = given @ given.T / len(atoms)
        ratio = joint / (joint.sum(0) * joint.sum(1, keepdim=True))
        return dimension * torch.xlogy(joint, ratio).sum().item()

    return Source(draw, truth, [["vector", dimension]], 8)
