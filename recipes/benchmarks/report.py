"""Evidence of `recipes/benchmark.py` as a page and a figure, and what it says of the goals."""

import statistics
from pathlib import Path

TITLES = {
    "roofline": "What the machine can do",
    "views": "Views: decoded images to two views of SimCLR's recipe, normalised float32, one thread each",
    "loader": "Loader: JPEG files to batches of two views; ours decodes before the first, others in each epoch",
    "step": "The step: forward, backward and update of SimCLR",
    "end to end": "End to end: files, views and steps",
    "evaluation": "Evaluation",
    "terms": "Terms: forward and backward",
}
PER_IMAGE = ("views", "loader", "step", "end to end")
EPOCHS = {"mi_resnet18 at 32 pixels": ("CIFAR-10", 50_000), "resnet50 at 224 pixels": ("ImageNet-100", 126_689)}


def middle(values: list[float]) -> tuple[float, float, float]:
    """Median, least and greatest."""
    return statistics.median(values), min(values), max(values)


def ratios(cases: dict, name: str, other: str) -> list[float]:
    """How many times as fast `name` is as `other`, round by round."""
    both = zip(cases[name]["rounds"], cases[other]["rounds"])
    return [(one["images"] / one["seconds"]) / (two["images"] / two["seconds"]) for one, two in both]


def rate_of(evidence: dict, precision: str, key: str = "flops") -> float | None:
    """The best measured rate of matrix products, or of copies."""
    found = evidence["parts"].get("roofline", {})
    case = (
        found.get("matrix product", {}).get(precision) if key == "flops" else found.get("copy", {}).get("float32")
    ) or {}
    return max((row[key] / row["seconds"] for row in case.get("rounds", ())), default=None)


def number(x: float) -> str:
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def group_table(part: str, cases: dict) -> list[str]:
    """A line for each case: rate or time, how many times as fast ours is, memory."""
    measured = {name: case for name, case in cases.items() if "rounds" in case}
    if not measured:
        return [f"Nothing ran. {not_measured(cases)}"]
    unit = "images/s" if part in PER_IMAGE else "ms"
    first = " first step, s |" if part == "end to end" else ""
    lines = [f"| case | {unit}, median (range) | ours is × as fast (range) | peak MB |{first}"]
    lines.append("| --- | --- | --- | --- |" + (" --- |" if first else ""))
    ours = next(iter(measured))
    for name, case in measured.items():
        values = [
            row["images"] / row["seconds"] if unit != "ms" else 1e3 * row["seconds"] / row["images"]
            for row in case["rounds"]
        ]
        m, low, high = middle(values)
        r, least, most = middle(ratios(measured, ours, name))
        times = "1" if name == ours else f"{r:.2f} ({least:.2f} to {most:.2f})"
        cells = [name, f"{number(m)} ({number(low)} to {number(high)})", times, f"{case['peak_mb']:,.0f}"]
        if first:
            m, low, high = middle(case["first"])
            cells.append(f"{m:.1f} ({low:.1f} to {high:.1f})")
        lines.append(f"| {' | '.join(cells)} |")
    if profile := measured.get("ours", {}).get("profile"):
        lines += ["", f"Time of ours: {', '.join(f'{name} {share:.0%}' for name, share in profile)}."]
    if first:
        phases = ((name, case["start"]) for name, case in measured.items() if case.get("start"))
        told = (f"{name} {', '.join(f'{seconds:.1f}' for seconds in start.values())}" for name, start in phases)
        lines += ["", f"First step, s of Python and torch, of building, of the step itself: {'; '.join(told)}."]
    return lines + (["", not_measured(cases)] if len(measured) < len(cases) else [])


def not_measured(cases: dict) -> str:
    absent = "; ".join(f"{name}: {case['missing']}" for name, case in cases.items() if "missing" in case)
    return f"Not measured: {absent}."


