"""What a row is, and all of them by name: `METHODS`. A row is added by calling `sdmi(…)` or `jmi(…)`.

A row gives the columns of `SDMIConfig` or `JMIConfig` in which the method differs from their defaults. Weights are
{term: weight}, so a row is JSON, an ablation is a deleted key, and every logged curve has its term's name.
"""

import importlib.util
import sys
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import UserError, refuse_unknown


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
    row = Method(name, paradigm, arxiv, kind, relations, columns)
    if METHODS.setdefault(name, row) != row:
        raise ValueError(f"there is a method {name!r} already: choose another name")


def sdmi(name: str, arxiv: str, kind: str, relations: str, **columns) -> None:
    """Add a row of self-distillation: two branches, a stop-gradient, the target moved in an M-step."""
    _row("sdmi", name, arxiv, kind, relations, columns)


def jmi(name: str, arxiv: str, kind: str, relations: str, **columns) -> None:
    """Add a row of joint maximisation: one shared branch, an explicit marginal term."""
    _row("jmi", name, arxiv, kind, relations, columns)


def get_method(name: str) -> Method:
    """The row of that name.

    Raises:
        UserError: if there is none; the text gives the nearest name.
    """
    refuse_unknown("method", [name], METHODS)
    return METHODS[name]


def import_file(path: str) -> None:
    """Run a Python file that adds rows, terms or critics of one's own.

    Raises:
        UserError: if there is no such file, or it fails.
    """
    if not Path(path).is_file() or Path(path).suffix != ".py":
        raise UserError(f"--import {path}: there is no such Python file (.py)")
    name = str(Path(path).resolve().with_suffix(""))  # its own, whatever else has the file's stem
    spec = importlib.util.spec_from_file_location(name, path)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UserError(f"--import {path}: {type(error).__name__}: {error}") from error
