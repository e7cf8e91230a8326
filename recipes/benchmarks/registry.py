"""What every case is made of: the settings, the registry, and the images."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIMCLR = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}


@dataclass(frozen=True)
class Settings:
    device: str
    images: str  # a directory with JPEG images of 32 pixels in `32`, and for GPUs of 256 in `224`
    batch: int  # of a step
    count: int  # images whose views make a round; of 32 pixels, four times as many
    scale: float = 1.0  # shrinks what is timed, for tests

    def step(self, size: int) -> int:
        """Images of a step at that size: several cases hold the memory of a GPU at once."""
        return self.batch if size <= 64 else max(2, self.batch // 4)


Round = Callable[[], dict]
CASES: dict[tuple[str, str], dict[str, Callable[[Settings], Round]]] = {}


def case(part: str, group: str, name: str, *fixed):
    def keep(build):
        CASES.setdefault((part, group), {})[name] = partial(build, *fixed) if fixed else build
        return build

    return keep


def decoded(size: int, settings: Settings) -> list[np.ndarray]:
    """Images whose views are to have `size` pixels: of that size, or, as ImageNet's, an eighth larger."""
    return pictures(4 * settings.count, size) if size <= 64 else pictures(settings.count, size * 8 // 7)


def pictures(n: int, size: int) -> list[np.ndarray]:
    """Smooth patches under grain, uint8 (size, size, 3): compressible, of all colours."""
    from PIL import Image

    draw = np.random.default_rng(0)
    found = []
    for _ in range(n):
        patches = Image.fromarray(draw.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((size, size), 3)
        found.append(np.clip(np.asarray(patches) + draw.normal(0, 8, (size, size, 3)), 0, 255).astype(np.uint8))
    return found
