"""Ninety byte strings that pass for images: each becomes the picture that a person sees, or is refused by its kind."""

import errno
import io
import os
import struct
import threading
import zlib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from unittest import mock

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from torch import multiprocessing

from hf_mi_ssl.commands import check_data
from hf_mi_ssl.data import BadImages, ImageReader, load_corpus
from hf_mi_ssl.data.images import MAX_PIXELS, BadImageError, decode

RAMP = np.linspace(0, 255, 48 * 32).reshape(32, 48).astype(np.uint8)  # grows to the right and, row by row, downwards


def encode(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture():
    """48 × 32 pixels: red grows downwards, green to the right, blue is a third of 255."""
    down, right = np.mgrid[0:32, 0:48]
    return Image.fromarray(np.stack([down * 8, right * 5, np.full((32, 48), 85)], 2).astype(np.uint8))


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, depth, colour, raw, *more):
    """A PNG by hand, for what Pillow does not write."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(raw))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + data + chunk(b"IEND", b"")


def rows(values, dtype=">u2"):
    """The raw bytes of a PNG's rows, each with its filter."""
    return b"".join(b"\0" + row.astype(dtype).tobytes() for row in values)


def tiff(bits, photometric, raw, width=48, height=32):
    """A little-endian greyscale TIFF by hand."""
    entries = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8 + 2 + 9 * 12 + 4),
               (277, 1), (278, height), (279, len(raw))]  # fmt: skip
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", tag, 4, 1, v) for tag, v in entries)
    return b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<I", 0) + raw


def packed12(values):
    """Pairs of 12-bit numbers in three bytes, as TIFF packs them."""
    a, b = values.reshape(-1, 2).T.astype(int)
    return np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], 1).astype(np.uint8).tobytes()


def exif(orientation):
    found = Image.Exif()
    found[0x0112] = orientation
    return found


def turned(orientation):
    """The picture as a camera stores it that was held so."""
    back = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90",
            7: "TRANSVERSE", 8: "ROTATE_270"}  # fmt: skip
    image = picture()
    return image.transpose(Image.Transpose[back[orientation]]) if orientation in back else image


def frames(kind):
    first, second = picture(), Image.new("RGB", (48, 32), "white")
    return encode(first, kind, save_all=True, append_images=[second], duration=50, loop=0)


def with_transparency(mode, kind):
    image = picture().convert("RGBA")
    image.putalpha(Image.fromarray(np.where(np.mgrid[0:32, 0:48][1] < 24, 0, 255).astype(np.uint8)))
    return encode(image.convert(mode), kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))


PICTURE = np.asarray(picture()).astype(int)
GREY = np.repeat(RAMP[:, :, None], 3, 2).astype(int)
COLOURS = np.asarray(Image.fromarray(RAMP).convert("P"))[:, :, None]  # their numbers in the palette
WIDE = RAMP.astype(np.uint16) << 8 | 0x7F  # 16 bits whose high byte is RAMP
ON_WHITE = np.where(np.mgrid[0:32, 0:48][1][:, :, None] < 24, 255, PICTURE)
LUMA = np.repeat(np.asarray(picture().convert("L"))[:, :, None], 3, 2).astype(int)
LUMA_ON_WHITE = np.where(np.mgrid[0:32, 0:48][1][:, :, None] < 24, 255, LUMA)

