"""Grey levels of a DICOM radiograph, as its own header says that they are to be seen.

Stored values pass the modality LUT or rescale, the first VOI LUT or else the first window, and one
inversion where low values are white (DICOM PS3.3, C.11.1, C.11.2 and C.7.6.3.1.2). The 256 levels
span the range that this has, whatever part of it the picture fills. Padding is black.

Nothing of a header but what this needs is looked at, and no value of it is in a message.
"""

from __future__ import annotations

import functools
import hashlib
import io
import logging
import re
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mura_tune.errors import InputError, UnreadableImage
from mura_tune.imaging.grey_levels import Pixels, UnclearGreyLevels
from mura_tune.text import printable

if TYPE_CHECKING:
    from pydicom import Dataset

Numbers = NDArray[np.float64]

# SOP classes (DICOM PS3.4, B.5): CR, and DX for presentation.
RADIOGRAPHS = ("1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1")
_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"  # of 12 bits neither GDCM nor Pillow reads it
# JPEG, lossless JPEG and JPEG-LS end with a marker. GDCM fills up a lossless JPEG without its end,
# and CharLS computes for seconds on a JPEG-LS that is cut off.
_WITH_END = {f"1.2.840.10008.1.2.4.{last}" for last in (50, 51, 57, 70, 80, 81)}
_JPEG_2000 = {f"1.2.840.10008.1.2.4.{last}" for last in (90, 91)}
_END, _LAST_BYTES = b"\xff\xd9", 16  # the marker, and padding after it
_IDENTITY = ["PatientID", "IssuerOfPatientID", "StudyInstanceUID", "BodyPartExamined"]
# What studies may be grouped by, where a user asks for it, by the user's word.
CHARACTERISTICS = {
    "sex": "PatientSex",
    "age": "PatientAge",
    "view": "ViewPosition",
    "manufacturer": "Manufacturer",
}
_AGE = re.compile(r"(\d{3})([DWMY])")  # PS3.5, 6.2
_A_YEAR = {"D": 365.25, "W": 52.18, "M": 12, "Y": 1}
_LONGEST = 64  # characters of a value
_MAGIC, _MAGIC_AT = b"DICM", 128
_META_GROUP = 2  # of a file's meta information, which names the transfer syntax
_MOST_INFLATED = 1 << 30  # bytes of a file whose header alone is read
_LEVELS = 255
_CONTRAST = 3  # levels: fewer are no picture
_DEPTHS = range(1, 17)  # bits that a value has
_USUAL_DEPTHS = (8, 10, 12, 14, 16)  # bits of what detectors give
_AGAIN = "export it again"
_PIECE = 2**22  # bytes that are inflated at a time, to count them


def is_dicom(data: bytes) -> bool:
    """Whether a file's bytes are a DICOM file's: with the preamble that files have."""
    return data[_MAGIC_AT : _MAGIC_AT + len(_MAGIC)] == _MAGIC


def read_header(data: bytes, most_bytes: int) -> Dataset:
    """The header of a radiograph's file, its pixels not decoded yet.

    Args:
        most_bytes: that a deflated file may have once it is inflated.

    Raises:
        UnclearGreyLevels: no CR or DX for presentation, several pictures, colour, or a header that
            cannot be read.
        InputError: the extra `dicom` is not installed.
    """
    pydicom = _pydicom()
    with _explained():
        file = io.BytesIO(data)
        _refuse_bombs(file, most_bytes)
        header: Dataset = pydicom.dcmread(file)
        _refuse_others(header)
    return header


@dataclass(frozen=True)
class Identity:
    """Whose picture a file is, and of what: all of a header that leaves this module unasked.

    Attributes:
        patient: 16 hex digits of the sha256 of PatientID and its issuer. It tells patients apart;
            who knows the IDs of a hospital can find them by it.
        study: the StudyInstanceUID.
        body_part: BodyPartExamined; "" where it is absent.
    """

    patient: str
    study: str
    body_part: str


def read_identity(path: Path) -> Identity:
    """Read the identity of a DICOM file; its pixels are not read.

    Raises:
        UnreadableImage: no DICOM file, or one whose header names no study.
        InputError: the extra `dicom` is not installed.
    """
    return _identify(_read_fields(path, _IDENTITY), path)


def _read_fields(path: Path, names: list[str]) -> list[str]:
    """The values of some fields of a file's header, "" where they are absent."""
    try:
        with path.open("rb") as file:
            if not is_dicom(file.read(_MAGIC_AT + len(_MAGIC))):
                raise UnreadableImage(path, "no DICOM file")
            file.seek(0)
            return _parse_fields(file, path, names, _MOST_INFLATED)
    except OSError as error:
        reason = str(error.strerror or error).lower()
        raise UnreadableImage(path, f"cannot be opened: {reason}") from None


