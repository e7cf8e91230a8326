"""How fast everything is on this machine, beside torchvision and whatever else is installed, as ratios.

    python recipes/benchmark.py                        # what the CPU does, an hour; `pip install -e '.[bench]'` first
    python recipes/benchmark.py --device cuda          # what a GPU does, with epoch times
    python recipes/benchmark.py --parts views terms --rounds 3

Each case runs in a process of its own, and the cases of a group take turns, so that a busy machine slows all of them:
a ratio is the median over rounds. Between its turns a case and its workers are stopped: nobody fetches ahead in
somebody else's. The first round of each is not counted. Evidence is written after every group to
`evidence/speed_<device>.json` in --output_dir; the same command goes on where it was interrupted, and writes
`speed_<device>.md` and its figure from the evidence alone. The table is printed last.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RESULTS = Path(__file__).resolve().parent.parent / "model_cards" / "results"
PARTS = ("roofline", "views", "loader", "step", "end to end", "evaluation", "terms")
CASES_VERSION = 2  # to be raised with what a case measures: older evidence is set aside
STARTS = 3  # of each case whose first step is timed


def main() -> None:
    args = arguments()
    from benchmarks.cases import CASES, Settings
    from benchmarks.report import write_report
    from benchmarks.serving import serve

    from hf_mi_ssl.files import whole

    if args.case:
        part, group, name = args.case.split("|")
        return serve(CASES[part, group][name], Settings(args.device, args.images, args.batch, args.count, args.scale))
    path = args.output_dir / "evidence" / f"speed_{args.device}.json"
    evidence = read_evidence(path, args)
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder) / "images", max(2 * args.batch, int(2048 * args.scale)))
        for (part, group), cases in CASES.items():
            done = group in evidence["parts"].get(part, {})
            if part not in args.parts or done or not wanted(part, group, args):
                continue
            print(f"{part}: {group} …", file=sys.stderr)
            measured = measure([f"{part}|{group}|{name}" for name in cases], args, folder, part == "end to end")
            evidence["parts"].setdefault(part, {})[group] = dict(zip(cases, measured))
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole(path) as file:
                file.write(json.dumps(evidence, indent=1) + "\n")
    return print(write_report(evidence, args.output_dir))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=f"of: {', '.join(PARTS)}"
    )
    parser.add_argument("--groups", nargs="+", help="only groups whose name contains one of these")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=7, help="of each case; the default is %(default)s")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch, default: all cores")
    parser.add_argument("--batch", type=int, help="images of a step; default: 32 on a CPU, 256 on a GPU")
    parser.add_argument(
        "--count", type=int, help="images whose views make a round; default: 64 on a CPU, 256 on a GPU"
    )
    parser.add_argument("--large", action="store_true", help="on a CPU, also steps that take minutes there")
    parser.add_argument("--output_dir", type=Path, default=RESULTS)
    parser.add_argument("--scale", type=float, default=1.0, help=argparse.SUPPRESS)  # for tests
    parser.add_argument("--case", help=argparse.SUPPRESS)  # serve one, in a process of its own
    parser.add_argument("--images", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.batch = args.batch or (32 if args.device == "cpu" else 256)
    args.count = args.count or (64 if args.device == "cpu" else 256)
    return args


def wanted(part: str, group: str, args) -> bool:
    if args.groups and not any(name in group for name in args.groups):
        return False
    slow = "resnet50" in group or (part == "step" and "bf16" in group)
    return args.device == "cuda" or args.large or not slow


def write_images(root: Path, count: int) -> None:
    """So many JPEG images of 32 pixels, and a quarter of them of 256 for views of 224, where cases look for them."""
    from benchmarks.registry import pictures
    from PIL import Image

    for size in (32, 224):
        folder = root / str(size) / "train" / "any"
        folder.mkdir(parents=True)
        for number, image in enumerate(pictures(count, 32) if size == 32 else pictures(max(2, count // 4), 256)):
            Image.fromarray(image).save(folder / f"{number:05d}.jpg", quality=92)


def read_evidence(path: Path, args) -> dict:
    """What an interrupted run left, if it was made on the same machine with the same settings."""
    import torch

    from hf_mi_ssl.training.records import environment

    hardware, versions = environment(torch.device(args.device), 1)
    hardware["threads"] = args.threads
    for name in ("torchvision", "opencv-python-headless", "albumentationsx", "lightly", "solo-learn"):
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    settings = {
        "rounds": args.rounds,
        "batch": args.batch,
        "count": args.count,
        "scale": args.scale,
        "cases": CASES_VERSION,
    }
    found = json.loads(path.read_text()) if path.exists() else {}
    same = (found.get("hardware"), found.get("versions"), found.get("settings")) == (hardware, versions, settings)
    if found and not same:
        path.replace(path.with_suffix(".before.json"))
    command = f"python recipes/benchmark.py --device {args.device} --rounds {args.rounds} --threads {args.threads}"
    command += f" --batch {args.batch} --count {args.count}"
    fresh = {
        "device": args.device,
        "hardware": hardware,
        "versions": versions,
        "settings": settings,
        "command": command,
        "parts": {},
    }
    return found if same else fresh


# The driver: a process for each case, in turns


def measure(names: list[str], args, folder: str, starts_count: bool) -> list[dict]:
    """For each case {"first", "peak_mb", "rounds": [{"seconds", "images", …}]}, or {"missing": why}."""
    firsts: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(STARTS - 1 if starts_count else 0):
        for name in names:
            with Case(name, args, folder) as case:
                firsts[name].append(case.first)
    cases = [Case(name, args, folder) for name in names]
    try:
        running = [case for case in cases if case.missing is None]
        for _ in range(args.rounds):
            for case in running:
                case.round()
        return [case.close() | {"first": firsts[case.name] + [case.first]} for case in cases]
    finally:
        for case in cases:
            case.__exit__()


class Case:
    """A process that does a round when it is told to; `first` is the time until it has done one, from its start."""

    def __init__(self, name: str, args, folder: str):
        threads = 1 if name.startswith("views|") else args.threads  # one thread each: most do not know of more
        own = ["--device", args.device, "--threads", threads, "--batch", args.batch, "--count", args.count]
        own += ["--scale", args.scale, "--images", f"{folder}/images", "--case", name]
        own_cache = tempfile.mkdtemp(dir=folder)  # empty: a first step includes what is done once
        environment = {"OMP_NUM_THREADS": str(threads), "HF_DATASETS_CACHE": own_cache}
        start = time.perf_counter()
        self.name, self.rounds = name, []
        self.process = subprocess.Popen(
            [sys.executable, __file__, *map(str, own)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | environment | {"NO_ALBUMENTATIONS_UPDATE": "1"}, stderr=subprocess.DEVNULL,
            process_group=0,  # what is stopped ends with this process, as the kernel sees to
        )  # fmt: skip
        self.start = self._read()
        self.first, self.missing = time.perf_counter() - start, self.start.get("missing")
        self._signal(signal.SIGSTOP)

    def _read(self) -> dict:
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"missing": f"it ended with code {self.process.wait()}"}

    def round(self) -> None:
        if self.missing is None:
            self._signal(signal.SIGCONT)
            print("round", file=self.process.stdin, flush=True)
            answer = self._read()
            self._signal(signal.SIGSTOP)
            self.missing = answer.get("missing")
            self.rounds.append(answer)

    def close(self) -> dict:
        if self.missing is not None:
            return {"missing": self.missing}
        self._signal(signal.SIGCONT)
        word = "end, with a profile" if self.name.endswith("|ours") else "end"
        print(word, file=self.process.stdin, flush=True)
        return {"rounds": self.rounds, "start": self.start} | self._read()

    def _signal(self, number: int) -> None:
        """To the process and its workers; on a GPU what it has asked for is done already."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


if __name__ == "__main__":
    from hf_mi_ssl.training import run_downstream

    sys.exit(run_downstream(main))