# name: (bytes, the pixels that a person would see, how far from them any may be)
SEEN = {
    "png": (encode(picture()), PICTURE, 0),
    "bmp": (encode(picture(), "BMP"), PICTURE, 0),
    "tiff": (encode(picture(), "TIFF"), PICTURE, 0),
    "tiff lzw": (encode(picture(), "TIFF", compression="tiff_lzw"), PICTURE, 0),
    "webp lossless": (encode(picture(), "WEBP", lossless=True), PICTURE, 0),
    "jpeg": (encode(picture(), "JPEG", quality=95, subsampling=0), PICTURE, 8),
    "jpeg progressive": (encode(picture(), "JPEG", quality=95, subsampling=0, progressive=True), PICTURE, 8),
    "jpeg greyscale": (encode(Image.fromarray(RAMP), "JPEG", quality=95), GREY, 8),
    "jpeg cmyk": (encode(picture().convert("CMYK"), "JPEG", quality=95, subsampling=0), PICTURE, 12),
    "mpo of two": (encode(picture(), "MPO", save_all=True, append_images=[picture()], quality=95, subsampling=0),
                   PICTURE, 8),
    "gif": (encode(Image.fromarray(RAMP), "GIF"), GREY, 0),
    "gif animated": (frames("GIF"), PICTURE, 60),  # 256 colours
    "webp animated": (frames("WEBP"), PICTURE, 40),
    "png animated": (frames("PNG"), PICTURE, 0),
    "tiff of two pages": (frames("TIFF"), PICTURE, 0),
    "png greyscale": (encode(Image.fromarray(RAMP)), GREY, 0),
    "png one bit": (encode(Image.fromarray(RAMP > 127)), np.where(GREY > 127, 255, 0), 0),
    "png palette": (encode(Image.fromarray(RAMP).convert("P")), GREY, 4),
    "png 16 bits": (png(48, 32, 16, 0, rows(WIDE)), GREY, 1),
    "png 16 bits rgb": (png(48, 32, 16, 2, rows(np.repeat(WIDE, 3, 1))), GREY, 1),
    "png 16 bits with alpha": (
        png(48, 32, 16, 4, rows(np.stack([WIDE, np.full_like(WIDE, 0xFFFF)], 2).reshape(32, 96))), GREY, 1),
    "png 16 bits transparent value": (
        png(48, 32, 16, 0, rows(WIDE), chunk(b"tRNS", struct.pack(">H", int(WIDE[5, 5])))),
        np.where(GREY[5, 5, 0] == GREY, 255, GREY), 1),
    "tiff 16 bits": (tiff(16, 1, WIDE.astype("<u2").tobytes()), GREY, 1),
    "tiff 16 bits white is zero": (tiff(16, 0, WIDE.astype("<u2").tobytes()), 255 - GREY, 1),
    "tiff 12 bits": (tiff(12, 1, packed12(WIDE >> 4)), GREY, 1),
    "tiff 8 bits white is zero": (tiff(8, 0, RAMP.tobytes()), 255 - GREY, 0),
    "png rgba": (with_transparency("RGBA", "PNG"), ON_WHITE, 1),
    "png grey with alpha": (with_transparency("LA", "PNG"), LUMA_ON_WHITE, 1),
    "webp rgba": (with_transparency("RGBA", "WEBP"), ON_WHITE, 1),
    "tiff rgba": (with_transparency("RGBA", "TIFF"), ON_WHITE, 1),
    "png transparent colour": (encode(picture(), transparency=tuple(PICTURE[4, 4].tolist())),
                               np.where((PICTURE[4, 4] == PICTURE).all(2, keepdims=True), 255, PICTURE), 0),
    "png palette transparent": (encode(Image.fromarray(RAMP).convert("P"), transparency=0),
                                np.where(COLOURS == 0, 255, GREY), 4),
    "gif transparent": (encode(Image.fromarray(RAMP).convert("P"), "GIF", transparency=9),
                        np.where(COLOURS == 9, 255, GREY), 4),
    "1 by 1": (encode(Image.new("RGB", (1, 1), (9, 8, 7))), np.array([[[9, 8, 7]]]), 0),
    "1 by 3000": (encode(Image.new("RGB", (1, 3000), (9, 8, 7))), np.full((3000, 1, 3), (9, 8, 7)), 0),
    "something behind the end": (encode(picture()) + b"\0" * 1_000_000, PICTURE, 0),
    "2000 by 1500": (encode(Image.new("RGB", (2000, 1500), (9, 8, 7)), "JPEG"),
                     np.full((1500, 2000, 3), (9, 8, 7), np.int16), 4),
} | {
    f"{kind} orientation {n}": (
        encode(turned(n), kind, exif=exif(n), **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {})),
        PICTURE, 8 if kind == "JPEG" else 0)
    for n in range(1, 9) for kind in ("JPEG", "PNG")
}  # fmt: skip

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
PNG, JPEG, GIF = encode(NOISE), encode(NOISE, "JPEG"), encode(picture(), "GIF")
# name: (bytes, kind)
REFUSED = {
    "nothing": (None, "missing"),
    "zero bytes": (b"", "not an image"),
    "one byte": (b"\x89", "not an image"),
    "zeros": (bytes(10_000), "not an image"),
    "a web page": (b"<!DOCTYPE html><html>404</html>", "not an image"),
    "text": (b"ein Bild" * 100, "not an image"),
    "json": (b'{"error": "not found"}', "not an image"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://127.0.0.1:9/a.png"/></svg>', "not an image"),
    "eps": (encode(picture(), "EPS"), "not an image"),
    "pdf": (encode(picture(), "PDF"), "not an image"),
    "ico": (encode(picture(), "ICO"), "not an image"),
    "ppm": (encode(picture(), "PPM"), "not an image"),
    "tga": (encode(picture(), "TGA"), "not an image"),
    "jpeg 2000": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100), "not an image"),
    "zip": (b"PK\3\4" + bytes(100), "not an image"),
    "pickle": (b"\x80\4\x95\x1f\0\0\0\0\0\0\0\x8c\5posix\x8c\6system\x93\x8c\4true\x85R.", "not an image"),
    "gzip": (b"\x1f\x8b\x08" + bytes(100), "not an image"),
    "jpeg cut to a half": (JPEG[: len(JPEG) // 2], "corrupt"),
    "jpeg cut to 20 bytes": (JPEG[:20], "not an image"),
    "jpeg, header alone": (JPEG[:2], "not an image"),
    "png cut to a half": (PNG[: len(PNG) // 2], "corrupt"),
    "png cut to its header": (PNG[:33], "not an image"),
    "png with a wrong checksum": (PNG.replace(b"IDAT", b"IDAT\0", 1), "corrupt"),
    "png without its pixels": (png(48, 32, 8, 2, b""), "corrupt"),
    "png of no width": (png(0, 32, 8, 2, b""), "not an image"),
    "png of an unknown depth": (png(4, 4, 7, 2, b""), "not an image"),
    "gif cut to a half": (encode(NOISE, "GIF")[:2500], "corrupt"),
    "webp cut to a half": (encode(NOISE, "WEBP", lossless=True)[:3000], "corrupt"),
    "bmp cut to a half": (encode(picture(), "BMP")[:800], "corrupt"),
    "tiff cut to a half": (encode(picture(), "TIFF")[:400], "corrupt"),
    "tiff of unsigned 32 bits": (encode(Image.fromarray(RAMP.astype(np.int32) * 70_000), "TIFF"), "no range"),
    "tiff of floats": (encode(Image.fromarray(RAMP.astype(np.float32)), "TIFF"), "no range"),
    "10,000 by 10,000 claimed": (png(10_000, 10_000, 8, 2, b"0"), "too large"),
    "20,000 by 20,000 claimed": (png(20_000, 20_000, 8, 2, b"0"), "too large"),
    "100,000 by 100,000 claimed": (png(100_000, 100_000, 8, 2, b"0"), "too large"),
    "2³¹ by 1 claimed": (png(2**31 - 1, 1, 8, 2, b"0"), "too large"),
    "a bomb of zeros": (png(20_000, 20_000, 1, 0, bytes(2501) * 20_000), "too large"),
    "gif of 65,535 by 65,535": (GIF[:6] + struct.pack("<HH", 65535, 65535) + GIF[10:], "too large"),
    "text that unpacks to 200 MB": (
        png(4, 4, 8, 2, b"\0" * 13 * 4, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(200_000_000)))), "corrupt"),
}  # fmt: skip


right, refused = [], []  # names of those that were tried, for the figures


@pytest.mark.parametrize("name", SEEN)
def test_it_is_the_picture_that_a_person_sees(name):
    data, expected, tolerance = SEEN[name]
    image = decode(data)
    assert image.mode == "RGB"
    found = np.asarray(image).astype(np.int16)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance
    assert abs(found.mean() - expected.mean()) <= max(1, tolerance / 4)
    right.append(name)


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_in_one_short_line_by_its_kind(name):
    data, kind = REFUSED[name]
    with pytest.raises(BadImageError) as error:
        decode(data)
    assert error.value.kind == kind
    assert len(str(error.value)) < 200
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 1
    refused.append(name)


def test_so_many_were_tried(figure):
    if len(right) < len(SEEN) or len(refused) < len(REFUSED):
        pytest.skip("not all were asked for")
    assert len(right) >= 30 <= len(refused)
    assert len(right) + len(refused) >= 60
    figure("bad images: one line each, or read right", f"{len(refused)} refused, {len(right)} read right")


def _peak(queue, names):
    """How far this process's memory grew while it decoded, in MB."""

    def status(key):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1024

    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before, others = status("VmRSS"), 0
    for name in names:
        try:
            decode((SEEN | REFUSED)[name][0])
        except BadImageError:
            pass
        except BaseException:
            others += 1
    queue.put((status("VmHWM") - before, others))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from /proc")
def test_memory_stays_bounded_and_nothing_else_is_raised():
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=_peak, args=(queue, [*SEEN, *REFUSED]))
    process.start()
    process.join(60)
    peak, others = queue.get()
    assert others == 0
    assert peak < 150, "a picture of 50 million pixels is 150 MB, and none of these is one"


