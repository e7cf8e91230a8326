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


def serve(build, settings) -> None:
    """The process of a case: a round for each line of its input."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer

    def answer(value: dict) -> None:
        print(json.dumps(value), file=answers, flush=True)

    try:
        import torch

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        run = build(settings)
        before = peak_bytes(settings.device, reset=True)
        run()
        wait(settings.device)
    except ImportError as error:
        return answer({"missing": f"{error.name or error} is not installed"})
    except Exception as error:
        return answer({"missing": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"})
    answer({})
    repeats = 1
    for line in sys.stdin:
        if line.strip() == "end":
            return answer({"peak_mb": round((peak_bytes(settings.device) - before) / 1e6, 1)})
        start, done = time.perf_counter(), Counter()
        for _ in range(repeats):
            done.update(run())
        wait(settings.device)
        seconds = time.perf_counter() - start
        if settings.device == "cuda" and seconds < SHORTEST and repeats == 1:
            repeats = min(200, math.ceil(SHORTEST / seconds))  # from the next round on
        answer({"seconds": seconds} | dict(done))
    return None


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