def roofline_lines(evidence: dict) -> list[str]:
    lines = []
    for precision in ("float32", "bf16"):
        if rate := rate_of(evidence, precision):
            lines.append(f"- matrix products in {precision}: {rate / 1e12:.3g} TFLOP/s")
    if rate := rate_of(evidence, "", "bytes"):
        lines.append(f"- copies: {rate / 1e9:.3g} GB/s, read and written")
    for group, cases in evidence["parts"].get("step", {}).items():
        name, precision = group.rsplit(", ", 1)
        rounds = cases.get("ours", {}).get("rounds", [])
        if not rounds:
            continue
        achieved = statistics.median(row["flops"] / row["seconds"] for row in rounds)
        rate = statistics.median(row["images"] / row["seconds"] for row in rounds)
        share = f", {achieved / peak:.0%} of the matrix rate" if (peak := rate_of(evidence, precision)) else ""
        data, count = EPOCHS[name]
        lines.append(
            f"- a step of {name} in {precision}: {achieved / 1e12:.3g} TFLOP/s{share}; an epoch of {data}, {count:,} "
            f"images, would take {number(count / rate)} s"
        )
    for name in EPOCHS:
        both = [evidence["parts"].get("step", {}).get(f"{name}, {precision}", {}) for precision in ("bf16", "float32")]
        if all("rounds" in cases.get("ours", {}) for cases in both):
            r, low, high = middle(ratios({str(i): cases["ours"] for i, cases in enumerate(both)}, "0", "1"))
            lines.append(f"- bf16 against float32, a step of {name}: × {r:.2f} ({low:.2f} to {high:.2f})")
    for group, cases in evidence["parts"].get("end to end", {}).items():
        for name, case in cases.items():
            if "rounds" in case:
                share = statistics.median(row["waiting"] / row["seconds"] for row in case["rounds"])
                lines.append(f"- waiting for data, {group}, {name}: {share:.1%} of the time")
    return lines


def goals(evidence: dict) -> list[str]:
    """Each goal, what was measured, and whether it was met."""
    lines = ["| goal | measured | met |", "| --- | --- | --- |"]

    def add(goal: str, part: str, group: str, other: str, least: float, ours: str = "ours") -> None:
        cases = evidence["parts"].get(part, {}).get(group, {})
        if all("rounds" in cases.get(name, {}) for name in (ours, other)):
            r, low, high = middle(ratios(cases, ours, other))
            lines.append(f"| {goal} | {r:.2f} ({low:.2f} to {high:.2f}) | {'yes' if r >= least else 'no'} |")

    small, large = "JPEG of 32 pixels to two views of 32", "JPEG of 256 pixels to two views of 224"
    v1 = "loader and views at 32 pixels: 5 × torchvision v1, 2 workers"
    add(v1, "loader", small, "torchvision v1, 2 workers", 5)
    add("the same: 10 × torchvision v1, no workers", "loader", small, "torchvision v1, no workers", 10)
    for workers in ("2 workers", "no workers"):
        goal = f"loader and views at 224 pixels: at least AlbumentationsX, {workers}"
        add(goal, "loader", large, f"AlbumentationsX, {workers}", 1)
    add("views at 224 pixels: at least AlbumentationsX", "views", "224 pixels", "AlbumentationsX", 1)
    add("views at 224 pixels: 5.7 × torchvision v1", "views", "224 pixels", "torchvision v1", 5.7)
    whole = "SimCLR from JPEG files, mi_resnet18 at 32 pixels"
    for peer in ("plain loop, torchvision", "lightly", "solo-learn's loss"):
        add(f"a step at least as fast as {peer}", "step", "mi_resnet18 at 32 pixels, float32", peer, 1)
        add(f"files, views and steps at least as fast as {peer}", "end to end", whole, peer, 1)
    probe = "plain loop: 1 learning rate, 30 epochs of a DataLoader"
    ours = "ours: 6 learning rates, chosen and fitted again"
    goal = "all 6 learning rates of the probe in less than one plain loop"
    add(goal, "evaluation", "linear probe, 50k × 512", probe, 1, ours)
    for name in ("nt_xent", "exact", "row_wise"):
        group = f"{name}, N = 4096, D = 128"
        cases = evidence["parts"].get("terms", {}).get(group, {})
        others = {other: case for other, case in cases.items() if other != "ours" and "rounds" in case}
        if "rounds" in cases.get("ours", {}) and others:
            best = max(others, key=lambda other: -middle(ratios(cases, "ours", other))[0])
            add(f"{name} at N = 4096: 2 × the best other, {best}", "terms", group, best, 2)
            least = min(case["peak_mb"] for case in others.values()) / cases["ours"]["peak_mb"]
            met = "yes" if least >= 7 else "no"
            lines.append(f"| {name} at N = 4096: a seventh of the memory of any other | 1/{least:.1f} | {met} |")
    for name in ("redundancy", "covariance", "log_det"):
        add(f"{name} at D = 8192: 20 × the plain form", "terms", f"{name}, N = 256, D = 8192", f"plain: {name}", 20)
    for group, cases in evidence["parts"].get("end to end", {}).items():
        name = group.removeprefix("SimCLR from JPEG files, ")
        if evidence["device"] == "cuda" and "rounds" in cases.get("ours", {}):
            rounds = cases["ours"]["rounds"]
            waits = [row["waiting"] / row["seconds"] for row in rounds]
            most = 0.02 if name.startswith("mi_") else 0.05
            measured, met = f"{statistics.median(waits):.1%} (to {max(waits):.1%})", statistics.median(waits) < most
            lines.append(f"| {name}: under {most:.0%} of the time waiting | {measured} | {'yes' if met else 'no'} |")
            if name.startswith("mi_"):
                epoch, low, high = middle([50_000 * row["seconds"] / row["images"] for row in rounds])
                measured, met = f"{epoch:.2f} s ({low:.2f} to {high:.2f})", epoch < 3.5
                lines.append(f"| an epoch of CIFAR-10 under 3.5 s | {measured} | {'yes' if met else 'no'} |")
        for name in list(cases)[1:]:
            if all("rounds" in cases[key] for key in ("ours", name)):
                share = [a / b for a, b in zip(cases["ours"]["first"], cases[name]["first"])]
                r, low, high = middle(share)
                goal = f"first step after the start: at most 0.7 of the time of {name}"
                lines.append(f"| {goal} | {r:.2f} ({low:.2f} to {high:.2f}) | {'yes' if r <= 0.7 else 'no'} |")
    return lines if len(lines) > 2 else ["None of the goals' cases was measured."]


