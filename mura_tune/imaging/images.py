"""One decoder for cache and inference alike: an image file becomes grey pixels, or an error."""

import contextlib
import hashlib
import io
import stat
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from mura_tune.errors import BlankImage, InputError, UnopenedImage, UnreadableImage
from mura_tune.imaging import dicom, grey_levels, jpeg
from mura_tune.imaging.radiograph import CONTRAST, Radiograph, check_contrast

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM")  # not EPS: PIL starts ghostscript
NO_IMAGE = f"not an image ({', '.join(FORMATS)}, DICOM)"
MAX_PIXELS = 89_478_485  # PIL's own warning level: a quarter of a GB as RGB
MAX_STUDY_PIXELS = 2 * MAX_PIXELS  # where all views are held at once: thirty of a large detector
MAX_BYTES = 8 * MAX_PIXELS  # four channels of 16 bits, not compressed
_BYTES_OF_DICOM = 24  # a pixel, while it is decoded: as it is stored, as a number, as a level
_SPARSE = 16  # of so many rows and columns one shows of nearly every picture that it isn't blank

# Raise it whenever `decode_image` or `resize_to_square` changes a pixel, or refuses more.
PREPROCESSING = 2
_CHANGES = {
    2: "pictures with an EXIF orientation, of 16-bit colour, of 16 bits with white as zero, or "
    "with transparent parts that are not black are read by what their files say; damaged JPEG "
    "files, files of several pages, and blank pictures are refused",
}

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NO_MEMORY = "not enough memory for this image: close other programs, or reduce the image"
_PNG = b"\x89PNG\r\n\x1a\n"
_HEADER = threading.Lock()  # catch_warnings is process-wide, so one thread at a time may hold it


class MemoryLimit:
    """A number of bytes that all threads together may hold; a thread waits for its share.

    A thread that needs more than the limit gets it while no other thread holds memory.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._held = 0
        self._freed = threading.Condition()

    @contextlib.contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Hold `size` bytes, once they are free; a thousandth of the room is not counted."""
        if size < self.size // 1000:
            yield
            return
        with self._freed:
            self._freed.wait_for(lambda: not self._held or self._held + size <= self.size)
            self._held += size
        try:
            yield
        finally:
            with self._freed:
                self._held -= size
                self._freed.notify_all()


# Two, so that nobody who holds a file's bytes keeps those waiting who free pixels.
_FILES, _DECODED = MemoryLimit(1 << 30), MemoryLimit(1 << 30)


@dataclass(frozen=True, slots=True)
class Record:
    """The record of one image file: its size, times, digests, and why it is unreadable.

    `size` is in bytes, `mtime_ns` and `ctime_ns` since the epoch; all -1 where there is no such
    file. `ctime_ns` is when its content, name or mode last changed: no program can set it.
    `file_sha` is "" where it could not be opened, `pixel_sha` (sha256 of the decoded image at its
    full size) where it could not be decoded; `error` says why, and is "" for a readable image.
    """

    size: int
    mtime_ns: int
    file_sha: str
    pixel_sha: str
    error: str
    ctime_ns: int = -1

    def __post_init__(self) -> None:
        if bool(self.pixel_sha) == bool(self.error):
            raise ValueError(f"a record has either pixels or an error: {self}")

    @property
    def is_outdated(self) -> bool:
        """Whether an earlier version took the file for no image: it knew fewer formats."""
        return self.error.startswith(NO_IMAGE.partition("(")[0]) and self.error != NO_IMAGE

    @property
    def kind(self) -> str:
        """The kind of finding that an image with an error is: unreadable, or blank."""
        return "blank" if self.error.startswith(BlankImage.WORD) else "unreadable"


