"""THE TABLE: one row of data per method. `python -m hf_mi_ssl.methods` prints it, `… simclr` prints one in full.

A row gives the columns of `SDMIConfig` or `JMIConfig` in which the method differs from their defaults. Weights are
{term: weight}, so a row is JSON, an ablation is a deleted key, and every logged curve has its term's name.
"""

import argparse
import inspect
import sys
from dataclasses import dataclass, field

from .errors import UserError, unknown
from .mi import CRITICS, JOINT_TERMS, MARGINAL_TERMS


@dataclass(frozen=True)
class Method:
    """A row. `kind` says whether J − M is a lower bound on mutual information; a surrogate's value is not MI.

    `arxiv` names the paper that the method comes from; `relations` says what it equals or how it relates to the rest.
    """

    name: str
    paradigm: str
    arxiv: str
    kind: str
    relations: str
    columns: dict = field(default_factory=dict)

    @property
    def formula(self) -> str:
        """The objective in one line, from the names and weights of its terms."""
        joint = " + ".join(_weighted(name, weight) for name, weight in self.columns["joint"].items())
        marginal = " − ".join(_weighted(name, weight) for name, weight in self.columns["marginal"].items())
        if marginal:
            return f"{joint} − {marginal}"
        return f"{joint}, the predictor in place of M" if "predictor_hidden_size" in self.columns else joint


def _weighted(name: str, weight: float) -> str:
    return name if weight == 1 else f"{weight:g} {name}"


METHODS: dict[str, Method] = {}


def _row(paradigm: str, name: str, arxiv: str, kind: str, relations: str, columns: dict) -> None:
    if kind not in ("bound", "surrogate"):
        raise ValueError(f"method {name!r} must be a 'bound' or a 'surrogate', not {kind!r}")
    METHODS[name] = Method(name, paradigm, arxiv, kind, relations, columns)


def sdmi(name: str, arxiv: str, kind: str, relations: str, **columns) -> None:
    """Add a row of self-distillation: two branches, a stop-gradient, the target moved in an M-step."""
    _row("sdmi", name, arxiv, kind, relations, columns)


def jmi(name: str, arxiv: str, kind: str, relations: str, **columns) -> None:
    """Add a row of joint maximisation: one shared branch, an explicit marginal term."""
    _row("jmi", name, arxiv, kind, relations, columns)


sdmi(
    "sdmi",
    "2510.01345",
    kind="bound",
    relations="the prototype: jmi with two encoders that take turns",
    critic="cosine",
    temperature=0.2,
    joint={"expected_score": 1.0},
    marginal={"exact": 1.0},
    target="gradient",
    projector_output_norm=True,
)
sdmi(
    "sdmi_ema",
    "2510.01345",
    kind="bound",
    relations="sdmi whose target follows the online encoder instead of taking its own steps",
    critic="cosine",
    temperature=0.2,
    joint={"expected_score": 1.0},
    marginal={"exact": 1.0},
    target="ema",
    target_momentum=0.99,
    symmetric=True,
    projector_output_norm=True,
)
sdmi(
    "simsiam",
    "2011.10566",
    kind="surrogate",
    relations="without its predictor it is half of jmi without its marginal term, and collapses",
    critic="cosine",
    temperature=1.0,
    joint={"expected_score": 1.0},
    marginal={},
    target="reset",
    symmetric=True,
    projector_num_layers=3,
    projector_hidden_size=2048,
    projection_size=2048,
    projector_output_norm=True,
    predictor_hidden_size=512,
)
jmi(
    "jmi",
    "2510.01345",
    kind="bound",
    relations="the prototype: the Donsker–Varadhan bound of a shared encoder",
    critic="cosine",
    temperature=0.2,
    joint={"expected_score": 1.0},
    marginal={"exact": 1.0},
    projector_output_norm=True,
)
jmi(
    "jmi_taylor",
    "2510.01345",
    kind="surrogate",
    relations="jmi to second order in 1/τ; may exceed the mutual information",
    critic="cosine",
    temperature=0.5,
    joint={"expected_score": 1.0},
    marginal={"second_order": 1.0},
    projector_output_norm=True,
)
jmi(
    "simclr",
    "2002.05709",
    kind="bound",
    relations="equals −NT-Xent + log(2N − 1); InfoNCE with the other embeddings of both views as negatives",
    critic="cosine",
    temperature=0.5,
    joint={"expected_score": 1.0},
    marginal={"nt_xent": 1.0},
    projector_hidden_size=2048,
)


