"""Text for a card. Names come from users and data sets: what leaves here is plain or escaped, and may be printed."""

import json
import math
import os
import re
import unicodedata


def plain(value: object, limit: int = 96) -> str:
    """One line without control, bidirectional or other invisible characters, at most `limit` characters long."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = "".join(" " if c in "\t\r\n" else c for c in text)
    text = "".join(
        c for c in text if unicodedata.category(c)[0] != "C" and unicodedata.category(c) not in ("Zl", "Zp")
    )
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def escaped(value: object, limit: int = 96) -> str:
    """`plain` as Markdown that shows just these characters, in a paragraph and in a table; empty for None."""
    if value is None:
        return ""
    text = plain(value, limit).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_\[\]|~#$:@!])", r"\\\1", text)
    return text.replace("www.", r"www\.")  # GitHub turns it into a link


def number(value: object) -> str:
    """Four digits, or empty for what is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def hub_id(name: object) -> str:
    """The name, if it can be one of the Hub's, `owner/name`; else empty."""
    good = isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name, re.ASCII)
    return name if good else ""


def public(name: object) -> object:
    """The name, or None where it is a path: where files lay on the machine of the run is no fact about a model."""
    path = isinstance(name, str) and (name.startswith(("/", "~", ".")) or ("/" in name and os.path.isdir(name)))
    return None if path else name