def test_a_file_over_the_limit_is_refused_by_its_length(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_mi_ssl.data.images.MAX_BYTES", 1000)
    (tmp_path / "a.png").write_bytes(PNG + bytes(1000))
    for cell in ((PNG + bytes(1000), None), (None, tmp_path / "a.png")):
        with pytest.raises(BadImageError, match=r"bytes is over the limit of 1,000"):
            decode(*cell)
    assert MAX_PIXELS == 50_000_000


# Rows of strangers


@pytest.fixture
def server():
    """A local server that notes what it is asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(PNG)

        do_HEAD = do_POST = do_GET  # noqa: N815

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


@pytest.fixture
def hostile(tmp_path, server, monkeypatch):
    """Parquet whose rows point elsewhere, among good ones; the file, and what the server was asked."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    host, asked = server
    secret = tmp_path / "secret.png"
    picture().save(secret)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link.png").symlink_to(secret)
    paths = [f"{scheme}://{host}/a.png" for scheme in ("http", "https", "ftp", "s3", "hf", "file", "HTTP")]
    paths += [f"zip://a.png::http://{host}/a.zip", f"//{host}/a.png", f"file:{secret}", f"file://{secret}"]
    paths += [str(secret), "../secret.png", "../data/../secret.png", "link.png", "/etc/passwd", "/proc/self/environ"]
    paths += ["~/.bashrc", "", ".", "a\0b.png", "x" * 5000 + ".png", "/dev/zero", "C:\\secret.png", "a\nb.png"]
    cells = [{"bytes": None, "path": path} for path in paths] + [{"bytes": None, "path": None}, None]
    cells += [{"bytes": PNG, "path": f"http://{host}/never.png"}] * 3
    pyarrow.parquet.write_table(pyarrow.table({"image": cells}), tmp_path / "data" / "a.parquet")
    return str(tmp_path / "data" / "a.parquet"), len(paths) + 2, asked


@pytest.mark.parametrize("num_workers", [0, 1])
def test_rows_that_point_elsewhere_are_never_followed(hostile, num_workers):
    file, n, asked = hostile
    report = BadImages(max_fraction=1.0)
    corpus = load_corpus("parquet", data_files=file, split="train")
    reader = ImageReader(corpus, 8, "cpu", num_workers, report=report)
    read = torch.cat([indices for indices, _ in reader.batches(torch.arange(len(corpus)).split(5))])
    assert read.tolist() == [n, n + 1, n + 2], "only rows with bytes of their own are images"
    assert report.kinds() == {"foreign path": n - 2, "missing": 2}
    assert asked == []


def test_check_data_prints_what_is_wrong(hostile, tmp_path, capsys):
    file, n, asked = hostile
    argv = ["--dataset_name", "parquet", "--data_files", f"train={file}", "--dataloader_num_workers", "0"]
    assert check_data.main(argv) == 1
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == n + 1  # the name with a newline in it takes one too
    assert said.out.splitlines()[-1] == f"{n + 3} images read: {n} bad images ({n - 2} foreign path, 2 missing)"
    assert asked == []
    assert check_data.main(["--dataset_name", "nowhere/"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_check_data_of_good_images(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for split in ("train", "test"):
        (tmp_path / "images" / split).mkdir(parents=True)
        picture().save(tmp_path / "images" / split / "a.png")
        picture().save(tmp_path / "images" / split / "b.png")
    argv = ["--dataset_name", "imagefolder", "--data_dir", str(tmp_path / "images"), "--dataloader_num_workers", "0"]
    assert check_data.main(argv) == 0
    assert capsys.readouterr().out == "4 images read: all good\n"
    (tmp_path / "images" / "test" / "a.png").write_bytes(PNG[:100])
    assert check_data.main(argv) == 1
    row, total = capsys.readouterr().out.splitlines()
    assert row.startswith("test  0  corrupt  ")
    assert "a.png" in row
    assert total == "4 images read: 1 bad image (1 corrupt)"


@pytest.mark.parametrize("error", [MemoryError(), *(OSError(n, os.strerror(n)) for n in (errno.EIO, errno.EMFILE))])
def test_what_is_no_fault_of_an_image_does_not_make_it_a_bad_one(error, monkeypatch):
    monkeypatch.setattr(Image, "open", mock.Mock(side_effect=error))
    with pytest.raises(type(error)) as found:
        decode(b"any")
    assert found.value is error


def test_a_file_that_may_not_be_read_is_a_bad_image(monkeypatch):
    monkeypatch.setattr(Image, "open", mock.Mock(side_effect=PermissionError(errno.EACCES, "Permission denied")))
    with pytest.raises(BadImageError, match="Permission denied"):
        decode(b"any")
