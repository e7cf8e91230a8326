"""Which directory or Hub repository a name means, and whether what is there is what was sent, and all that a model
needs."""

import json
import logging
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import cached_file

from ..errors import UserError
from ..files import digest

_LAYERS = 1000
_CONFIG_BYTES = 2**24  # tens of thousands of classes with their names
_NAMES_A_PART = r"backbone|attn_impl|\.architecture$"
_IS_ELSEWHERE = r"\.(backbone|use_pretrained_backbone|checkpoint_path|configuration_files)$"
_notice = cache(logging.getLogger(__name__).warning)  # each once


def locate(name_or_path: str | Path) -> str:
    """The directory of that name, else the Hub id: a directory wins, as in transformers. Where both could be meant it
    says which one is taken.

    Raises:
        UserError: for what is neither, for a directory that holds no model, and where the Hub cannot be asked.
    """
    name, path = str(name_or_path), Path(name_or_path).expanduser()
    hub_id = _is_hub_id(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            hides = f", and hides the {name} of the Hub: for that one, run this in another directory" if hub_id else ""
            raise UserError(f"cannot load an encoder from {name!r}: the directory holds no config.json{hides}")
        if hub_id and isinstance(try_to_load_from_cache(name, "config.json"), str):
            _notice(f"{name} is the directory here, not the {name} of the Hub")
        return str(path)
    if not hub_id:
        raise UserError(
            f"no directory {name!r}: give one that holds an encoder, or the owner/name of a Hub repository"
        )
    if path.parent.is_dir():
        _notice(f"no directory {name} here: the Hub is asked for it")
    if not isinstance(try_to_load_from_cache(name, "config.json"), str):
        _refuse_unreachable(name)
    return name


def _refuse_unreachable(name: str) -> None:
    """Ask the Hub once: downloads try again for half a minute, which is long to learn of a mistyped directory."""
    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=10)
    except Exception as error:  # that it says no, or is forbidden to ask, is said better by who loads
        if type(error).__module__.startswith("httpx"):  # 1 or 2, as huggingface_hub has it
            where = f"no such directory here, and no connection to {constants.ENDPOINT} ({error})"
            raise UserError(f"cannot load an encoder from {name!r}: {where}") from error


def _is_hub_id(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name


def refuse_damaged(name: str) -> None:
    """Remove weights of the Hub's cache that are not what their digest says, by which they are called there.

    Without it they would load as they are: `huggingface_hub` compares sizes only.

    Raises:
        UserError: with exit code 1, if it removed some.
    """
    config = None if Path(name).is_dir() or not _is_hub_id(name) else try_to_load_from_cache(name, "config.json")
    for weights in Path(config).parent.rglob("*.safetensors") if isinstance(config, str) else ():
        blob = weights.resolve()
        if not blob.is_file() or not re.fullmatch("[0-9a-f]{64}", blob.name):
            continue
        if digest(blob, "sha256") != blob.name:
            blob.unlink()
            raise UserError(f"{weights.name} of {name!r} arrived damaged and was removed: try again", exit_code=1)


def refuse_endless(config: PreTrainedConfig) -> None:
    """Refuse a configuration that would take for ever to build, before its weights show that it is none of theirs."""
    for key, value in config.to_dict().items():
        counts = value if isinstance(value, list | tuple) else [value]
        if re.search("depth|layers|blocks|stages", key) and sum(n for n in counts if type(n) is int) > _LAYERS:
            raise UserError(f"the configuration has more than {_LAYERS:,} layers ({key}): no encoder has")


def refuse_fetching_file(place: str, subfolder: str = "") -> None:
    """As `refuse_fetching`, of a `config.json` as it stands: what transformers makes of it may have asked already.

    Raises:
        UserError: then, and for a file beyond all size.
        OSError, ValueError, RecursionError: for one that cannot be had, or is no JSON.
    """
    file = cached_file(place, "config.json", subfolder=subfolder)
    if file is None:  # who loads says so
        return
    if Path(file).stat().st_size > _CONFIG_BYTES:
        raise UserError(f"config.json has more than {_CONFIG_BYTES:,} bytes: no configuration has")
    refuse_fetching(json.loads(Path(file).read_text(encoding="utf-8")))


def refuse_fetching(config: PreTrainedConfig | dict) -> None:
    """Refuse a configuration of which a part, at any depth, would come from elsewhere: a backbone, an architecture, a
    file of weights, a kernel of attention. Any name of a backbone is one that the Hub may be asked for."""
    if isinstance(config, PreTrainedConfig):
        config = config.to_dict() | {"attn_implementation": getattr(config, "_attn_implementation", None)}
    for key, value in _leaves(config):
        named = isinstance(value, str) and re.search("[/:]", value) and re.search(_NAMES_A_PART, key)
        if named or (value and re.search(_IS_ELSEWHERE, key)):
            raise UserError(f"the configuration names what would have to be fetched: {key[1:80]}={str(value)[:80]}")


def _leaves(value, key: str = "") -> Iterator[tuple[str, object]]:
    """What a configuration holds at its ends, by the keys that lead there."""
    if isinstance(value, dict | list | tuple):
        for name, inner in value.items() if isinstance(value, dict) else ((key, one) for one in value):
            yield from _leaves(inner, f"{key}.{name}" if isinstance(value, dict) else key)
    else:
        yield key, value


def refuse_inexact(name: str, model: PreTrainedModel, report: dict) -> None:
    """Refuse a model whose weights are not exactly those that were saved, by the loading report of `from_pretrained`.

    Raises:
        UserError: if some are missing, unexpected or not finite.
    """
    _refuse(name, "lacks", report["missing_keys"], "they would be random")
    _refuse(name, "also holds", report["unexpected_keys"], "so it is another model; load the directory that holds one")
    not_finite = [key for key, tensor in model.state_dict().items() if not torch.isfinite(tensor).all()]
    _refuse(name, "has infinite or undefined", not_finite, "so it cannot be trained further")


def _refuse(name: str, fault: str, keys, because: str) -> None:
    if keys:
        raise UserError(f"{name!r} {fault} weights ({len(keys)}, such as {min(keys)}): {because}")