def parse_identity(data: bytes, path: object, most_bytes: int) -> Identity:
    """The identity in the bytes of a DICOM file; `path` only names it in the error.

    Args:
        most_bytes: that a deflated file may have once it is inflated.

    Raises:
        UnreadableImage: a header that cannot be read, or that names no study.
        InputError: the extra `dicom` is not installed.
    """
    return _identify(_parse_fields(data, path, _IDENTITY, most_bytes), path)


def _parse_fields(
    data: bytes | BinaryIO, path: object, names: list[str], most_bytes: int
) -> list[str]:
    try:
        with _explained():
            file = io.BytesIO(data) if isinstance(data, bytes) else data
            _refuse_bombs(file, most_bytes)
            header = _pydicom().dcmread(file, stop_before_pixels=True, specific_tags=names)
            return [str(header.get(name) or "").strip() for name in names]
    except UnclearGreyLevels as error:
        raise UnreadableImage(path, str(error)) from None


def _identify(fields: list[str], path: object) -> Identity:
    patient, issuer, study, body_part = fields
    if not study:
        raise UnreadableImage(path, f"its header names no study: {_AGAIN}")
    digest = hashlib.sha256(f"{issuer}\0{patient or study}".encode())
    return Identity(digest.hexdigest()[:16], study, body_part)


def read_characteristic(path: Path, name: str) -> str:
    """Read one of CHARACTERISTICS, in capitals; "" where a header has none, or none that is legal.

    An age is in whole years.

    Raises:
        UnreadableImage: no DICOM file, or a header that cannot be read.
        InputError: the extra `dicom` is not installed.
    """
    keyword = CHARACTERISTICS[name]
    value = " ".join(printable(_read_fields(path, [keyword])[0]).upper().split())
    if name == "age":
        written = _AGE.fullmatch(value)
        return str(int(int(written[1]) / _A_YEAR[written[2]])) if written else ""
    return value[:_LONGEST]


def picture_size(header: Dataset) -> tuple[int, int]:
    """Rows and columns, both at least 1. Raises UnclearGreyLevels where the header has none."""
    with _explained():
        rows, columns = int(header.Rows), int(header.Columns)
        if min(rows, columns) < 1:
            raise UnclearGreyLevels(f"a picture of {columns} x {rows} pixels: {_AGAIN}")
    return rows, columns


@dataclass(frozen=True, eq=False)
class Radiograph:
    """The stored values of a radiograph, and what its header says that they mean.

    Attributes:
        stored: (H, W).
        low: the lowest value that can be stored, the first of both tables.
        meanings: what each value that can be stored means, after the modality LUT or rescale, (K,).
        shown: the same as shares of the displayed range, as the header has them displayed, (K,).
        inverted: whether low values are white.
        padding: the first and the last stored value that is no part of the picture.
        window: centre and width of the header's window, in meanings; None where it has none, or one
            that is not linear, or a lookup table.
    """

    stored: NDArray[np.integer[Any]]
    low: int
    meanings: Numbers
    shown: Numbers
    inverted: bool
    padding: tuple[int, int] | None
    window: tuple[float, float] | None

    @classmethod
    def of(cls, stored: NDArray[np.integer[Any]], header: Dataset) -> Radiograph:
        """Raises UnclearGreyLevels for a lookup table or a window that DICOM does not know."""
        low, high = _stored_range(header)
        meanings, output = _modality(np.arange(low, high + 1), (low, high), header)
        inverted = header.PhotometricInterpretation == "MONOCHROME1" or (
            header.get("PresentationLUTShape") == "INVERSE"
        )
        shown = _shown(meanings, output, header)
        return cls(stored, low, meanings, shown, inverted, _padding(header), _linear_window(header))

    def grey(self, window: tuple[float, float] | None = None) -> Pixels:
        """The 256 levels (H, W), padding black; by another linear window where one is given."""
        shown = self.shown if window is None else _linear(self.meanings, *window)
        if self.inverted:
            shown = 1 - shown
        levels = np.floor(shown.clip(0, 1) * _LEVELS + 0.5).astype(np.uint8)
        places = self.stored.astype(np.int32) - self.low if self.low else self.stored
        grey: Pixels = np.take(levels, places, mode="clip")
        if self.padding is not None:
            grey[self._is_padding(*self.padding)] = 0
        return grey

    def extremes(self) -> tuple[float, float]:
        """The ends of what the picture's values, without its padding, can mean."""
        values = self.stored
        if self.padding is not None:
            values = values[~self._is_padding(*self.padding)]
        if not values.size:
            return float(self.meanings.min()), float(self.meanings.max())
        last = len(self.meanings) - 1
        first, last = (min(max(int(v) - self.low, 0), last) for v in (values.min(), values.max()))
        present = self.meanings[first : last + 1]
        return float(present.min()), float(present.max())

    def _is_padding(self, first: int, last: int) -> NDArray[np.bool_]:
        """Which pixels (H, W) are no part of the picture (C.7.5.1.1.2)."""
        return np.asarray((self.stored >= first) & (self.stored <= last))