def get_method(name: str) -> Method:
    """The row of that name.

    Raises:
        UserError: if there is none; the text gives the nearest name.
    """
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]


def formula_of(term: object) -> str:
    """The first line of a term's or critic's docstring, which is its formula."""
    return inspect.getdoc(term).splitlines()[0]


def formulas(critic: str, joint: dict, marginal: dict) -> dict[str, str]:
    """The formula of the critic and of each of the terms, by name."""
    sources = {critic: CRITICS[critic]}
    sources |= {name: JOINT_TERMS[name] for name in joint}
    sources |= {name: MARGINAL_TERMS[name] for name in marginal}
    return {name: formula_of(source) for name, source in sources.items()}


def kind_of(method: str, joint: dict, marginal: dict, predictor: bool) -> str:
    """Whether J − M of these columns is a `bound`: only if they are the columns of a row that is one. A critic and a
    temperature of one's own keep a bound a bound; other terms, other weights or a predictor need not."""
    row = get_method(method)
    as_in_the_row = (joint, marginal) == (row.columns["joint"], row.columns["marginal"]) and not predictor
    return "bound" if row.kind == "bound" and as_in_the_row else "surrogate"


def markdown_table() -> str:
    """The table as Markdown, sorted by paradigm; the README holds a copy and a test compares."""
    lines = [
        "| method | paradigm | critic / τ | objective L = J − M | target | J − M is | arXiv |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in METHODS.values():
        target = row.columns.get("target", "none: shared encoder")
        critic = f"{row.columns['critic']} / {row.columns['temperature']:g}"
        link = f"[{row.arxiv}](https://arxiv.org/abs/{row.arxiv})"
        kind = "a bound" if row.kind == "bound" else "a surrogate"
        cells = [f"`{row.name}`", row.paradigm.upper(), critic, row.formula, target, kind, link]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def describe(name: str) -> str:
    """One row in full: its columns, what it relates to, its formula and the source of its terms."""
    row = get_method(name)
    columns = row.columns
    lines = [f"{row.name} ({row.paradigm.upper()}, arXiv {row.arxiv}): L = {row.formula}", f"J − M is a {row.kind}"]
    lines += [f"  {column} = {value!r}" for column, value in columns.items()]
    lines += [f"Relations: {row.relations}.", ""]
    terms = [CRITICS[columns["critic"]]]
    terms += [JOINT_TERMS[term] for term in columns["joint"]] + [MARGINAL_TERMS[term] for term in columns["marginal"]]
    return "\n".join(lines) + "\n" + "\n".join(inspect.getsource(term) for term in terms)


def summary() -> str:
    """The table for a terminal: a line each."""
    lines = [f"{'method':<11} {'paradigm':<8} {'J − M is':<10} {'arXiv':<11} L = J − M"]
    for row in METHODS.values():
        lines.append(f"{row.name:<11} {row.paradigm.upper():<8} {row.kind:<10} {row.arxiv:<11} {row.formula}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="hf-mi-ssl methods", description="the table of methods, or one row of it")
    parser.add_argument("method", nargs="?", help="print this row in full: columns, formula, source of its terms")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    args = parser.parse_args(arguments)
    try:
        print(describe(args.method) if args.method else markdown_table() if args.markdown else summary())
    except UserError as error:
        print(f"hf-mi-ssl methods: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