def page(evidence: dict) -> str:
    device, hardware = evidence["hardware"]["device"], evidence["hardware"]
    versions = ", ".join(f"{name} {version}" for name, version in evidence["versions"].items())
    settings = evidence["settings"]
    lines = [
        f"# Speed on {device}",
        "",
        f"{device}, {hardware['threads']} threads of {hardware['cpu_cores']} cores; {versions}; "
        f"{settings['rounds']} rounds in which the cases of a group take turns, each in a process of its own, batches "
        f"of {settings['batch']}. On a machine that others use as well the ratios are fair and the rates are not. "
        f"`{evidence['command']}` made this page, from `evidence/speed_{evidence['device']}.json`.",
        "",
        "## Goals",
        "",
        *goals(evidence),
        "",
        f"![how many times as fast ours is](speed_{evidence['device']}.png)",
    ]
    if roofline := roofline_lines(evidence):
        lines += ["", "## Against what the machine can do", "", *roofline]
    for part, title in TITLES.items():
        for number_, (group, cases) in enumerate(evidence["parts"].get(part, {}).items()):
            if part != "roofline":
                lines += ([] if number_ else ["", f"## {title}"]) + ["", f"### {group}", "", *group_table(part, cases)]
    return "\n".join(lines) + "\n"


def draw(evidence: dict, path: Path) -> None:
    """How many times as fast ours is as each other case, medians and ranges on a logarithmic axis."""
    from matplotlib import colormaps

    from hf_mi_ssl.evaluation.figures import new_figure

    bars = []
    for part in ("views", "loader", "step", "end to end", "evaluation", "terms"):
        for group, cases in evidence["parts"].get(part, {}).items():
            measured = [name for name in cases if "rounds" in cases[name]]
            bars += [(f"{group}: {name}", part, middle(ratios(cases, measured[0], name))) for name in measured[1:]]
    if not bars:
        return
    figure = new_figure(9, 0.6 + 0.24 * len(bars))
    axes = figure.subplots()
    parts = list(dict.fromkeys(part for _, part, _ in bars))
    colours = dict(zip(parts, colormaps["cividis"]([i / max(1, len(parts)) for i in range(len(parts))])))
    for y, (_, part, (m, low, high)) in enumerate(bars):
        axes.errorbar(m, y, xerr=[[m - low], [high - m]], fmt="o", color=colours[part], markersize=4, capsize=2)
    for part in parts:
        axes.plot([], [], "o", color=colours[part], label=part)
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set(
        xscale="log",
        xlabel="ours is so many times as fast (median and range over rounds)",
        ylim=(len(bars) - 0.5, -0.5),
    )
    axes.set_yticks(range(len(bars)), [label for label, *_ in bars], fontsize=7)
    axes.legend(fontsize=7, loc="upper right")
    figure.savefig(path)


def write_report(evidence: dict, output_dir: Path) -> str:
    """Write page and figure; returns the page."""
    name = f"speed_{evidence['device']}"
    text = page(evidence)
    draw(evidence, output_dir / f"{name}.png")
    (output_dir / f"{name}.md").write_text(text)
    return text
