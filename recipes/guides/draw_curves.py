"""The figures of reading_curves.md, from tiny runs on synthetic images.

    python -m recipes.guides.draw_curves    # in a checkout; a minute

What is drawn is the log of real runs, small and short; its numbers say nothing about images.
"""

from pathlib import Path

from hf_mi_ssl.evaluation.figures import COLOURS, draw_estimates, legend_of_estimates, new_figure
from hf_mi_ssl.mi.bounds import uniform_sphere_dv
from tests.tiny_runs import alarms_of, tiny_run

RUNS = {
    # name: (title, the run)
    "healthy": ("jmi: MI grows, the rank stays", {"method": "jmi"}),
    "collapse": (
        "simsiam without its predictor and the last batch norm: complete collapse",
        {"method": "simsiam", "predictor_hidden_size": None, "projector_output_norm": False},
    ),
    "dimensional": (
        "vicreg with its variance alone: dimensional collapse",
        {"method": "vicreg", "marginal": {"variance": 25.0}},
    ),
    "saturation": ("jmi at τ = 1: the critic's ceiling", {"method": "jmi", "temperature": 1.0, "steps": 480}),
    "stagnation": ("jmi on views that share nothing: stagnation", {"method": "jmi", "shared": False}),
}


def draw(name: str, directory: Path) -> dict[str, str]:
    """One figure: objective, held-out MI with its ceiling, ranks, spread. Returns the alarms of the run."""
    title, run = RUNS[name]
    config, records = tiny_run(seed=0, **run)
    steps = [record for record in records if "loss" in record]
    evaluations = [record for record in records if "loss" not in record]
    at = [record["step"] for record in evaluations]
    figure = new_figure(9.6, 2.5)
    objective, mi, rank, spread = figure.subplots(1, 4)
    objective.plot([r["step"] for r in steps], [r["value"] for r in steps], color=COLOURS[0], linewidth=1)
    if config.kind == "bound":
        ceiling = uniform_sphere_dv(config.projection_size, config.temperature)
        objective.axhline(ceiling, color=COLOURS[0], linestyle="--", linewidth=1)
    objective.set_title("J − M; its ceiling dashed", fontsize=8)
    names = ("cos_dv", "cos_dv_calibrated")
    draw_estimates(mi, evaluations, "eval/mi/", names)
    mi.set_title("held-out MI of z, nats", fontsize=8)
    mi.set_ylim(top=9.5)
    mi.legend(handles=legend_of_estimates(names)[:2], frameon=False, fontsize=6, loc="upper right")
    for i, measure in enumerate(("rankme", "effective_rank")):
        curve = [r[f"eval/rank/{measure}"] for r in evaluations]
        rank.plot(at, curve, "-o", markersize=3, color=COLOURS[i], label=measure)
    rank.set_title(f"rank of z, of {config.projection_size}", fontsize=8)
    rank.set_ylim(0.9, config.projection_size + 0.5)
    rank.legend(frameon=False, fontsize=7)
    spread.plot(at, [r["eval/collapse/std"] for r in evaluations], "-o", markersize=3, color=COLOURS[0])
    spread.set_title("√D · std of z/‖z‖", fontsize=8)
    spread.set_ylim(0, 1.1)
    for axis in (objective, mi, rank, spread):
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
        axis.set_xlabel("step", fontsize=8)
    figure.suptitle(title, fontsize=10)
    figure.savefig(directory / f"{name}.png", dpi=90)
    return alarms_of(config, records)


if __name__ == "__main__":
    for name in RUNS:
        for kind, message in draw(name, Path(__file__).parent / "curves").items():
            print(f"{name}: {kind}: {message}")
