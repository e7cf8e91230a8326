"""One image file to RGB pixels, with every conversion that PIL would do silently and wrongly done here on purpose.

`Image.convert("RGB")` saturates 16-bit greyscale, turns I and F images white or black, reveals the colours hidden
under transparent pixels and ignores the EXIF orientation. A header alone can also claim gigabytes of pixels, and some
of PIL's formats start other programs. So: six formats, a limit read from the header, and one line for what is refused.
"""

import errno
import io
import os
import stat
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..errors import UserError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
Cell = tuple[bytes | None, str | None]  # of a row: an image's bytes, and its path
MAX_PIXELS = 50_000_000
MAX_BYTES = 1_000_000_000  # of a file
_EMBED = "embed the image's bytes in the data"
_REASON = 100  # characters of what PIL says
# What is wrong with a file for as long as it is there; of another error the machine is to blame, and it may pass
_OF_THE_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG,
                errno.EINVAL)  # fmt: skip
_PHOTOMETRIC, _BITS = 262, 258  # tags of TIFF


class BadImageError(UserError):
    """An image that cannot be read. `kind` is one of `missing`, `not an image`, `too large`, `no range`, `corrupt` and
    `foreign path`; the exit code is 1."""

    def __init__(self, kind: str, reason: str, advice: str = "replace or remove the image"):
        super().__init__(f"{reason}; {advice}", exit_code=1)
        self.kind, self.reason = kind, " ".join(reason.split())


def _sixteen_bits(image: Image.Image) -> Image.Image:
    """The high byte of 16-bit greyscale (or of 12-bit, as some TIFF have); white where a value means transparent."""
    tags = getattr(image, "tag_v2", {})
    values, bits = np.asarray(image).astype(np.uint16), max(tags.get(_BITS, (16,)))
    grey = (values >> (bits - 8)).astype(np.uint8)
    if tags.get(_PHOTOMETRIC) == 0:  # white is zero, which PIL heeds at 8 bits only
        grey = 255 - grey
    if "transparency" in image.info:
        grey[values == image.info["transparency"]] = 255
    return Image.fromarray(grey).convert("RGB")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _sixteen_bits(image)
    if image.mode in ("I", "F"):
        raise BadImageError("no range", f"a {image.mode} image (32-bit numbers) has no defined range of brightness")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def decode(data: bytes | None, path: str | Path | None = None) -> Image.Image:
    """The RGB image in `data`, or in the file `path` where there is no data.

    Greyscale is repeated over the channels, 16-bit greyscale keeps its high byte, CMYK is converted, transparency is
    composited on white, the EXIF orientation is applied, and an animation gives its first frame. Raises
    `BadImageError` for what is corrupt, truncated, over `MAX_PIXELS` or `MAX_BYTES`, of another format, or of mode I
    or F; the caller adds which image it was. What is no fault of the file, `MemoryError` and `OSError` of the machine,
    is raised as it is.
    """
    if data is None and path is None:
        raise BadImageError("missing", "the row holds neither image bytes nor a path")
    try:
        length = os.path.getsize(path) if data is None else len(data)
        if length > MAX_BYTES:
            raise BadImageError("too large", f"a file of {length:,} bytes is over the limit of {MAX_BYTES:,}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL warns of large images and odd EXIF; both are dealt with here
            with Image.open(io.BytesIO(data) if data is not None else path, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    claimed = f"{image.width} × {image.height} pixels"
                    raise BadImageError("too large", f"{claimed} are over the limit of {MAX_PIXELS:,}")
                image.load()
                if image.getexif():
                    ImageOps.exif_transpose(image, in_place=True)
                return _to_rgb(image)
    except UserError:
        raise
    except FileNotFoundError as error:
        raise BadImageError("missing", "no such file") from error
    except Image.DecompressionBombError as error:  # PIL's own limit, for still more pixels
        raise BadImageError("too large", f"the pixels are over the limit of {MAX_PIXELS:,}") from error
    except UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise BadImageError("not an image", f"not an image that can be read (known: {known})") from error
    except Exception as error:  # PIL's parsers raise a dozen types on damaged files
        if isinstance(error, MemoryError) or getattr(error, "errno", None) not in (None, *_OF_THE_FILE):
            raise
        said = str(error)[:_REASON] or type(error).__name__
        raise BadImageError("corrupt", f"corrupt or truncated image ({said})") from error


def own_file(path: str, folders: list[str] | None) -> str:
    """The path that a row of a data set holds, if it is a file within `folders`; None trusts it (the user's own list).

    Raises `BadImageError` for addresses and for all other files: rows are written by strangers."""
    if "://" in path:
        raise BadImageError("foreign path", "an address in a row is never fetched", _EMBED)
    if folders is None:
        return path
    for folder in map(os.path.realpath, folders if "\0" not in path else ()):
        file = os.path.realpath(os.path.join(folder, path))
        if os.path.commonpath([folder, file]) == folder and _is_file(file):
            return file
    raise BadImageError("foreign path", "not a file in the folder of the data", _EMBED)


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError as error:
        if error.errno not in _OF_THE_FILE:
            raise
        return False


def as_cell(cell: object) -> Cell:
    """The bytes and the path of a row's cell, which is a struct of both or bytes alone."""
    return (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)


def decode_cell(data: bytes | None, path: str | None, folders: list[str] | None) -> Image.Image:
    """`decode` of what a row of a data set holds; its path as `own_file` allows it."""
    return decode(data, own_file(path, folders) if data is None and path is not None else None)


def to_square(image: Image.Image, size: int) -> Tensor:
    """The centre square of an RGB image at `size` pixels a side, uint8 (3, size, size): the shorter side is resized to
    `size` (bicubic, antialiased), then the centre is cropped. An image of size × size is returned pixel by pixel."""
    if image.size != (size, size):
        # Resizing the centre box alone gives the same square as resizing first and cropping then, at less cost.
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
        image = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
