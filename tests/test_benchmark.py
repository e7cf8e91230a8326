"""The benchmark: its cases do what they say, its ratios are those of the rounds, and its page says what was found."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmark import PARTS, write_images
from benchmarks import report
from benchmarks.cases import CASES, Settings
from benchmarks.terms import PLAIN, embeddings, forms

ROOT = Path(__file__).resolve().parent.parent
QUICK = [
    ("views", "32 pixels"), ("loader", "JPEG of 32 pixels to two views"),
    ("step", "mi_resnet18 at 32 pixels, float32"), ("end to end", "SimCLR from JPEG files, mi_resnet18 at 32 pixels"),
    ("evaluation", "kNN, 50k × 512, k = 200"),
]  # fmt: skip


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Settings:
    folder = tmp_path_factory.mktemp("jpeg") / "images"
    write_images(folder, (32,), 10)
    return Settings("cpu", str(folder), batch=4, count=1, scale=0.01)


@pytest.mark.parametrize(("part", "group"), QUICK)
def test_a_round_of_ours_and_of_the_plain_loop_does_something(part, group, settings):
    for name, build in CASES[part, group].items():
        if name.startswith(("ours", "plain loop", "torchvision v1, no")):
            done = build(settings)()
            assert done["images"] >= 1
            assert part != "step" or name != "ours" or done["flops"] > 1e9


@pytest.mark.parametrize("term", PLAIN)
def test_plain_forms_are_the_terms(term):
    a, b = embeddings(40, 12, "cpu")
    of = forms(term, 40, 12)
    expected = of.pop("ours")(a, b)
    assert of
    for form in of.values():
        torch.testing.assert_close(form(a, b).to(expected), expected, rtol=1e-3, atol=1e-4)


def evidence() -> dict:
    """Ours takes 1 and 2 seconds, the other 4 and 16 in the same rounds: 4 and 8 times as fast."""

    def case(*seconds, **more):
        rows = [{"seconds": s, "images": 10, "flops": 3e12, "waiting": s / 4} for s in seconds]
        return {"rounds": rows, "peak_mb": 5.0, "first": [seconds[0]]} | more

    both = {"ours": case(1, 2), "plain loop, torchvision": case(4, 16), "lightly": {"missing": "it is not installed"}}
    return {
        "device": "cpu", "hardware": {"device": "a CPU", "threads": 2, "cpu_cores": 4}, "versions": {"torch": "2"},
        "settings": {"rounds": 2, "batch": 8}, "command": "python recipes/benchmark.py",
        "parts": {
            "step": {"mi_resnet18 at 32 pixels, float32": both},
            "end to end": {"SimCLR from JPEG files, mi_resnet18 at 32 pixels": both},
            "roofline": {"matrix product": {"float32": case(1)}},
        },
    }  # fmt: skip


def test_the_page_has_medians_ranges_goals_and_what_is_missing(tmp_path):
    text = report.write_report(evidence(), tmp_path)
    assert "| plain loop, torchvision | 1.56 (0.625 to 2.5) | 6.00 (4.00 to 8.00) | 5 |" in text
    assert "Not measured: lightly: it is not installed." in text
    assert "| a step at least as fast as plain loop, torchvision | 6.00 (4.00 to 8.00) | yes |" in text
    assert "at most 0.7 of the time of plain loop, torchvision | 0.25 (0.25 to 0.25) | yes |" in text
    assert "2.25 TFLOP/s, 75% of the matrix rate; an epoch of CIFAR-10, 50,000 images, would take 6,667 s" in text
    assert "waiting for data, SimCLR from JPEG files, mi_resnet18 at 32 pixels, ours: 25.0% of the time" in text
    assert (tmp_path / "speed_cpu.png").stat().st_size > 5000


def test_on_a_gpu_the_goals_are_epoch_time_and_waiting(tmp_path):
    found = evidence() | {"device": "cuda"}
    text = report.write_report(found, tmp_path)
    assert "| mi_resnet18 at 32 pixels: under 2% of the time waiting | 25.0% (to 25.0%) | no |" in text
    assert "| an epoch of CIFAR-10 under 3.5 s | 7500.00 s (5000.00 to 10000.00) | no |" in text
    assert (tmp_path / "speed_cuda.md").read_text() == text


def run(*argv) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "recipes" / "benchmark.py", *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True)


def test_an_unknown_part_costs_one_line(tmp_path):
    done = run("--parts", "vews", "--output_dir", tmp_path)
    assert done.returncode == 2
    assert "invalid choice: 'vews' (choose from" in done.stderr.replace('"', "'")
    assert set(PARTS) == {part for part, _ in CASES}


@pytest.mark.slow
def test_processes_take_turns_and_an_interrupted_run_goes_on(tmp_path):
    argv = ["--parts", "roofline", "--rounds", 2, "--threads", 1, "--output_dir", tmp_path, "--scale", 0.01]
    assert run(*argv, "--groups", "copy").returncode == 0
    path = tmp_path / "evidence" / "speed_cpu.json"
    first = json.loads(path.read_text())["parts"]["roofline"]
    assert list(first) == ["copy"]
    done = run(*argv)
    assert "copies:" in done.stdout
    second = json.loads(path.read_text())["parts"]["roofline"]
    assert second["copy"] == first["copy"]  # not measured again
    assert [len(case["rounds"]) for case in second["matrix product"].values()] == [2, 2]
    assert set(second) == {group for part, group in CASES if part == "roofline"}
