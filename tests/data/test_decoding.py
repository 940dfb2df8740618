"""Image files as the web has them: every kind that PIL writes, every defect that a download leaves."""

from __future__ import annotations

import io
import pickle
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as pil

from mm1_ablate.data.decoding import FORMATS, MAX_PIXELS, decode, encoded_image, image_size
from mm1_ablate.data.documents import Unreadable

# pytest sets the filters of decoding.py aside.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")

WIDTH, HEIGHT = 60, 44


def picture(width: int = WIDTH, height: int = HEIGHT) -> pil.Image:
    """Smooth colours, so that lossy formats change them little."""
    rough = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    return pil.fromarray(rough).resize((width, height), pil.Resampling.BICUBIC)


def encoded(image: pil.Image, file_format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def reason(data: bytes) -> str:
    with pytest.raises(Unreadable) as refused:
        decode(data, "the picture")
    assert refused.value.what == "the picture"
    return refused.value.reason


def png_declaring(width: int, height: int) -> bytes:
    """A PNG whose header declares a size that its data does not have."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("file_format", FORMATS)
def test_every_format_is_read(file_format: str):
    data = encoded(picture(), file_format)
    pixels = decode(data)
    assert pixels.shape == (HEIGHT, WIDTH, 3) and pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    assert np.abs(pixels.astype(int) - np.asarray(picture())).mean() < 12
    assert image_size(data) == image_size(io.BytesIO(data)) == (WIDTH, HEIGHT)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{"quality": 90}, {"quality": 60, "progressive": True}, {"quality": 100, "subsampling": 0}])
def test_a_jpeg_has_the_pixels_that_pil_gives_it(mode: str, options: dict[str, int]):
    data = encoded(picture().convert(mode), "JPEG", **options)
    expected = np.asarray(pil.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(decode(data) - expected).max() <= 1


def test_a_jpeg_is_read_without_torchvisions_decoder_too(monkeypatch: pytest.MonkeyPatch):
    import torchvision.io

    def missing(*arguments: object, **options: object) -> None:
        raise RuntimeError("decode_jpeg: torchvision not compiled with libjpeg support")

    data = encoded(picture(), "JPEG", quality=90)
    expected = decode(data).astype(int)
    monkeypatch.setattr(torchvision.io, "decode_jpeg", missing)
    assert np.abs(decode(data) - expected).max() <= 1
    assert reason(data[:-200]) == "truncated image"
    monkeypatch.delattr(torchvision.io, "decode_jpeg")
    assert np.abs(decode(data) - expected).max() <= 1


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "LA", "RGBA"])
def test_any_mode_becomes_rgb(mode: str):
    image = picture().convert(mode)
    data = encoded(image, "TIFF" if mode in ("CMYK", "YCbCr") else "PNG")
    assert np.array_equal(decode(data), np.asarray(image.convert("RGB")))


def test_what_is_transparent_lies_on_white():
    alpha = np.zeros((HEIGHT, WIDTH), np.uint8)
    alpha[:, 10:20], alpha[:, 20:] = 128, 255
    image = picture()
    image.putalpha(pil.fromarray(alpha))
    solid = np.asarray(picture())
    pixels = decode(encoded(image, "PNG"))
    assert (pixels[:, :10] == 255).all() and np.array_equal(pixels[:, 20:], solid[:, 20:])
    assert np.abs(pixels[:, 10:20] - (solid[:, 10:20] * (128 / 255) + 255 * (127 / 255))).max() <= 1

    palette = pil.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((2, 1), 1)
    for file_format in ("PNG", "GIF"):
        pixels = decode(encoded(palette, file_format, transparency=0))
        assert pixels[1, 2].tolist() == [200, 100, 50] and (np.delete(pixels.reshape(16, 3), 6, 0) == 255).all()


def test_16_bits_are_scaled_and_not_cut_off():
    values = np.linspace(0, 65535, WIDTH * HEIGHT).astype(np.uint16).reshape(HEIGHT, WIDTH)
    for file_format in ("PNG", "TIFF"):
        pixels = decode(encoded(pil.fromarray(values), file_format))
        assert np.array_equal(pixels, np.repeat((values >> 8).astype(np.uint8)[:, :, None], 3, axis=2))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in np.repeat(values[:, :, None], 3, axis=2))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks)
    assert np.array_equal(decode(b"\x89PNG\r\n\x1a\n" + body), pixels)


def test_values_without_a_range_are_refused():
    assert reason(encoded(pil.fromarray(np.full((4, 4), 0.5, np.float32)), "TIFF")) == "image of mode F"
    assert reason(encoded(pil.fromarray(np.full((4, 4), 70000, np.int32)), "TIFF")) == "image of mode I"


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_is_its_first_frame(file_format: str):
    frames = [pil.new("RGB", (20, 12), colour) for colour in ("red", "blue", "green")]
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
    assert (decode(data) == (255, 0, 0)).all() and image_size(data) == (20, 12)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_picture_is_upright(file_format: str, orientation: int):
    from PIL import ImageOps

    exif = pil.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(), file_format, exif=exif, **({"lossless": True} if file_format == "WEBP" else {}))
    expected = ImageOps.exif_transpose(pil.open(io.BytesIO(data)))
    assert image_size(data) == expected.size == ((WIDTH, HEIGHT) if orientation < 5 else (HEIGHT, WIDTH))
    assert np.abs(decode(data).astype(int) - np.asarray(expected.convert("RGB"))).max() <= 1


def test_a_jpeg_in_cmyk_is_turned_like_any_other():
    exif = pil.Exif()
    exif[0x0112] = 6
    data = encoded(picture().convert("CMYK"), "JPEG", exif=exif, quality=95)
    assert decode(data).shape == (WIDTH, HEIGHT, 3) and image_size(data) == (HEIGHT, WIDTH)


def test_orientation_that_means_nothing_is_no_orientation():
    for value in (0, 9, 65535):
        exif = pil.Exif()
        exif[0x0112] = value
        assert decode(encoded(picture(), "JPEG", exif=exif)).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_file_that_was_cut_off_is_found_out(file_format: str, share: float):
    data = encoded(picture(), file_format)
    assert reason(data[: int(len(data) * share)]) in ("truncated image", "damaged image")


def test_a_jpeg_that_lacks_its_last_rows_is_truncated():
    data = encoded(picture(640, 480), "JPEG", quality=90)
    for missing in (2, 10, 1000):
        assert reason(data[:-missing]) == "truncated image"
    progressive = encoded(picture(640, 480), "JPEG", quality=90, progressive=True)
    assert reason(progressive[: len(progressive) // 2]) == "truncated image"
    assert decode(data + b"\r\n<!-- served by -->").shape == (480, 640, 3)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "no bytes"),
        (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", "not an image"),
        (b"\0" * 5000, "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (b"GIF89a", "damaged image"),
        (b"\xff\xd8\xff", "damaged image"),
    ],
)
def test_what_is_no_image_is_called_that(data: bytes, expected: str):
    assert reason(data) == expected
    with pytest.raises(Unreadable, match=expected):
        image_size(data)


def test_wrong_bytes_inside_a_png_are_found_out():
    data = bytearray(encoded(picture(), "PNG"))
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    assert reason(bytes(data)) == "damaged image"


@pytest.mark.parametrize(("width", "height"), [(0, 10), (10, 0)])
def test_an_image_without_pixels_is_refused(width: int, height: int):
    assert reason(png_declaring(width, height)) == "damaged image"


def test_a_bomb_is_refused_by_its_header():
    for side in (10_001, 13_000, 100_000, 2**31 - 1):
        assert reason(png_declaring(side, side)) == "image of more than 100 megapixels"
    with pytest.raises(Unreadable, match="100 megapixels"):
        image_size(png_declaring(100_000, 100_000))
    assert image_size(png_declaring(MAX_PIXELS // 4, 4)) == (MAX_PIXELS // 4, 4)


def test_refusing_a_bomb_takes_no_memory():
    script = (
        "import resource, sys\n"
        "from mm1_ablate.data.decoding import decode, image_size\n"
        "from mm1_ablate.data.documents import Unreadable\n"
        "data = sys.stdin.buffer.read()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for look in (decode, image_size):\n"
        "    try:\n"
        "        look(data)\n"
        "    except Unreadable:\n"
        "        continue\n"
        "    sys.exit('not refused')\n"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"
        "sys.exit(0 if grown < 50_000 and 'torch' not in sys.modules else f'{grown} kilobytes')\n"
    )
    subprocess.run([sys.executable, "-c", script], input=png_declaring(100_000, 100_000), check=True)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damage_of_any_kind_gives_pixels_or_a_reason(data: st.DataObject):
    file_format = data.draw(st.sampled_from(FORMATS))
    whole = bytearray(encoded(picture(12, 9), file_format))
    for _ in range(data.draw(st.integers(0, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        pixels = decode(damaged)
    except Unreadable as error:
        assert error.reason
    else:
        assert pixels.dtype == np.uint8 and pixels.shape[::-1] == (3, *image_size(damaged))


def test_an_encoded_image_is_read_when_it_is_looked_at():
    reads: list[str] = []

    def read() -> bytes:
        reads.append("read")
        return encoded(picture(), "PNG")

    image = encoded_image("key", read, "shard.tar/1")
    assert not reads and image.key == "key"
    assert image.size is not None and image.size() == (WIDTH, HEIGHT)
    assert np.array_equal(image.load(), np.asarray(picture()))


def test_what_an_encoded_image_raises_names_it():
    def missing() -> bytes:
        raise Unreadable("missing member", "shard.tar/1.jpg")

    looks: list[Callable[[], object]] = []
    for image in (encoded_image("key", lambda: b"<html>"), encoded_image("key", lambda: b"<html>", "shard.tar/1")):
        assert image.size is not None
        looks += [image.load, image.size]
    messages = []
    for look in looks:
        with pytest.raises(Unreadable) as refused:
            look()
        messages.append(str(refused.value))
    assert messages == ["not an image: key"] * 2 + ["not an image: shard.tar/1"] * 2
    with pytest.raises(Unreadable, match=r"missing member: shard\.tar/1\.jpg"):
        encoded_image("key", missing).load()


def test_what_pil_has_to_say_about_broken_files_is_not_printed():
    script = "import sys\nfrom mm1_ablate.data.decoding import image_size\nprint(image_size(sys.stdin.buffer.read()))"
    ran = subprocess.run([sys.executable, "-c", script], input=png_declaring(9999, 9999), capture_output=True, check=True)
    assert ran.stdout == b"(9999, 9999)\n" and ran.stderr == b""


def test_an_encoded_image_goes_to_other_processes():
    image = pickle.loads(pickle.dumps(encoded_image("key", bytes)))
    with pytest.raises(Unreadable, match="no bytes: key"):
        image.load()
