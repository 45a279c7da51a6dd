"""Files of DICOM radiographs: what their headers say, which are refused, and their stored values.

Nothing of a header but what this needs is looked at, and no value of it is in a message.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import logging
import re
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mura_tune.errors import InputError, UnreadableImage
from mura_tune.imaging.grey_levels import UnclearGreyLevels
from mura_tune.imaging.radiograph import EXPORT_AGAIN, Radiograph
from mura_tune.text import printable

if TYPE_CHECKING:
    from pydicom import Dataset

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
# As headers have it (PS3.5, 6.2), 045Y, or as people write it in a table: 45, 4.5 y, 6 months.
_AGE = re.compile(r"(\d{1,3}(?:\.\d+)?) ?([DWMY]?|(?:DAY|WEEK|MONTH|YEAR)S?)", re.IGNORECASE)
_A_YEAR = {"D": 365.25, "W": 52.18, "M": 12, "Y": 1}
_LONGEST = 64  # characters of a value
_MAGIC, _MAGIC_AT = b"DICM", 128
_META_GROUP = 2  # of a file's meta information, which names the transfer syntax
_MOST_INFLATED = 1 << 30  # bytes of a file whose header alone is read
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
        raise UnreadableImage(path, f"its header names no study: {EXPORT_AGAIN}")
    digest = hashlib.sha256(f"{issuer}\0{patient or study}".encode())
    return Identity(digest.hexdigest()[:16], study, body_part)


def read_characteristics(path: Path, names: Sequence[str]) -> list[str]:
    """Read some of CHARACTERISTICS, in capitals; "" where a header has none, or none that is legal.

    An age is in whole years.

    Raises:
        UnreadableImage: no DICOM file, or a header that cannot be read.
        InputError: the extra `dicom` is not installed.
    """
    fields = _read_fields(path, [CHARACTERISTICS[name] for name in names])
    return [_clean(name, field) for name, field in zip(names, fields, strict=True)]


def _clean(name: str, field: str) -> str:
    """One of CHARACTERISTICS as groups are named by it."""
    value = " ".join(printable(field).upper().split())
    if name == "age":
        years = parse_age(value)
        return "" if years is None else str(years)
    return value[:_LONGEST]


def parse_age(text: str) -> int | None:
    """The whole years of an age such as `045Y`, `006M` or `45`, which has no unit; else None."""
    written = _AGE.fullmatch(text.strip())
    if written is None:
        return None
    return int(float(written[1]) / _A_YEAR[written[2][:1].upper() or "Y"])


def picture_size(header: Dataset) -> tuple[int, int]:
    """Rows and columns, both at least 1. Raises UnclearGreyLevels where the header has none."""
    with _explained():
        rows, columns = int(header.Rows), int(header.Columns)
        if min(rows, columns) < 1:
            raise UnclearGreyLevels(f"a picture of {columns} x {rows} pixels: {EXPORT_AGAIN}")
    return rows, columns


def read_radiograph(header: Dataset) -> Radiograph:
    """Decode the file that `read_header` opened.

    Raises:
        UnclearGreyLevels: pixels that are cut off or damaged, a kind of compression that nothing
            installed decodes, or a lookup table or window that DICOM does not know.
    """
    with _explained():
        return Radiograph.of(_stored_values(header), header)


def _stored_values(header: Dataset) -> NDArray[np.integer[Any]]:
    """The values (H, W) of the file; pydicom takes out what overlays have in the same words."""
    if "PixelData" not in header:
        raise UnclearGreyLevels(f"no pixels in the file: {EXPORT_AGAIN}")
    if int(header.HighBit) != int(header.BitsStored) - 1:
        raise UnclearGreyLevels(f"values that do not begin with the lowest bit: {EXPORT_AGAIN}")
    syntax, bits = header.file_meta.TransferSyntaxUID, int(header.BitsStored)
    plugins = _find_plugins(syntax, bits)
    if plugins is None:
        what = f"{syntax.name} of {bits} bits" if syntax == _JPEG_EXTENDED else syntax.name
        raise UnclearGreyLevels(
            f"nothing installed decodes {what}: export it with another compression"
        )
    if syntax in _WITH_END and _END not in header.PixelData[-_LAST_BYTES:]:
        raise UnclearGreyLevels(f"cut off: its compressed pixels have no end: {EXPORT_AGAIN}")
    if syntax in _JPEG_2000 and "pillow" in plugins:  # the same library; GDCM's prints its errors
        header.pixel_array_options(decoding_plugin="pillow")
    stored: NDArray[np.integer[Any]] = header.pixel_array
    if stored.ndim != 2:
        raise UnclearGreyLevels(
            f"{stored.ndim} dimensions, and not rows and columns: {EXPORT_AGAIN}"
        )
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
    except NotImplementedError:  # what get_decoder raises for a syntax that pydicom does not know
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
        raise UnclearGreyLevels(f"no picture of grey values: {EXPORT_AGAIN} without colours")
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
        raise UnclearGreyLevels(f"damaged: its deflated part ends early: {EXPORT_AGAIN}")
    file.seek(0)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Within it, what pydicom raises becomes one sentence, without the values that it may quote."""
    try:
        yield
    except (UnclearGreyLevels, InputError, MemoryError):
        raise
    except Exception as error:
        # pydicom and its plugins parse bytes that anybody made, and let through what that raises:
        # struct.error, KeyError, RecursionError, … Their text may quote a patient's name.
        kind = type(error).__name__
        raise UnclearGreyLevels(
            f"damaged, cut off, or not as DICOM has it ({kind}): {EXPORT_AGAIN}"
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
