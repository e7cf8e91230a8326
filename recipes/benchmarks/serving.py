"""The process of a case: what it does when it is told to, in how many seconds and how much memory."""

import json
import math
import os
import resource
import sys
import time
from collections import Counter
from pathlib import Path

SHORTEST = 0.5  # seconds that a round on a GPU should take
_MOST = 6  # operations of a profile


def serve(build, settings) -> None:
    """The process of a case: a round for each line of its input."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer

    def answer(value: dict) -> None:
        print(json.dumps(value), file=answers, flush=True)

    try:
        import psutil
        import torch

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        before, imported = peak_bytes(settings.device, reset=True), time.perf_counter()
        starting = time.time() - psutil.Process().create_time()
        run = build(settings)
        built = time.perf_counter()
        run()
        wait(settings.device)
    except ImportError as error:
        return answer({"missing": f"{error.name or error} is not installed"})
    except Exception as error:
        return answer({"missing": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"})
    done = time.perf_counter()
    answer({"python and torch": starting, "build": built - imported, "round": done - built})
    repeats = 1
    for line in sys.stdin:
        if line.startswith("end"):
            found = {"peak_mb": round((peak_bytes(settings.device) - before) / 1e6, 1)}
            return answer(found | ({"profile": profiled(run, settings.device)} if "profile" in line else {}))
        start, done = time.perf_counter(), Counter()
        for _ in range(repeats):
            done.update(run())
        wait(settings.device)
        seconds = time.perf_counter() - start
        if settings.device == "cuda" and seconds < SHORTEST and repeats == 1:
            repeats = min(200, math.ceil(SHORTEST / seconds))  # from the next round on
        answer({"seconds": seconds} | dict(done))
    return None


def profiled(run, device: str) -> list[tuple[str, float]]:
    """Where the time of one more round goes: the operations that take most, with their shares of all of them."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA if device == "cuda" else ProfilerActivity.CPU]) as seen:
        run()
        wait(device)
    time_of = f"self_{'device' if device == 'cuda' else 'cpu'}_time_total"
    taken = {event.key: getattr(event, time_of) for event in seen.key_averages()}
    whole = sum(taken.values()) or 1
    most = sorted(taken, key=taken.get, reverse=True)[:_MOST]
    return [(name, round(taken[name] / whole, 3)) for name in most if taken[name]]


def wait(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def peak_bytes(device: str, reset: bool = False) -> int:
    """The most memory held, of the GPU or of this process; `reset` counts from here, and gives what is held now."""
    if device == "cuda":
        import torch

        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() if reset else torch.cuda.max_memory_allocated()
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(status["VmRSS" if reset else "VmHWM"].split()[0]) * 1024
    except OSError:  # not Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