def read_radiograph(header: Dataset) -> Radiograph:
    """Decode the file that `read_header` opened.

    Raises:
        UnclearGreyLevels: as `read_grey_levels`, but for a window without contrast.
    """
    with _explained():
        return Radiograph.of(_stored_values(header), header)


def check_contrast(radiograph: Radiograph, grey: Pixels) -> None:
    """Raise UnclearGreyLevels where the header's window hides a picture that has contrast."""
    if np.ptp(grey) < _CONTRAST <= np.ptp(radiograph.stored):
        raise UnclearGreyLevels(
            f"its window or lookup table leaves no contrast: {_AGAIN} with another window"
        )


def read_grey_levels(header: Dataset) -> Pixels:
    """Decode the grey pixels (H, W) of the file that `read_header` opened.

    Raises:
        UnclearGreyLevels: pixels that are cut off or damaged, a kind of compression that nothing
            installed decodes, or a window that leaves no contrast.
    """
    radiograph = read_radiograph(header)
    grey = radiograph.grey()
    check_contrast(radiograph, grey)
    return grey


def to_grey(stored: NDArray[np.integer[Any]], header: Dataset) -> Pixels:
    """The 256 levels of stored values (H, W), by the header's lookup tables, window and photometry.

    Raises UnclearGreyLevels for a lookup table or a window that DICOM does not know.
    """
    return Radiograph.of(stored, header).grey()


def _stored_range(header: Dataset) -> tuple[int, int]:
    """The lowest and highest value that can be stored."""
    bits = int(header.BitsStored)
    if bits not in _DEPTHS:
        raise UnclearGreyLevels(f"values of {bits} bits: {_AGAIN}")
    half = 2 ** (bits - 1)
    return (-half, half - 1) if header.PixelRepresentation else (0, 2 * half - 1)


def _modality(
    values: NDArray[np.integer[Any]], stored: tuple[int, int], header: Dataset
) -> tuple[Numbers, tuple[float, float]]:
    """What stored values mean, and the range of it (C.11.1)."""
    if tables := header.get("ModalityLUTSequence"):
        levels, bits = _look_up(values.astype(np.float64), tables[0], header)
        return levels, (0.0, 2.0**bits - 1)
    slope = float(header.get("RescaleSlope", 1) or 0)
    intercept = float(header.get("RescaleIntercept", 0) or 0)
    if not slope or not np.isfinite([slope, intercept]).all():
        raise UnclearGreyLevels(f"its rescale slope makes all values one: {_AGAIN}")
    ends = sorted(slope * end + intercept for end in stored)
    return np.asarray(values * slope + intercept, np.float64), (ends[0], ends[1])


