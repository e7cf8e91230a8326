"""What an experiment concludes: claims with intervals, verdicts that follow from them, a page, a figure, the evidence.

A claim is a number that ought to lie above a threshold, both fixed before the runs. With its 95 % interval (over
seeds, by Student's t) it *held* if the interval lies above the threshold, *did not hold* if it lies below, and
otherwise the runs *cannot tell*. Equivalence turns it around: |difference| has to stay below a margin.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

HELD, NOT_HELD, CANNOT_TELL = "held", "did not hold", "cannot tell"
SOURCES = {
    "paper": "the paper",
    "extension": "extension of the paper's claim",  # to what the paper did not try
    "literature": "the literature",
    "ours": "our derivation",
}
DIGITS = 3


@dataclass(frozen=True)
class Interval:
    """A mean over n replicates with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int

    def __add__(self, by: float) -> "Interval":
        return Interval(self.value + by, self.low + by, self.high + by, self.n)

    def __neg__(self) -> "Interval":
        return Interval(-self.value, -self.high, -self.low, self.n)

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "–"
        if math.isinf(self.low) or math.isinf(self.high):
            return f"{self.value:.{DIGITS}f}"
        digits = max(0, DIGITS - 1 - math.floor(math.log10(max(abs(self.value), abs(self.high - self.low), 1e-5))))
        digits = min(digits, DIGITS) if abs(self.value) > 0.02 or self.value == 0 else min(digits, DIGITS + 2)
        return f"{self.value:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def mean_interval(
    values: Sequence[float | None] | Mapping[int, float | None], least: float = -math.inf, most: float = math.inf
) -> Interval:
    """mean ± t_{n−1} s/√n of the replicates, by seed or not, that are numbers; without end for fewer than two, and
    never beyond what such a number can be, `least` and `most`, which Student's t does not know."""
    from scipy.stats import t

    values = values.values() if isinstance(values, Mapping) else values
    x = np.array([value for value in values if value is not None and math.isfinite(value)], dtype=float)
    if len(x) < 2:
        return Interval(float(x[0]) if len(x) else math.nan, -math.inf, math.inf, len(x))
    half = float(t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x)))
    return Interval(float(x.mean()), max(least, float(x.mean()) - half), min(most, float(x.mean()) + half), len(x))


def share_interval(hits: Sequence[int], totals: Sequence[int]) -> Interval:
    """A share over replicates: the wider of Student's t over their shares and Wilson's interval of all.

    Replicates that agree exactly leave Student's t without width, and trials within one may depend on each other.
    """
    from hf_mi_ssl.evaluation import accuracy_interval

    if not sum(totals):
        return Interval(math.nan, 0.0, 1.0, 0)
    student = mean_interval([hit / total for hit, total in zip(hits, totals) if total])
    low, high = accuracy_interval(sum(hits), sum(totals))
    return Interval(
        sum(hits) / sum(totals), max(0.0, min(low, student.low)), min(1.0, max(high, student.high)), len(hits)
    )


@dataclass(frozen=True)
class Claim:
    """What is claimed, by whom, and the number that decides: it has to be above `threshold`, or, as an equivalence,
    between −`threshold` and `threshold`. The report's verdict is that of its `primary` claims."""

    text: str
    source: str
    found: Interval
    threshold: float
    equivalence: bool = False
    primary: bool = False
    cited: str = ""  # the arXiv id, of the literature

    @property
    def verdict(self) -> str:
        low, high, least = self.found.low, self.found.high, self.threshold
        if math.isnan(self.found.value) or math.isinf(low) or math.isinf(high):
            return CANNOT_TELL
        if self.equivalence:
            inside, outside = -least < low and high < least, high < -least or low > least
        else:
            inside, outside = low > least, high <= least
        return HELD if inside else NOT_HELD if outside else CANNOT_TELL

    @property
    def detectable(self) -> float:
        """The distance from the threshold that these runs could have told: the longer side of the interval."""
        return max(self.found.high - self.found.value, self.found.value - self.found.low)


def paired(first: Mapping[int, float | None], second: Mapping[int, float | None]) -> Interval:
    """The mean difference first − second over the seeds that both have."""
    both = sorted(set(first) & set(second))
    return mean_interval([_minus(first[seed], second[seed]) for seed in both])


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def claim(
    source: str,
    text: str,
    found: Interval,
    above: float = 0,
    *,
    within: float | None = None,
    primary: bool = False,
    cited: str = "",
) -> Claim:
    """Of one of `SOURCES`: `found` is above a threshold or, as an equivalence, within a margin of nothing."""
    return Claim(text, source, found, above if within is None else within, within is not None, primary, cited)


