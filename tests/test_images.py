"""Every kind of image file becomes the RGB pixels a person would see, or is refused with one line."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hf_mi_ssl.data.images import decode, own_file, to_square
from hf_mi_ssl.errors import UserError


def encode(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(width=8, height=6):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def pixel(data, position=(0, 0)):
    return decode(data).getpixel(position)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "GIF", "JPEG"])
def test_the_six_formats_are_read(kind):
    image = decode(encode(picture(), kind, **({"lossless": True} if kind == "WEBP" else {})))
    assert (image.mode, image.size) == ("RGB", (8, 6))
    if kind not in ("GIF", "JPEG"):
        assert image.tobytes() == picture().tobytes()


@pytest.mark.parametrize("kind", ["PPM", "PDF", "EPS", "ICO"])
def test_other_formats_are_refused(kind):
    with pytest.raises(UserError, match=r"not an image that can be read \(known: JPEG, PNG"):
        decode(encode(picture(32, 32), kind))


def test_greyscale_is_repeated_over_the_channels():
    assert pixel(encode(Image.new("L", (4, 4), 77))) == (77, 77, 77)
    assert pixel(encode(Image.new("1", (4, 4), 1))) == (255, 255, 255)


def test_sixteen_bit_greyscale_keeps_its_high_byte_instead_of_saturating():
    values = np.array([[0, 255, 256, 0x7FFF, 0xFFFF]], dtype=np.uint16)
    for kind in ("PNG", "TIFF"):
        image = decode(encode(Image.fromarray(values), kind))
        assert np.asarray(image)[0, :, 0].tolist() == [0, 0, 1, 127, 255]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_images_without_a_range_are_refused(mode):
    with pytest.raises(UserError, match=f"{mode} image .* no defined range"):
        decode(encode(Image.new(mode, (4, 4), 70000), "TIFF"))


@pytest.mark.parametrize(("mode", "colour"), [("RGBA", (255, 0, 0, 0)), ("LA", (0, 0))])
def test_transparent_pixels_are_white(mode, colour):
    assert pixel(encode(Image.new(mode, (4, 4), colour))) == (255, 255, 255)


def test_half_transparent_pixels_are_mixed_with_white():
    red, green, blue = pixel(encode(Image.new("RGBA", (4, 4), (255, 0, 0, 128))))
    assert red == 255
    assert 126 <= green == blue <= 128


def test_palettes_give_their_colours_and_their_transparency_is_white():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    assert [pixel(encode(image), (x, 0)) for x in (0, 1)] == [(10, 20, 30), (200, 100, 50)]
    assert [pixel(encode(image, transparency=0), (x, 0)) for x in (0, 1)] == [(255, 255, 255), (200, 100, 50)]
    assert pixel(encode(Image.new("RGB", (2, 2), (9, 9, 9)), transparency=(9, 9, 9))) == (255, 255, 255)


def test_cmyk_is_converted():
    red, green, blue = pixel(encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    assert red > 240
    assert green < 15
    assert blue < 15


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    assert pixel(encode(frames[0], "GIF", save_all=True, append_images=frames[1:])) == (255, 0, 0)


def test_the_exif_orientation_is_applied():
    image = picture()
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270° to see it upright
    seen = decode(encode(image, "PNG", exif=exif))
    assert seen.tobytes() == image.transpose(Image.Transpose.ROTATE_270).tobytes()


def test_a_file_is_read_by_its_path(tmp_path):
    picture().save(tmp_path / "a.png")
    assert decode(None, tmp_path / "a.png").tobytes() == picture().tobytes()
    with pytest.raises(UserError, match="no such file"):
        decode(None, tmp_path / "b.png")


def bomb(side):
    """A PNG of 100 bytes that claims side × side pixels."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not an image"),
        (b"<html>404</html>", "not an image"),
        (encode(picture(64, 64), "JPEG")[:600], "corrupt or truncated"),
        (encode(picture(64, 64), "PNG")[:2000], "corrupt or truncated"),
        (bomb(10_000), "10000 × 10000 pixels are over the limit of 50,000,000"),
        (bomb(20_000), "over the limit of 50,000,000"),
        (None, "neither image bytes nor a path"),
    ],
)
def test_damaged_data_are_refused_with_one_line_and_exit_code_1(data, reason):
    with pytest.raises(UserError, match=reason) as error:
        decode(data)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 1


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"]), data=st.data())
def test_bytes_flipped_anywhere_give_an_image_or_a_user_error(kind, data):
    raw = bytearray(encode(picture(16, 16), kind))
    for _ in range(3):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(UserError):
        assert decode(bytes(raw)).mode == "RGB"


def test_a_square_of_the_right_size_is_returned_pixel_by_pixel():
    image = picture(6, 6)
    assert torch.equal(to_square(image, 6), torch.from_numpy(np.array(image)).permute(2, 0, 1))


@pytest.mark.parametrize("size", [(40, 20), (20, 40)])
def test_the_square_is_the_centre(size):
    image = Image.new("RGB", size, "black")
    image.paste("white", tuple((side - 20) // 2 for side in size) + tuple((side + 20) // 2 for side in size))
    assert (to_square(image, 10) > 230).all()  # a pixel off would be half black at one side


@pytest.mark.parametrize(("width", "height"), [(48, 30), (30, 48), (1, 9), (33, 32)])
def test_the_square_is_that_of_resizing_the_shorter_side_and_cropping_the_centre(width, height):
    smooth = Image.radial_gradient("L").resize((width, height)).convert("RGB")
    size = 16
    ours = to_square(smooth, size)
    assert ours.shape == (3, size, size)
    assert ours.dtype == torch.uint8
    scale = size / min(width, height)
    resized = smooth.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
    left, top = (resized.width - size) // 2, (resized.height - size) // 2
    theirs = np.array(resized.crop((left, top, left + size, top + size))).astype(int)
    if min(width, height) > 1:
        assert np.abs(ours.permute(1, 2, 0).numpy().astype(int) - theirs).mean() < 6  # half a pixel apart at most


def test_resizing_is_antialiased():
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    assert (to_square(Image.fromarray(stripes), 8).int() - 128).abs().max() < 40


def test_only_files_within_the_folder_of_the_data_are_opened(tmp_path):
    inside, outside = tmp_path / "data", tmp_path / "database"
    for folder in (inside, outside):
        folder.mkdir()
        picture().save(folder / "a.png")
    (inside / "link.png").symlink_to(outside / "a.png")
    assert own_file("a.png", [str(inside)]) == own_file(str(inside / "a.png"), [str(inside)]) == str(inside / "a.png")
    assert own_file(str(outside / "a.png"), None) == str(outside / "a.png")
    for path in (str(outside / "a.png"), "../database/a.png", "/etc/passwd", "missing.png", "link.png", ""):
        with pytest.raises(UserError, match="not a file in the folder of the data"):
            own_file(path, [str(inside)])
    for folders in (None, [str(inside)]):
        with pytest.raises(UserError, match="never fetched"):
            own_file("http://127.0.0.1/a.png", folders)