def _shown(values: Numbers, output: tuple[float, float], header: Dataset) -> Numbers:
    """Values as shares of the displayed range, black 0 to white 1 (C.11.2)."""
    if tables := header.get("VOILUTSequence"):
        levels, bits = _look_up(values, tables[0], header)
        return levels / (2.0**bits - 1)
    centers, widths = (_numbers(header.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if not centers or not widths:
        low, high = output
        return (values - low) / (high - low)
    center, width = centers[0], widths[0]
    match str(header.get("VOILUTFunction") or "LINEAR").upper():
        case "LINEAR" if width >= 1:
            return _linear(values, center, width)
        case "LINEAR_EXACT" if width > 0:
            return (values - center) / width + 0.5
        case "SIGMOID" if width > 0:
            return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    raise UnclearGreyLevels(f"a window of unknown kind or no width: {_AGAIN}")


def _linear(values: Numbers, center: float, width: float) -> Numbers:
    """Values by a linear window, as shares of the displayed range (C.11.2.1.2.1)."""
    if width <= 1:  # a threshold
        return (values > center - 0.5).astype(np.float64)
    return (values - (center - 0.5)) / (width - 1) + 0.5


def _linear_window(header: Dataset) -> tuple[float, float] | None:
    """Centre and width of the window that `_shown` applies, where `_linear` does that."""
    centers, widths = (_numbers(header.get(name)) for name in ("WindowCenter", "WindowWidth"))
    linear = str(header.get("VOILUTFunction") or "LINEAR").upper() == "LINEAR"
    if header.get("VOILUTSequence") or not linear or not centers or not widths:
        return None
    return centers[0], widths[0]


@dataclass(frozen=True, eq=False)
class LookupTable:
    """A lookup table of a header: the entry of each value from `first` on, of so many bits."""

    first: int
    entries: NDArray[np.integer[Any]]
    bits: int


def read_table(item: Dataset, header: Dataset) -> LookupTable:
    """Read an item of a sequence of lookup tables (DICOM PS3.3, C.11.1.1.1).

    Tables are met that say 16 bits and end with 1,023: the bits are the fewest that hold them all.

    Raises:
        UnclearGreyLevels: a table that is cut off, or of bits that DICOM does not know.
    """
    count, first, bits = (int(word) for word in item.LUTDescriptor)
    count = count or 2**16
    if first >= 2**15 and header.PixelRepresentation and "RescaleSlope" not in header:
        first -= 2**16  # a signed number that was read as one without a sign
    table = _table(item.LUTData, count, header)
    if bits not in (8, *range(10, 17)) or len(table) < count:
        raise UnclearGreyLevels(f"a lookup table that is cut off, or of other bits: {_AGAIN}")
    most = int(table[:count].max())
    bits = next((depth for depth in _USUAL_DEPTHS if most < 2**depth and depth <= bits), bits)
    return LookupTable(first, table[:count], bits)


def _look_up(values: Numbers, item: Dataset, header: Dataset) -> tuple[Numbers, int]:
    """The entries of a lookup table for values, and the bits that an entry has."""
    table = read_table(item, header)
    places = np.clip(np.floor(values) - table.first, 0, len(table.entries) - 1).astype(np.int64)
    return table.entries[places].astype(np.float64), table.bits


def _table(data: Any, count: int, header: Dataset) -> NDArray[np.integer[Any]]:
    """The entries of a lookup table; pydicom leaves words of bytes as they are."""
    if not isinstance(data, bytes):
        return np.atleast_1d(np.asarray(data, dtype=np.int64))
    if len(data) in (count, count + 1) and count > 1:
        return np.frombuffer(data, np.uint8)
    order = "<" if header.original_encoding[1] else ">"
    return np.frombuffer(data[: len(data) // 2 * 2], f"{order}u2")


def _numbers(value: Any) -> list[float]:
    """One number or several of a header, as a list; empty where there is none."""
    if value is None or value == "":
        return []
    several = isinstance(value, Sequence) and not isinstance(value, str)
    return [float(one) for one in (value if several else [value])]


def _padding(header: Dataset) -> tuple[int, int] | None:
    """The first and the last stored value that is no part of the picture (C.7.5.1.1.2)."""
    value = header.get("PixelPaddingValue")
    if value is None:
        return None
    limit = header.get("PixelPaddingRangeLimit")
    first, last = sorted((int(value), int(value if limit is None else limit)))
    return first, last


def _stored_values(header: Dataset) -> NDArray[np.integer[Any]]:
    """The values (H, W) of the file; pydicom takes out what overlays have in the same words."""
    if "PixelData" not in header:
        raise UnclearGreyLevels(f"no pixels in the file: {_AGAIN}")
    if int(header.HighBit) != int(header.BitsStored) - 1:
        raise UnclearGreyLevels(f"values that do not begin with the lowest bit: {_AGAIN}")
    syntax, bits = header.file_meta.TransferSyntaxUID, int(header.BitsStored)
    plugins = _find_plugins(syntax, bits)
    if plugins is None:
        what = f"{syntax.name} of {bits} bits" if syntax == _JPEG_EXTENDED else syntax.name
        raise UnclearGreyLevels(
            f"nothing installed decodes {what}: export it with another compression"
        )
    if syntax in _WITH_END and _END not in header.PixelData[-_LAST_BYTES:]:
        raise UnclearGreyLevels(f"cut off: its compressed pixels have no end: {_AGAIN}")
    if syntax in _JPEG_2000 and "pillow" in plugins:  # the same library; GDCM's prints its errors
        header.pixel_array_options(decoding_plugin="pillow")
    stored: NDArray[np.integer[Any]] = header.pixel_array
    if stored.ndim != 2:
        raise UnclearGreyLevels(f"{stored.ndim} dimensions, and not rows and columns: {_AGAIN}")
    return stored


def decoded_syntaxes() -> list[str]:
    """The transfer syntaxes that can be decoded here, but for the deflated one.

    A deflated file is inflated before its header can be read.
    """
    known = _pydicom().uid.AllTransferSyntaxes
    return [str(uid) for uid in known if uid != _DEFLATED and _find_plugins(uid, 8) is not None]


def _find_plugins(syntax: Any, bits: int) -> set[str] | None:
    """The installed plugins of pydicom that decode values of so many bits in a transfer syntax, and
    none where it takes none; None where nothing installed decodes these."""
    try:
        decoder = _pydicom().pixels.get_decoder(syntax)
    except NotImplementedError:  # pydicom's word for a syntax that it does not know
        return None
    plugins = set(decoder.available_plugins)
    if syntax == _JPEG_EXTENDED and bits > 8:
        return plugins - {"gdcm", "pillow"} or None
    return plugins if decoder.is_available else None


def _refuse_others(header: Dataset) -> None:
    """Raise UnclearGreyLevels for what is no radiograph of one grey picture, meant to be seen."""
    kind = str(header.get("SOPClassUID", ""))
    intent = str(header.get("PresentationIntentType", "")).upper()
    if kind == _FOR_PROCESSING or (kind in RADIOGRAPHS and intent == "FOR PROCESSING"):
        raise UnclearGreyLevels(
            "raw data of the detector (FOR PROCESSING): export the image for presentation"
        )
    if not kind:
        raise UnclearGreyLevels("a header without the kind of its object: copy or export it again")
    if kind not in RADIOGRAPHS:
        raise UnclearGreyLevels(
            "no radiograph but another DICOM object: CR, and DX for presentation, are read"
        )
    if (frames := int(header.get("NumberOfFrames") or 1)) != 1:
        raise UnclearGreyLevels(f"{frames} frames in one file: export each picture by itself")
    photometric = str(header.get("PhotometricInterpretation", ""))
    if photometric not in ("MONOCHROME1", "MONOCHROME2") or int(header.SamplesPerPixel) != 1:
        raise UnclearGreyLevels(f"no picture of grey values: {_AGAIN} without colours")
    if int(header.BitsAllocated) not in (8, 16):
        raise UnclearGreyLevels(f"{int(header.BitsAllocated)} bits a pixel, and not 8 or 16")


def _refuse_bombs(file: BinaryIO, most_bytes: int) -> None:
    """Raise UnclearGreyLevels where a deflated file inflates to more than `most_bytes`.

    pydicom inflates all of it at once, from where its own reader of the meta information ends: a
    file may lie about the length of that, and hide its transfer syntax behind other elements.
    """
    file.seek(_MAGIC_AT + len(_MAGIC))
    meta = _pydicom().filereader.read_dataset(
        file, False, True, stop_when=lambda tag, *_: tag >> 16 != _META_GROUP
    )
    list(meta)  # an element that cannot be read would make pydicom read them all in another way
    deflated = meta.get("TransferSyntaxUID") == _DEFLATED
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated, rest = 0, file.read() if deflated else b""
    while rest and not inflater.eof:
        inflated += len(inflater.decompress(rest, _PIECE))
        rest = inflater.unconsumed_tail
        if inflated > most_bytes:
            raise UnclearGreyLevels(f"inflates to more than {most_bytes:,} bytes: reduce it first")
    if len(inflater.unused_data) > _LAST_BYTES:
        raise UnclearGreyLevels(f"damaged: its deflated part ends early: {_AGAIN}")
    file.seek(0)


class _explained:
    """Within it, what pydicom raises becomes one sentence, without the values that it may quote."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is None or issubclass(kind, UnclearGreyLevels | InputError | MemoryError):
            return
        if issubclass(kind, Exception):  # parsers of a hostile file let through whatever there is
            raise UnclearGreyLevels(
                f"damaged, cut off, or not as DICOM has it ({kind.__name__}): {_AGAIN}"
            ) from None


@functools.cache
def _pydicom() -> Any:
    """pydicom, told to keep what it thinks of headers to itself."""
    try:
        import pydicom
        import pydicom.pixels
    except ImportError:
        raise InputError(
            "DICOM files need the extra 'dicom': pip install 'mura-tune[dicom]'"
        ) from None
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)  # it quotes values
    warnings.filterwarnings("ignore", module=r"pydicom\b")
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    return pydicom