def preprocessing_changes(preprocessing: int) -> str:
    """Return what is read differently since that PREPROCESSING, for a message; "" for nothing.

    All other files give the same pixels. A release that does not name its version was made by 1.
    """
    return "; ".join(text for version, text in _CHANGES.items() if version > preprocessing)


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Return the grey pixels (H, W) of the image file `path`, 0 black to 255 white.

    See `grey_levels.read_grey_levels` for the conversion.

    Raises:
        UnreadableImage: a file that cannot be decoded in full, or whose grey levels are not clear.
        BlankImage: a picture of one grey.
    """
    with _loaded(path) as data:
        return decode_image(data, path)


def read_file(path: str | Path) -> bytes:
    """Return the bytes of the regular file `path`.

    Raises:
        UnopenedImage: it is missing, or the system does not read it.
        UnreadableImage: no regular file, or one that is too large.
    """
    file = Path(path)
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableImage(path, "a folder or device, not an image file")
        if status.st_size > MAX_BYTES:
            raise UnreadableImage(path, f"{status.st_size:,} bytes are more than an image has")
        return file.read_bytes()
    except FileNotFoundError:
        raise UnopenedImage(path, "no such file") from None
    except MemoryError:
        raise InputError(f"{path}: {_NO_MEMORY}") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise UnopenedImage(path, f"cannot be opened: {reason.lower()}") from None


@dataclass(frozen=True, eq=False)
class Picture:
    """The grey pixels (H, W) of an image; of a DICOM file its stored values, too."""

    grey: NDArray[np.uint8]
    radiograph: Radiograph | None = None


def decode_image(data: bytes, path: object) -> NDArray[np.uint8]:
    """Return the grey pixels (H, W) of an image file's bytes; `path` only names it in the error.

    Raises InputError where this machine's memory is too small, which is not the image's fault.
    """
    return decode_picture(data, path).grey


def decode_picture(data: bytes, path: object) -> Picture:
    """The same with the stored values of a DICOM file."""
    if not data:
        raise UnreadableImage(path, "empty file")
    if data.startswith(_PNG) and not _png_sound(memoryview(data)):
        raise UnreadableImage(path, "damaged (checksum of its pixels): copy or download it again")
    try:
        if dicom.is_dicom(data):
            picture = _decode_dicom(data, path)
        else:
            picture = Picture(_decode_plain(data, path))
    except UnreadableImage:
        raise
    except grey_levels.UnclearGreyLevels as error:
        raise UnreadableImage(path, str(error)) from None
    except UnidentifiedImageError:
        raise UnreadableImage(path, _why_unidentified(data)) from None
    except Image.DecompressionBombError:
        raise UnreadableImage(path, f"more than {MAX_PIXELS:,} pixels: reduce it first") from None
    except MemoryError:
        raise InputError(f"{path}: {_NO_MEMORY}") from None
    except Exception as error:
        # Pillow documents no kinds for damaged files: struct.error, SyntaxError, ValueError, …
        # come. Each is told as damage of this file, with its text.
        raise UnreadableImage(path, _why_damaged(data, error)) from None
    grey = picture.grey
    if _is_blank(grey[::_SPARSE, ::_SPARSE]) and _is_blank(grey):
        raise BlankImage(path, grey.shape[1], grey.shape[0])
    return picture


def _decode_plain(data: bytes, path: object) -> NDArray[np.uint8]:
    """Return the grey pixels of a file that Pillow reads."""
    with _open(data, path) as image, _DECODED.hold(_memory(image)):
        grey = grey_levels.read_grey_levels(image, lambda: _open(data, path))
        if data.startswith(jpeg.START) and (fault := jpeg.find_fault(data, image, _decoded)):
            raise UnreadableImage(path, f"damaged ({fault}): copy or download it again")
    return grey


def _decode_dicom(data: bytes, path: object) -> Picture:
    """Return the picture of a DICOM file."""
    header = dicom.read_header(data, MAX_BYTES)
    rows, columns = dicom.picture_size(header)
    _check_size(columns, rows, path)
    with _DECODED.hold(rows * columns * _BYTES_OF_DICOM):
        radiograph = dicom.read_radiograph(header)
        grey = radiograph.grey()
        check_contrast(radiograph, grey)
        return Picture(grey, radiograph)


def examine_image(
    file: Path, known: Callable[[str], str | None] = lambda sha: None
) -> tuple[Record, NDArray[np.uint8] | None]:
    """Read `file` once. Return its record, and its grey pixels (H, W) if it is readable.

    `known` gives the pixel sha256 of a file sha256: a content that it knows is not decoded again,
    and its pixels come back as None too.
    """
    size = mtime = ctime = -1
    sha = ""
    try:
        with contextlib.suppress(OSError, ValueError):  # `read_file` says what is wrong with it
            status = file.stat()
            size, mtime, ctime = status.st_size, status.st_mtime_ns, status.st_ctime_ns
        with _loaded(file) as data:
            sha = hashlib.sha256(data).hexdigest()
            if pixel_sha := known(sha):
                return Record(size, mtime, sha, pixel_sha, "", ctime), None
            grey = decode_image(data, file)
    except UnreadableImage as error:
        return Record(size, mtime, sha, "", error.reason, ctime), None
    digest = hashlib.sha256(repr(grey.shape).encode())
    digest.update(grey.data)
    return Record(size, mtime, sha, digest.hexdigest(), "", ctime), grey


def resize_to_square(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
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


def _png_sound(data: memoryview) -> bool:
    """Check the critical chunks' CRCs: PIL skips those of pixels, and shows a zeroed tail black."""
    start = len(_PNG)
    while start + 12 <= len(data):
        end = start + 8 + int.from_bytes(data[start : start + 4], "big")
        kind = bytes(data[start + 4 : start + 8])
        if end + 4 > len(data) or kind == b"IEND":
            return True  # whole, or cut short, which PIL notices
        crc = int.from_bytes(data[end : end + 4], "big")
        if kind[:1].isupper() and zlib.crc32(data[start + 4 : end]) != crc:
            return False
        start = end + 4
    return True


