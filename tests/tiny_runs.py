"""Runs of a second or two on synthetic images, recorded as the recipes record theirs."""

import torch

from hf_mi_ssl.estimators import track
from hf_mi_ssl.evaluation.batch_norm import with_statistics
from hf_mi_ssl.evaluation.collapse import Alarm
from hf_mi_ssl.evaluation.geometry import tracked_geometry
from tests.conftest import forward, small_model

BATCH, EVALUATIONS, PAIRS = 64, 10, 256
CENTRES, NOISE = 0.7, 0.5
# Rows at their size: a predictor and a queue need room, Barlow Twins a weight for 16 dimensions in place of 8192
COLUMNS = {"projector_hidden_size": 64}
OWN = {
    "simsiam": {"predictor_hidden_size": 32},
    "byol": {"predictor_hidden_size": 32},
    "moco_v2": {"queue_size": 256, "batch_norm_group_size": 8, "target_momentum": 0.9},
    "moco_v3": {"predictor_hidden_size": 32},
    "nnclr": {"predictor_hidden_size": 32, "queue_size": 256},
    "dino": {"num_prototypes": 32, "target_momentum": 0.95},
    "swav": {"num_prototypes": 32},
    "barlow_twins": {"marginal": {"redundancy": 0.2}},
}


def draw_pairs(n: int, generator: torch.Generator, shared: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """Two noisy views of n images, (n, 3, 8, 8), each near one of ten centres; of other images unless `shared`."""
    centres = CENTRES * torch.randn(10, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def normal() -> torch.Tensor:
        return torch.randn(n, 3, 8, 8, generator=generator)

    image, other = (centres[torch.randint(10, (n,), generator=generator)] + normal() for _ in range(2))
    return image + NOISE * normal(), (image if shared else other) + NOISE * normal()


def tiny_run(method: str, seed: int, steps: int = 240, lr: float = 3e-3, shared=True, uphill=False, **columns):
    """Train a small model of the row, its loss uphill if asked to; returns (its configuration, the log's records).

    The views share an image unless `shared` is False.
    """
    model = small_model(method, seed, **COLUMNS | OWN.get(method, {}) | columns)
    ends = torch.Generator().manual_seed(1000)  # held-out pairs are the same for all
    held = draw_pairs(PAIRS, ends, shared)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr, fused=True, maximize=uphill)
    start = with_statistics(model.branches, draw_pairs(PAIRS, torch.Generator().manual_seed(2000), shared))
    records = [evaluate(start, 0, held)]
    for step in range(steps):
        pair = draw_pairs(BATCH, generator, shared)
        for phase in getattr(model, "phases_at", lambda step: ("E",))(step):
            outputs = forward(model, *pair, phase)
            outputs.loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        if hasattr(model, "update_target"):
            model.update_target()
        records.append({"step": step + 1, "loss": outputs.loss.item(), "value": outputs.value.item()})
        if (step + 1) % (steps // EVALUATIONS) == 0:
            model.eval()
            records.append(evaluate(model.branches, step + 1, held))
            model.train()
    return model.config, records


@torch.no_grad()
def evaluate(branches, step: int, held) -> dict:
    encoder, projector = branches["online"]
    z_a, z_b = (projector(encoder(view).pooler_output.flatten(1)) for view in held)
    record = {"step": step} | {f"eval/{name}": value for name, value in tracked_geometry(z_a, z_b).items()}
    for name, estimate in track(z_a, z_b, "held-out").items():
        record |= {f"eval/mi/{name}": estimate.value, f"eval/mi/{name}/ceiling": estimate.ceiling}
        record |= {f"eval/mi/{name}/low": estimate.low, f"eval/mi/{name}/high": estimate.high}
    return record


def alarms_of(config, records) -> dict[str, str]:
    """What the alarm says of a run, in the order in which it says it."""
    alarm = Alarm(config, records[-1]["step"], BATCH)
    for record in records:
        alarm(record)
    return alarm.raised
