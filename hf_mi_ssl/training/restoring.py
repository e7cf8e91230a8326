"""Reading a checkpoint that anybody may have written: compared before it is read, and read before it is used."""

import contextlib
import math
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from ..errors import MALFORMED, ExitCode, UserError
from .checkpoints import MANIFEST, RECORD, read_json, refuse_not_finite, verify
from .trees import join

_OF_WEIGHTS, _BESIDE = 64, 2**26  # bytes of another state, at most: so many times the weights (Kron: 5), and so many
_WAY_OUT = "`--resume_from_checkpoint latest` takes the newest complete one"


def load_checkpoint(checkpoint: Path) -> tuple[dict[str, dict], dict]:
    """The states and the record of a checkpoint, as `read_record` and `read_states` give them."""
    record = read_record(checkpoint)
    return read_states(checkpoint), record


def read_record(checkpoint: Path) -> dict:
    """The record of a checkpoint: its `step`, and what was saved with it.

    Raises:
        UserError: if the checkpoint is damaged.
    """
    if problem := verify(checkpoint):
        raise UserError(f"cannot resume from {checkpoint}: {problem}; {_WAY_OUT}")
    with _one_line(checkpoint):
        record = read_json(checkpoint / RECORD)
        step, processes = record["step"], record.get("num_processes", 1)  # which the first versions did not note
        if type(step) is not int or step < 0 or type(processes) is not int or not 0 < processes < 10**6:
            raise ValueError("its step or its number of processes is none")
        if step != read_json(checkpoint / MANIFEST)["step"]:
            raise ValueError("its steps differ")
    return record


def read_states(checkpoint: Path, shapes: dict[str, dict[str, tuple] | None] | None = None) -> dict[str, dict]:
    """The states of a checkpoint that verifies, all read before anything is changed.

    Args:
        shapes: the states that there may be, and what state dicts of plain tensors must hold, {state: {key: shape}};
            compared before they are read, and the size of other states with theirs.

    Raises:
        UserError: if they are not what is expected, or not finite.
    """
    states = {}
    with _one_line(checkpoint):
        files = read_json(checkpoint / MANIFEST)["files"]
        if shapes and (more := sorted({Path(file).stem for file in files} - {*shapes, "record"})[:3]):
            raise UserError(f"{checkpoint} does not fit this run: it holds {more}", exit_code=ExitCode.OTHER_RUN)
        for file in filter(lambda file: file.endswith(".safetensors"), files):
            name = Path(file).stem
            if shapes and (problem := _misfit(checkpoint / file, shapes)):
                raise UserError(f"{checkpoint} does not fit this run: {problem}", exit_code=ExitCode.OTHER_RUN)
            tensors = load_file(checkpoint / file)
            refuse_not_finite(name, tensors)
            states[name] = join(read_json(checkpoint / f"{name}.json"), tensors)
    return states


@contextlib.contextmanager
def _one_line(checkpoint: Path):
    try:
        yield
    except UserError:
        raise
    except (OSError, *MALFORMED, SafetensorError) as error:
        reason = f"{type(error).__name__}: {str(error)[:100]}"
        raise UserError(f"cannot resume from {checkpoint}: no state of a run ({reason}); {_WAY_OUT}") from error


def _misfit(path: Path, shapes: dict[str, dict[str, tuple] | None]) -> str | None:
    """Where the tensors of a file are not those that are expected, or are too many; reads its header only."""
    if (expected := shapes[path.stem]) is None:
        numbers = sum(math.prod(shape) for of in shapes.values() for shape in (of or {}).values())
        size, most = path.stat().st_size, _OF_WEIGHTS * 4 * numbers + _BESIDE
        return f"{path.name} holds {size:,} bytes, of at most {most:,}" if size > most else None
    with safe_open(path, "pt") as file:
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    wanted = {f"/{name}": tuple(shape) for name, shape in expected.items()}
    different = sorted(name for name in found | wanted if found.get(name) != wanted.get(name))
    if not different:
        return None
    first = ", ".join(f"{name[1:]} {found.get(name)} → {wanted.get(name)}" for name in different[:3])
    return f"{len(different)} tensors of {path.stem} differ ({first}{', …' if len(different) > 3 else ''})"