def _open(data: bytes, path: object) -> ImageFile:
    """Parse the header, and refuse what is too large to decode."""
    image = _parsed(data)
    _check_size(image.width, image.height, path)
    return image


def _check_size(width: int, height: int, path: object) -> None:
    if width * height > MAX_PIXELS:
        size = f"{width} x {height}"
        raise UnreadableImage(path, f"{size} is more than {MAX_PIXELS:,} pixels: reduce it first")


def _parsed(data: bytes) -> ImageFile:
    """The image before its pixels are decoded; PIL's warnings come here."""
    with _HEADER, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Image.open(io.BytesIO(data), formats=FORMATS)


def _decoded(data: bytes) -> Image.Image:
    image = _parsed(data)
    image.load()
    return image


def _is_blank(grey: NDArray[np.uint8]) -> bool:
    return int(grey.max()) - int(grey.min()) < CONTRAST


def _memory(image: ImageFile) -> int:
    """Bytes that decoding an image takes at most, about: it is held several times for a moment."""
    grey = image.mode in ("1", "L", "P", "I;16", "I;16B", "I")
    return image.width * image.height * (6 if grey else 14)


@contextlib.contextmanager
def _loaded(path: str | Path) -> Iterator[bytes]:
    """The bytes of a file, once there is room for them."""
    size = 0
    with contextlib.suppress(OSError, ValueError):  # `read_file` says what is wrong with it
        size = min(Path(path).stat().st_size, MAX_BYTES)
    with _FILES.hold(size):
        yield read_file(path)


def _why_unidentified(data: bytes) -> str:
    if data.startswith(_TIFF):
        return "a kind of TIFF that is not supported: save it as PNG"
    if data.startswith((b"\x89PNG", b"\xff\xd8\xff")):
        return (
            f"truncated or damaged in its first bytes ({len(data):,} bytes in all): copy it again"
        )
    return NO_IMAGE


def _why_damaged(data: bytes, error: Exception) -> str:
    png_cut = data.startswith(b"\x89PNG") and b"IEND" not in data[-64:]
    if png_cut or "truncated" in str(error).lower():
        return f"truncated after {len(data):,} bytes: copy or download it again"
    return f"damaged ({error or type(error).__name__}): copy or download it again"
