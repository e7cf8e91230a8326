"""What terms cost: time and peak memory of forward and backward, beside a plain implementation of the same formula.

    python recipes/benchmark_terms.py                                           # every term, minutes
    python recipes/benchmark_terms.py --terms redundancy --n 256 --d 8192 --output terms.md

Times are medians over repeats in which the forms take turns, so that a busy machine slows all of them; the ratio is
the median over repeats too. Peak memory is that of a fresh process for each form, above what it held before. Plain
forms that need more than 8 GB are skipped.
"""

import argparse
import itertools
import math
import re
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from hf_mi_ssl.mi import MIObjective

TEMPERATURE = 0.2
LIMIT = 8e9  # bytes
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


# The plain forms: the loss as one writes it down, with the matrix of all scores or of all correlations. For terms of
# scores it is M − J: a cross-entropy gives no other.


def scores(a, b, skip_diagonal=False):
    matrix = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / TEMPERATURE
    return matrix.fill_diagonal_(-torch.inf) if skip_diagonal else matrix


def off_diagonal(matrix):
    n = len(matrix)
    return matrix.flatten()[1:].view(n - 1, n + 1)[:, :-1]


def joint(a, b):
    return F.cosine_similarity(a, b).mean() / TEMPERATURE


def exact(a, b):
    return torch.logsumexp(scores(a, b, True), (0, 1)) - math.log(len(a) * (len(a) - 1)) - joint(a, b)


def row_wise(a, b):
    return torch.logsumexp(scores(a, b, True), 1).mean() - math.log(len(a) - 1) - joint(a, b)


def info_nce(a, b):
    return F.cross_entropy(scores(a, b), torch.arange(len(a), device=a.device)) - math.log(len(a))


def nt_xent(a, b):
    n, z = len(a), torch.cat([a, b])
    return F.cross_entropy(scores(z, z, True), torch.arange(2 * n, device=a.device).roll(n)) - math.log(2 * n - 1)


def nt_xent_in_quarters(a, b):
    """Four N × N matrices, diagonals taken out by boolean masks, then put together, as lightly computes it."""
    n = len(a)
    apart = ~torch.eye(n, dtype=torch.bool, device=a.device)
    within_a, within_b = (scores(z, z)[apart].view(n, n - 1) for z in (a, b))
    halves = torch.cat([scores(a, b), within_a], 1), torch.cat([scores(b, a), within_b], 1)
    return F.cross_entropy(torch.cat(halves), torch.arange(n, device=a.device).repeat(2)) - math.log(2 * n - 1)


def second_order(a, b):
    negatives = off_diagonal(scores(a, b))
    return negatives.mean() + negatives.var(correction=0) / 2 - joint(a, b)


def third_order(a, b):
    negatives = off_diagonal(scores(a, b))
    centred = negatives - negatives.mean()
    return negatives.mean() + centred.square().mean() / 2 + (centred**3).mean() / 6 - joint(a, b)


def redundancy(a, b):
    a, b = (F.batch_norm(z, None, None, training=True) for z in (a, b))
    return off_diagonal(a.T @ b / len(a)).square().sum()


def covariance(a, b):
    return sum(off_diagonal(torch.cov(z.T)).square().sum() / z.shape[1] for z in (a, b))


def log_det(a, b):
    covariances = (torch.cov(F.normalize(z.double(), dim=1).T, correction=0) for z in (a, b))
    return -sum(torch.logdet(c + 1e-8 * torch.eye(len(c)).to(c)) for c in covariances) / a.shape[1]


SINGLE = (exact, row_wise, info_nce, second_order, third_order, redundancy, covariance, log_det)
PLAIN = {"nt_xent": [nt_xent, nt_xent_in_quarters]} | {form.__name__: [form] for form in SINGLE}
OF_DIMENSIONS = ("redundancy", "covariance", "log_det")  # plain forms hold D × D matrices, the others N × N


def ours(term, a, b):
    joint = {} if term in OF_DIMENSIONS else {"expected_score": 1.0}
    return -MIObjective("cosine", TEMPERATURE, joint, {term: 1.0})(a, b).value


