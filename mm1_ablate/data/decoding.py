"""Bytes of an image file in, pixels out: uint8 [height, width, 3]; or `Unreadable`, with the reason that it is counted by.

JPEG in grey or RGB goes through torchvision (libjpeg-turbo without a detour through PIL's image), everything else through PIL; both give
the same pixels. Width and height are checked in the header, before a byte is decoded. What comes out is what a person sees first: EXIF
orientation is applied, an animation is its first frame, transparency lies on white, 16 bits become the upper 8.

libjpeg could decode to an eighth, quarter or half of the size at once (PIL's `draft`). That is not done: it is no faster where the half
would be too small (640 x 480 to 336), and pixels are up to 9 levels away from those of the whole picture.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from functools import partial
from typing import IO, NamedTuple

import numpy as np
from PIL import Image as pil
from PIL import ImageFile, UnidentifiedImageError

from mm1_ablate.data.documents import Image, Unreadable

MAX_PIXELS = 100_000_000
"""Width times height of a readable image. A camera takes 50 million; a bomb of a few kilobytes declares billions."""
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000")
"""What is tried, in this order. Not all that PIL knows: some of its readers start other programs."""
EXIF_ORIENTATION = 0x0112

# Among millions of files from the web PIL has something to say about very many; what cannot be read is counted here.
warnings.filterwarnings("ignore", module=r"PIL\.")


def encoded_image(key: str, read: Callable[[], bytes], what: str = "") -> Image:
    """An image that is read and decoded when its pixels are needed.

    Args:
        key: unique identity of the picture.
        read: the bytes of the image file. May raise Unreadable.
        what: names the image in reports; None: its key.
    """
    return Image(key, partial(_load, read, what or key), partial(_size, read, what or key))


def _load(read: Callable[[], bytes], what: str) -> np.ndarray:
    return decode(read(), what)


def _size(read: Callable[[], bytes], what: str) -> tuple[int, int]:
    return image_size(read(), what)


def image_size(data: bytes | IO[bytes], what: str = "") -> tuple[int, int]:
    """(width, height) of the upright image, from the header alone.

    Raises:
        Unreadable: if it is not an image, or one that `decode` would refuse for its size.
    """
    header = _open(data, what)
    return header.size


def decode(data: bytes, what: str = "") -> np.ndarray:
    """The pixels: uint8 [height, width, 3].

    Args:
        data: the whole image file.
        what: names the image in reports.

    Raises:
        Unreadable: "no bytes", "not an image", "image of more than 100 megapixels", "truncated image", "damaged image" (one that is
            declared to have no pixels among them), or "image of mode F" and the like, whose values have no agreed range. A JPEG with
            wrong bytes in the middle is not found out: its decoder conceals them.
    """
    header = _open(data, what)
    pixels = _jpeg(data, what) if header.image.format in ("JPEG", "MPO") and header.image.mode in ("L", "RGB") else None
    if pixels is None:
        pixels = _through_pil(header.image, what)
    return np.ascontiguousarray(_upright(pixels, header.orientation))


class _Header(NamedTuple):
    image: ImageFile.ImageFile | pil.Image
    orientation: int
    """EXIF's, 1 to 8, as far as `image` does not see to it by itself."""
    size: tuple[int, int]
    """(width, height) of the upright image."""


def _open(data: bytes | IO[bytes], what: str) -> _Header:
    """PIL's lazy image, its sides checked."""
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    beginning = file.read(16)
    if not beginning:
        raise Unreadable("no bytes", what)
    file.seek(0)
    try:
        image = pil.open(file, formats=FORMATS)
    except (pil.DecompressionBombError, pil.DecompressionBombWarning):
        raise _too_large(what) from None
    except UnidentifiedImageError:
        begun = any(accept is not None and accept(beginning) is True for _, accept in map(pil.OPEN.__getitem__, FORMATS))
        raise Unreadable("damaged image" if begun else "not an image", what) from None
    except Exception as error:  # a broken header makes PIL's readers stumble in any way
        raise _failed(error, what) from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _too_large(what)
    orientation = _orientation(image)
    return _Header(image, orientation, (height, width) if orientation >= 5 else (width, height))


def _too_large(what: str) -> Unreadable:
    return Unreadable(f"image of more than {MAX_PIXELS // 1_000_000} megapixels", what)


def _failed(error: Exception, what: str) -> Unreadable:
    return Unreadable("truncated image" if "truncated" in str(error).lower() else "damaged image", what)


def _orientation(image: pil.Image) -> int:
    if image.format == "TIFF":
        return 1  # PIL turns these itself
    try:
        # Not image.getexif(): of a PNG that would decode the pixels, to look for EXIF behind them.
        orientation = pil.Image.getexif(image).get(EXIF_ORIENTATION, 1)
    except Exception:  # unreadable EXIF is ignored
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """EXIF 2.3, tag Orientation: which side of the picture row 0 and column 0 are."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _jpeg(data: bytes, what: str) -> np.ndarray | None:
    """Through torchvision; None where it cannot, so that PIL has its turn."""
    import torch

    try:
        from torchvision.io import ImageReadMode, decode_jpeg
    except ImportError:  # torchvision means to leave decoding to torchcodec
        return None
    try:
        decoded: torch.Tensor = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
        return decoded.permute(1, 2, 0).numpy()
    except RuntimeError as error:
        if "truncated" in str(error):
            raise Unreadable("truncated image", what) from None
        return None


def _through_pil(image: pil.Image, what: str) -> np.ndarray:
    try:
        image.load()
    except Exception as error:
        raise _failed(error, what) from error
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise Unreadable(f"image of mode {image.mode}", what)
    try:
        if image.has_transparency_data:
            seen = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
            white = pil.new("RGB", image.size, "white")
            white.paste(seen, mask=seen.getchannel("A"))
            return np.asarray(white)
        return np.asarray(image.convert("RGB"))
    except ValueError:
        raise Unreadable(f"image of mode {image.mode}", what) from None
