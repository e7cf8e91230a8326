"""Runs as their files tell of them, for cards."""

import json
from pathlib import Path

ROOT = Path(__file__).parents[1]
CARDS = ROOT / "model_cards"
TEMPLATE = CARDS / "pretraining_card.md"
EXAMPLES = sorted(path.parent for path in CARDS.glob("examples/*/results.json"))
FORMULAS = {
    "cosine": "T(a, b) = ⟨a, b⟩ / ‖a‖‖b‖",
    "expected_score": "J = mean_i T(a_i, b_i)",
    "exact": "M = log mean e^T",
}


def evaluation(name, value, encoder="trained", **facts):
    branch = "online" if encoder == "trained" else None
    rest = {"low": value - 0.01, "high": value + 0.01, "n": 1024, "split": "test", "protocol": "k=20, cosine"}
    return {"name": name, "value": value, "encoder": encoder, "branch": branch} | rest | facts


RESULTS = {
    "method": "jmi",
    "encoder": "resnet_tiny",
    "dataset": "shapes",
    "seed": 0,
    "steps": 640,
    "images_seen": 163840,
    "hardware": {"device": "cpu", "cores": 2},
    "timing": {"seconds": 171.5},
    "versions": {"transformers": "5.23.0"},
    "evaluations": [
        evaluation("knn_top1", 0.31, "pixels"),
        evaluation("knn_top1", 0.42, "random"),
        evaluation("knn_top1", 0.87),
        evaluation("linear_top1", 0.91),
        evaluation("rankme", 57.3),
        evaluation("mi/cos_dv", 3.21, ceiling=6.93),
        evaluation("mi_h/smile", 6.56, ceiling=6.93, kind="plugin"),
    ],
    "row": {"formulas": FORMULAS, "kind": "bound", "arxiv": "2002.05709", "relations": None},
    "alarms": [],
}
ARGUMENTS = {"method": "jmi", "learning_rate": 0.001, "output_dir": "/home/somebody/run", "data_dir": None,
             "imported": ["/home/somebody/my_method.py"]}  # fmt: skip
ROW = {
    "method": "jmi",
    "critic": "cosine",
    "temperature": 0.2,
    "joint": {"expected_score": 1.0},
    "marginal": {"exact": 1.0},
}


def write_run(
    directory, results=RESULTS, arguments=ARGUMENTS, row=ROW, model_type="resnet", figures=("mi_curve.png",)
):
    files = {"results.json": results, "training_args.json": arguments, "pretraining/config.json": row}
    files["config.json"] = {"model_type": model_type}
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(json.dumps(content), encoding="utf-8")
    for name in figures:
        (directory / "figures").mkdir(exist_ok=True)
        (directory / "figures" / name).write_bytes(b"")
    return directory


def table(card, heading):
    """The cells of the first table under a heading, by line."""
    lines = iter(card.split(f"## {heading}\n", 1)[1].splitlines())
    rows = []
    for line in lines:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
        elif rows:
            break
    return rows[0], rows[2:]


def downstream(directory, name="finetune.json", value=0.93, **facts):
    directory.mkdir(exist_ok=True)
    rows = [evaluation("finetune_top1_10pct", value, **facts)]
    (directory / name).write_text(json.dumps({"dataset": "uoft-cs/cifar10", "seed": 3, "evaluations": rows}))
    return directory / name