def forms(term, n, d):
    """{what it is called: function}, ours first, then the plain forms that fit."""
    side = d if term in OF_DIMENSIONS else 2 * n if term == "nt_xent" else n
    matrices = 16 if term == "log_det" else 5  # of float32, at the peak of a plain form
    plain = PLAIN[term] if 4 * matrices * side**2 <= LIMIT else []
    return {"ours": partial(ours, term)} | {form.__name__: form for form in plain}


def embeddings(n, d):
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(n, d, generator=generator)
    b = a + torch.randn(n, d, generator=generator)
    return a.to(DEVICE).requires_grad_(), b.to(DEVICE).requires_grad_()


def seconds(function, a, b):
    a.grad = b.grad = None
    start = time.perf_counter()
    function(a, b).backward()
    a.grad.sum().item()  # waits for the device
    return time.perf_counter() - start


def peak_megabytes(function, n, d):
    """Of forward and backward, above embeddings and libraries, in this process, which should be a fresh one."""
    seconds(function, *embeddings(64, 32))  # what libraries set up once
    a, b = embeddings(n, d)
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        seconds(function, a, b)
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak counts from here
    seconds(function, a, b)
    return resident("VmHWM") - before


def resident(key):
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[key].split()[0]) * 1024 / 1e6


def rows_of(term, n, d, args):
    """A row of the table for each form."""
    candidates, (a, b) = forms(term, n, d), embeddings(n, d)
    times = [{name: seconds(f, a, b) for name, f in candidates.items()} for _ in range(args.repeats + 1)][1:]
    for name in candidates:
        here = [sys.executable, __file__, "--threads", args.threads, "--terms", term, "--n", n, "--d", d]
        peak = subprocess.run([*map(str, here), "--peak", name], capture_output=True, text=True, check=True).stdout
        median = statistics.median(row[name] for row in times) * 1e3
        ratio = statistics.median(row[name] / row["ours"] for row in times)
        yield f"| {term} | {n} | {d} | {name} | {median:.1f} | {ratio:.2f} | {float(peak):.0f} |"
    if len(candidates) == 1:
        yield f"| {term} | {n} | {d} | plain | skipped: more than {LIMIT / 1e9:.0f} GB | | |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--terms", nargs="+", choices=list(PLAIN), default=list(PLAIN))
    parser.add_argument("--n", nargs="+", type=int, help="images; default 256 to 16384, 256 for terms of dimensions")
    parser.add_argument("--d", nargs="+", type=int, help="dimensions; default 128, 2048 and 8192 for terms of them")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, help="write the table to this markdown file as well")
    parser.add_argument("--peak", help=argparse.SUPPRESS)  # a form: print its peak memory, in a process of its own
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.peak:
        term, n, d = args.terms[0], args.n[0], args.d[0]
        print(peak_megabytes(forms(term, n, d)[args.peak], n, d))
        return
    lines = ["| term | N | D | form | ms | × ours | peak MB |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for term in args.terms:
        shapes = ([256], [2048, 8192]) if term in OF_DIMENSIONS else ([256, 1024, 4096, 8192, 16384], [128])
        for n, d in itertools.product(args.n or shapes[0], args.d or shapes[1]):
            print(f"{term}, N = {n}, D = {d} …", file=sys.stderr)
            lines += rows_of(term, n, d, args)
    table = "\n".join(lines)
    if args.output:
        command = " ".join(["python recipes/benchmark_terms.py", *sys.argv[1:]])
        cpu = re.search("model name.*: (.*)", Path("/proc/cpuinfo").read_text())
        hardware = torch.cuda.get_device_name() if DEVICE == "cuda" else f"{cpu[1]}, {args.threads} threads"
        what = f"{hardware}, torch {torch.__version__}, float32, forward and backward: `{command}`."
        args.output.write_text(f"# What terms cost\n\n{what}\n\n{table}\n")
    print(table)


if __name__ == "__main__":
    main()
