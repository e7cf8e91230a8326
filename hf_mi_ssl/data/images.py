"""One image file to RGB pixels, with every conversion that PIL would do silently and wrongly done here on purpose.

`Image.convert("RGB")` saturates 16-bit greyscale, turns I and F images white or black, reveals the colours hidden
under transparent pixels and ignores the EXIF orientation. A header alone can also claim gigabytes of pixels, and some
of PIL's formats start other programs. So: six formats, a limit read from the header, and one line for what is refused.
"""

import io
import os
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..errors import UserError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 50_000_000


def _refused(reason: str) -> UserError:
    return UserError(f"{reason}; replace or remove the image", exit_code=1)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        high_bytes = np.asarray(image).astype(np.uint16) >> 8
        return Image.fromarray(high_bytes.astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise _refused(f"a {image.mode} image (32-bit numbers) has no defined range of brightness")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def decode(data: bytes | None, path: str | Path | None = None) -> Image.Image:
    """The RGB image in `data`, or in the file `path` where there is no data.

    Greyscale is repeated over the channels, 16-bit greyscale keeps its high byte, CMYK is converted, transparency is
    composited on white, the EXIF orientation is applied, and an animation gives its first frame. Raises `UserError`
    (exit code 1) for what is corrupt, truncated, over `MAX_PIXELS`, of another format, or of mode I or F; the caller
    adds which image it was.
    """
    if data is None and path is None:
        raise _refused("the row holds neither image bytes nor a path")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL warns of large images and odd EXIF; both are dealt with here
            with Image.open(io.BytesIO(data) if data is not None else path, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise _refused(f"{image.width} × {image.height} pixels are over the limit of {MAX_PIXELS:,}")
                image.load()
                if image.getexif():
                    ImageOps.exif_transpose(image, in_place=True)
                return _to_rgb(image)
    except UserError:
        raise
    except FileNotFoundError as error:
        raise _refused("no such file") from error
    except Image.DecompressionBombError as error:  # PIL's own limit, for still more pixels
        raise _refused(f"the pixels are over the limit of {MAX_PIXELS:,}") from error
    except UnidentifiedImageError as error:
        raise _refused(f"not an image that can be read (known: {', '.join(FORMATS)})") from error
    except Exception as error:  # PIL's parsers raise a dozen types on damaged files
        raise _refused(f"corrupt or truncated image ({error or type(error).__name__})") from error


def own_file(path: str, folders: list[str] | None) -> str:
    """The path that a row of a data set holds, if it is a file within `folders`; None trusts it (the user's own list).

    Raises `UserError` (exit code 1) for addresses and for all other files: rows are written by strangers."""
    if "://" in path:
        raise UserError("an address in a row is never fetched; embed the image's bytes in the data", exit_code=1)
    if folders is None:
        return path
    for folder in map(os.path.realpath, folders):
        file = os.path.realpath(os.path.join(folder, path))
        if os.path.commonpath([folder, file]) == folder and os.path.isfile(file):
            return file
    raise UserError("not a file in the folder of the data; embed the image's bytes in the data", exit_code=1)


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
