"""Whether weights that came from the Hub are what was sent."""

import hashlib
import re
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from ..errors import UserError


def refuse_damaged(name: str) -> None:
    """Remove weights of the Hub's cache that are not what their digest says, by which they are called there.

    Without it they would load as they are: `huggingface_hub` compares sizes only.

    Raises:
        UserError: with exit code 1, if it removed some.
    """
    try:
        config = None if Path(name).is_dir() else try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return
    for weights in Path(config).parent.rglob("*.safetensors") if isinstance(config, str) else ():
        blob = weights.resolve()
        if not blob.is_file() or not re.fullmatch("[0-9a-f]{64}", blob.name):
            continue
        with blob.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != blob.name:
            blob.unlink()
            raise UserError(f"{weights.name} of {name!r} arrived damaged and was removed: try again", exit_code=1)
