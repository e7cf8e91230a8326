"""Which directory or Hub repository a name means, and whether what is there is what was sent, and all that a model
needs."""

import hashlib
import logging
import re
from functools import cache
from pathlib import Path

import torch
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import UserError

_LAYERS = 1000
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
        with blob.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != blob.name:
            blob.unlink()
            raise UserError(f"{weights.name} of {name!r} arrived damaged and was removed: try again", exit_code=1)


def refuse_endless(config: PreTrainedConfig) -> None:
    """Refuse a configuration that would take for ever to build, before its weights show that it is none of theirs."""
    for key, value in config.to_dict().items():
        counts = value if isinstance(value, list | tuple) else [value]
        if re.search("depth|layers|blocks|stages", key) and sum(n for n in counts if type(n) is int) > _LAYERS:
            raise UserError(f"the configuration has more than {_LAYERS:,} layers ({key}): no encoder has")


def refuse_fetching(config: PreTrainedConfig) -> None:
    """Refuse a configuration of which a part, a backbone or a kernel of attention, would come from elsewhere."""
    said = config.to_dict() | {"attn_implementation": getattr(config, "_attn_implementation", None)}
    for key, value in said.items():
        named = isinstance(value, str) and re.search("[/:]", value) and re.search("backbone|attn_impl", key)
        if named or (key == "use_pretrained_backbone" and value):
            raise UserError(f"the configuration names what would have to be fetched: {key}={str(value)[:80]}")


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
