"""The benchmark: its cases do what they say, its ratios are those of the rounds, and its page says what was found."""

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from benchmark import PARTS, write_images
from benchmarks import report
from benchmarks.cases import CASES, Settings
from benchmarks.terms import PLAIN, embeddings, forms

ROOT = Path(__file__).resolve().parent.parent
QUICK = [
    ("views", "32 pixels"), ("loader", "JPEG of 32 pixels to two views of 32"),
    ("loader", "JPEG of 256 pixels to two views of 224"),
    ("step", "mi_resnet18 at 32 pixels, float32"), ("end to end", "SimCLR from JPEG files, mi_resnet18 at 32 pixels"),
    ("evaluation", "kNN, 50k × 512, k = 200"),
]  # fmt: skip


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Settings:
    folder = tmp_path_factory.mktemp("jpeg") / "images"
    write_images(folder, 16)
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
        start = {"python and torch": 2.0, "build": 1.0, "round": 0.5}
        profile = [["aten::mm", 0.5], ["aten::add", 0.25]]
        return {"rounds": rows, "peak_mb": 5.0, "first": [seconds[0]], "start": start, "profile": profile} | more

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
    assert "| files, views and steps at least as fast as plain loop, torchvision | 6.00 (4.00 to 8.00) | yes |" in text
    assert "Time of ours: aten::mm 50%, aten::add 25%." in text
    assert "of the step itself: ours 2.0, 1.0, 0.5; plain loop, torchvision 2.0, 1.0, 0.5." in text
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


def test_terms_are_judged_beside_the_best_other_and_by_memory(tmp_path):
    def case(seconds, peak_mb):
        return {"rounds": [{"seconds": seconds, "images": 1}], "peak_mb": peak_mb}

    found = evidence()
    cases = {"ours": case(1, 10.0), "plain: nt_xent": case(4, 90.0), "lightly": case(3, 60.0)}
    found["parts"]["terms"] = {"nt_xent, N = 4096, D = 128": cases}
    text = report.write_report(found, tmp_path)
    assert "| nt_xent at N = 4096: 2 × the best other, lightly | 3.00 (3.00 to 3.00) | yes |" in text
    assert "| nt_xent at N = 4096: a seventh of the memory of any other | 1/6.0 | no |" in text


def test_between_its_turns_a_case_and_its_workers_stand_still(tmp_path):
    import psutil
    from benchmark import Case

    args = SimpleNamespace(device="cpu", threads=1, batch=4, count=1, scale=0.01)
    write_images(tmp_path / "images", 16)
    name = "loader|JPEG of 32 pixels to two views of 32|torchvision v1, 2 workers"
    with Case(name, args, str(tmp_path)) as case:
        assert case.missing is None
        assert wait_for(lambda: psutil.Process(case.process.pid).status() == psutil.STATUS_STOPPED)
        case.round()
        assert case.rounds[0]["images"] == 16
        assert wait_for(lambda: psutil.Process(case.process.pid).status() == psutil.STATUS_STOPPED)
    assert wait_for(lambda: not psutil.pid_exists(case.process.pid))


def wait_for(condition, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()
