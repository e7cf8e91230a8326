"""One, two and three processes with different images compute the same, for every row: loss, gradients, statistics."""

import pytest
import torch

from hf_mi_ssl.methods import METHODS
from tests.test_distributed import a_model, loss_and_gradients, run_processes, train_step_of_every_row


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    return (torch.dist(found.double(), expected.double()) / expected.double().norm().clamp_min(1e-6)).item()


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_every_row_is_the_same_on_so_many_processes(world, figure):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(24, 3, 16, 16, generator=generator, dtype=torch.float64)
    x[:8] *= 3  # processes differ in scale, too
    views = [x + 0.3 * torch.randn(x.shape, generator=generator, dtype=torch.float64) for _ in range(2)]
    per_rank = run_processes(world, train_step_of_every_row, views)
    worst = 0.0
    for (name, phase), (loss, gradients, buffers) in per_rank[0].items():
        model = a_model(name)
        whole, expected = loss_and_gradients(model, views, phase)
        worst = max(worst, apart(loss, whole))
        together = torch.cat([expected[n].flatten() for n in gradients])
        worst = max(worst, apart(torch.cat([gradients[n].flatten() for n in gradients]), together))
        worst = max([worst, *(apart(buffers[n], value) for n, value in model.named_buffers())])
        assert worst <= 1e-10, (name, phase)
    assert {name for name, _ in per_rank[0]} == set(METHODS)
    figure("rows at 2 and 3 processes: relative difference", f"{worst:.1e} at {world}")