paper, extension, literature, ours = (partial(claim, source) for source in SOURCES)


@dataclass
class Report:
    """A page. `draw` makes its figure at a path; `body` is markdown between the claims and the evidence."""

    name: str
    question: str
    protocol: str
    claims: list[Claim]
    body: str
    draw: Any = None

    def verdict(self) -> tuple[str, float]:
        """Of the primary claims: all held; any did not; else unknown, with the largest effect that could be told."""
        primary = [claim for claim in self.claims if claim.primary]
        verdicts = [claim.verdict for claim in primary]
        if NOT_HELD in verdicts:
            return NOT_HELD, math.nan
        if primary and all(verdict == HELD for verdict in verdicts):
            return HELD, math.nan
        unknown = [claim.detectable for claim in primary if claim.verdict == CANNOT_TELL]
        return CANNOT_TELL, max(unknown, default=math.inf)

    def last_line(self) -> str:
        verdict, effect = self.verdict()
        told = f"an effect of {effect:.2g}" if math.isfinite(effect) else "none: too few replicates"
        return f"Verdict: {verdict}" + (f" (these runs could have told {told})" if verdict == CANNOT_TELL else "")


def claims_table(claims: Sequence[Claim]) -> str:
    lines = [
        ["claim", "of", "found (95 %)", "has to be", "n", "verdict"],
        ["---", "---", "---:", "---", "---:", "---"],
    ]
    for claim in claims:
        has_to = f"within ±{claim.threshold:g}" if claim.equivalence else f"above {claim.threshold:g}"
        verdict = claim.verdict
        if verdict == CANNOT_TELL and math.isfinite(claim.detectable):
            verdict += f" (±{claim.detectable:.2g} could be told)"
        text = f"{claim.text}{' **(primary)**' if claim.primary else ''}"
        of = SOURCES[claim.source] + (f" (arXiv {claim.cited})" if claim.cited else "")
        lines.append([text, of, str(claim.found), has_to, str(claim.found.n), verdict])
    return markdown(lines)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A markdown table, first column left, others right."""
    return markdown([header, ["---", *["---:"] * (len(header) - 1)], *rows])


def write_report(report: Report, results: Path, command: str, done: dict, counts: tuple[int, int], tiny: bool) -> Path:
    """The page, the figure and the evidence; `counts` are runs done and runs in all: what is missing is said."""
    (results / "evidence").mkdir(parents=True, exist_ok=True)
    evidence = {name: {"arguments": arguments, "result": found} for name, (arguments, found) in sorted(done.items())}
    (results / "evidence" / f"{report.name}.json").write_text(
        "{\n"
        + ",\n".join(f"{json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in evidence.items())
        + "\n}\n"
    )
    parts = [
        f"# {report.name.replace('_', ' ')}",
        report.question,
        f"Protocol, fixed before the runs but for what is said to be added or changed: {report.protocol}",
    ]
    if tiny:
        parts.append("**A tiny run, to try the code: its numbers say nothing.**")
    if counts[0] < counts[1]:
        missing = counts[1] - counts[0]
        parts.append(f"**{missing} of {counts[1]} runs are not done; `{command}` goes on from here.**")
    parts += ["## Claims", claims_table(report.claims)]
    if report.draw is not None and done:
        figure = report.draw()
        figure.savefig(results / f"{report.name}.png", dpi=90)
        parts += [f"![{report.name}]({report.name}.png)"]
    parts += [report.body, "## How it was made"]
    minutes = sum(found.get("seconds") or 0 for _, found in done.values()) / 60
    parts.append(
        f"`{command}`; {len(done)} runs of its own, {minutes:.1f} CPU minutes in all, their numbers in "
        f"[evidence/{report.name}.json](evidence/{report.name}.json). Intervals are 95 %, of Student's t over seeds "
        "(of shares the wider of it and Wilson's), each for itself: of twenty claims one may be wrong by chance, of "
        "those that got more seeds because five could not tell somewhat more. MI in nats, on held-out pairs; cos-DV, "
        "InfoNCE and JSD by the cosine critic at τ = 0.2, whatever a row trains with, calibrated with its scale "
        "fitted."
    )
    path = results / f"{report.name}.md"
    path.write_text("\n\n".join(part.strip() for part in parts if part) + f"\n\n{report.last_line()}\n")
    return path
