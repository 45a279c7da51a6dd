"""One decoder for cache and inference alike: an image file becomes grey uint8 pixels, or an error."""

import io
import stat
import threading
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mura_tune.errors import UnreadableImage

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM")  # not EPS: PIL starts ghostscript
MAX_PIXELS = 89_478_485  # PIL's own warning level: a quarter of a GB as RGB

_DEPTHS = (8, 10, 12, 14, 16)  # bits that X-ray detectors store in 16-bit files
_DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_COLOUR = ("1", "P", "RGB", "CMYK", "YCbCr", "HSV")
_HEADER = threading.Lock()  # catch_warnings is process-wide, so one thread at a time may hold it


def read(path: str | Path) -> NDArray[np.uint8]:
    """Return the grey pixels (H, W) of the image file `path`, 0 black to 255 white.

    Colour becomes luma and transparency is laid over black. Deep grey files are scaled, not
    clipped: by the smallest of 8, 10, 12, 14 and 16 bits that holds the image's maximum.
    Raises UnreadableImage for whatever cannot be decoded in full.
    """
    return decode(load(path), path)


def load(path: str | Path) -> bytes:
    """Return the bytes of the regular file `path`. Raises UnreadableImage where it cannot."""
    file = Path(path)
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise UnreadableImage(path, "a folder or device, not an image file")
        return file.read_bytes()
    except FileNotFoundError:
        raise UnreadableImage(path, "no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise UnreadableImage(path, f"cannot be opened: {reason.lower()}") from None


def decode(data: bytes, path: object) -> NDArray[np.uint8]:
    """Return the grey pixels (H, W) of an image file's bytes; `path` only names it in the error."""
    if not data:
        raise UnreadableImage(path, "empty file")
    try:
        with _open(data, path) as image:
            image.load()
            return _grey(image, path)
    except UnreadableImage:
        raise
    except UnidentifiedImageError:
        raise UnreadableImage(path, _why_unidentified(data)) from None
    except Image.DecompressionBombError:
        raise UnreadableImage(path, f"more than {MAX_PIXELS:,} pixels: reduce it first") from None
    except Exception as error:  # each format's parser raises its own: struct, zlib, Index, Value, …
        raise UnreadableImage(path, _why_damaged(data, error)) from None


def square(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Return `image` (H, W) squashed to (size, size) by PIL's antialiased bilinear filter.

    The same pixels as torchvision's `Resize((size, size))` gives on a PIL image. An image that
    already has the size comes back as an unchanged copy. Raises ValueError for another shape or
    dtype, or a size below 1.
    """
    if image.ndim != 2 or image.dtype != np.uint8:
        raise ValueError(f"square takes uint8 (H, W), not {image.dtype} {image.shape}")
    if size < 1:
        raise ValueError(f"square takes a size of at least 1 pixel, not {size}")
    if image.shape == (size, size):
        return image.copy()
    resized = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)
    return np.array(resized, dtype=np.uint8)


def _open(data: bytes, path: object) -> Image.Image:
    """Parse the header, where PIL gives its warnings, and refuse what is too large to decode."""
    with _HEADER, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width} x {image.height}"
        raise UnreadableImage(path, f"{size} is more than {MAX_PIXELS:,} pixels: reduce it first")
    return image


def _grey(image: Image.Image, path: object) -> NDArray[np.uint8]:
    if image.mode in _DEEP:
        return _scaled(np.asarray(image).astype(np.int64), path)
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
        return np.array(image.convert("L"), dtype=np.uint8)
    if image.mode == "L":
        return np.array(image, dtype=np.uint8)
    if image.mode in _COLOUR:
        return np.array(image.convert("RGB").convert("L"), dtype=np.uint8)
    raise UnreadableImage(path, f"pixels of type {image.mode} are not supported: save as 8-bit PNG")


def _scaled(deep: NDArray[np.int64], path: object) -> NDArray[np.uint8]:
    low, high = int(deep.min()), int(deep.max())
    if low < 0 or high > 65535:
        raise UnreadableImage(path, f"grey levels {low} to {high} do not fit 16 bits")
    top = next(2**bits - 1 for bits in _DEPTHS if high < 2**bits)
    return ((deep * 255 + top // 2) // top).astype(np.uint8)


def _why_unidentified(data: bytes) -> str:
    if data.startswith((b"\x89PNG", b"\xff\xd8\xff")):
        return f"truncated or damaged in its first bytes ({len(data):,} bytes in all): copy it again"
    return f"not an image ({', '.join(FORMATS)})"


def _why_damaged(data: bytes, error: Exception) -> str:
    png_cut = data.startswith(b"\x89PNG") and b"IEND" not in data[-64:]
    if png_cut or "truncated" in str(error).lower():
        return f"truncated after {len(data):,} bytes: copy or download it again"
    return f"damaged ({error or type(error).__name__}): copy or download it again"
