"""What surrogates of the marginal term miss, for a person: tables in markdown, and a figure by temperature."""

from itertools import groupby
from os import PathLike

from .estimate_tables import markdown_table
from .figures import new_figure
from .surrogates import LARGEST_SHARE, LARGEST_SPREAD, Nats, SurrogateRow

_ORDERS = {"zeroth_order": "order 0", "first_order": "order 1", "second_order": "order 2", "third_order": "order 3"}
_PARTS = {
    "non_gaussianity": ("M̂ − M_G: non-Gaussianity", "#D55E00", "-", "o"),
    "truncation": ("M_G − M₂: truncation", "#0072B2", "-", "s"),
    "isserlis": ("(V_P^G − V_P)/2τ²: Isserlis", "#009E73", "--", "^"),
    "wrong_measure": ("(V_P − V_Q)/2τ²: wrong measure", "#CC79A7", "--", "v"),
    "coloured_target": ("M₂ − M_predictor: coloured target", "#E69F00", ":", "D"),
}
_NOTE = f"""In nats, ± standard error; orders are those of the cumulant ladder. Order 2 is valid where λ_max(Σ)/τ is
below {LARGEST_SPREAD}, and its skewness and measured error are below {LARGEST_SHARE:.0%} of κ₂/2τ². Its error is
non-Gaussianity + truncation; Isserlis and wrong measure are what the variance of positive pairs would add to it.
Gradients are those with respect to the embeddings, beside that of M̂: cosine, ratio of norms.
"""
_MOST = 100.0  # shares beyond are not drawn
Own = dict[str, float]  # a row's own temperature in its own coordinates


def surrogate_table(rows: list[SurrogateRow], own: Own) -> str:
    """For each coordinates: M̂ and M̂ − M of each surrogate, the parts of the error, and the verdict, by temperature."""
    text = []
    for coordinates, found in _by_coordinates(rows):
        names = {name: _ORDERS.get(name, name) for name in found[0].errors}
        parts = {name: _PARTS[name][0].partition(": ")[2] for name in found[0].parts}
        lines = [["τ", "M̂", *(f"M̂ − {name}" for name in names.values())]]
        split = [["τ", "error of order 2", *parts.values(), "order 2 of M̂", "gradients: cosine, ratio", "verdict"]]
        for row in found:
            tau = f"{row.temperature:.4g}{' (own)' if row.temperature == own.get(coordinates) else ''}"
            lines.append([tau, _with_error(row.exact), *(_signed(row.errors[name]) for name in names)])
            error, share = row.errors["second_order"], row.values["second_order"].value / row.exact.value
            gradients = row.gradients.items()
            agree = "; ".join(f"{_ORDERS.get(name, name)} {cos:.2f}, {ratio:.2g}" for name, (cos, ratio) in gradients)
            verdict = f"unreliable: {'; '.join(row.reasons)}" if row.reasons else "valid"
            cells = [_with_error(error), *(_signed(row.parts[name]) for name in parts), f"{share:.0%}", agree, verdict]
            split.append([tau, *cells])
        for table in (lines, split):
            table.insert(1, ["---", *["---:"] * (len(table[0]) - 1)])
        head = f"{coordinates}: {found[0].n:,} pairs, {found[0].dimension} dimensions"
        text.append(f"### {head}\n\n{markdown_table(lines)}\n\n{markdown_table(split)}\n")
    return "\n".join([*text, _NOTE])


def surrogate_figure(rows: list[SurrogateRow], own: Own, path: str | PathLike, title: str = "") -> None:
    """A panel for each coordinates: the error of order 2 and its parts as shares of κ₂/2τ², by temperature."""
    panels = _by_coordinates(rows)
    figure = new_figure(width=3.6 * len(panels) + 1.2, height=5.4)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (coordinates, found) in zip(axes, panels):
        axis.plot(*_shares(found, "errors", "second_order"), color="black", linewidth=3, label="M̂ − M₂: error")
        for name, (label, colour, style, marker) in _PARTS.items():
            if name in found[0].parts:
                curve = _shares(found, "parts", name)
                axis.plot(*curve, color=colour, linestyle=style, marker=marker, markersize=5, label=label)
        edge = found[0].temperature * found[0].spread / LARGEST_SPREAD
        axis.axvspan(min(found[0].temperature, edge), edge, color="grey", alpha=0.15, linewidth=0)
        axis.axhspan(-LARGEST_SHARE, LARGEST_SHARE, color="#F0E442", alpha=0.3, linewidth=0)
        if coordinates in own:
            axis.axvline(own[coordinates], color="black", linestyle="-.", linewidth=1, label="the row's own τ")
        axis.set(title=f"{coordinates}, {found[0].dimension} dimensions", xlabel="temperature τ", xscale="log")
        axis.grid(alpha=0.3)
    axes[0].set_yscale("symlog", linthresh=LARGEST_SHARE)
    axes[0].yaxis.set_major_formatter(lambda share, _: f"{share:+,.0%}" if share else "0")
    axes[0].set(ylabel="share of order 2's variance term κ₂/2τ²", ylim=(-_MOST, _MOST))
    labels = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels())}
    figure.legend(labels.values(), labels, loc="outside lower center", ncols=min(len(panels), 3), frameon=False)
    marks = f"grey: λ_max(Σ)/τ ≥ {LARGEST_SPREAD}, order 2 is unreliable; yellow: within {LARGEST_SHARE:.0%}"
    figure.suptitle(f"{title}\n{marks}; parts are left out where M_G is infinite", fontsize=10)
    figure.savefig(path)


def _by_coordinates(rows: list[SurrogateRow]) -> list[tuple[str, list[SurrogateRow]]]:
    return [(name, list(found)) for name, found in groupby(rows, key=lambda row: row.coordinates)]


def _shares(rows: list[SurrogateRow], table: str, name: str) -> tuple[list[float], list[float]]:
    terms = [row.values["second_order"].value - row.values["first_order"].value for row in rows]
    shares = [getattr(row, table)[name].value / term for row, term in zip(rows, terms)]
    return [row.temperature for row in rows], shares


def _signed(nats: Nats) -> str:
    return f"{nats.value:+.3g}".replace("inf", "∞")


def _with_error(nats: Nats) -> str:
    return f"{_signed(nats)} ± {nats.standard_error:.1g}"
