"""Pixels of DICOM files of every transfer syntax, against readings that are not ours.

Stored values: the same picture not compressed, as pydicom-data has it, or what DCMTK 3.6.7 decodes
(sha256). Grey levels: pydicom's own lookup functions, and DCMTK's dcmj2pnm where it is installed.
The files are of several modalities; here their headers say CR, and their pixels stay as they are.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicoms import dicom_file, to_bytes
from PIL import Image
from pydicom import FileDataset
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

from mura_tune.errors import UnreadableImage
from mura_tune.imaging.images import decode_picture

Pixels = np.ndarray[Any, Any]
PLAIN_OF = {  # J2KI: 2000 that loses something, beside what it decodes to
    "693_J2KI": "693_UNCI",
    "693_J2KR": "693_UNCR",
    "RG3_J2KI": "RG3_UNCI",
    "RG3_J2KR": "RG3_UNCR",
    "MR_small_RLE": "MR_small",
    "MR_small_expb": "MR_small",
    "MR_small_implicit": "MR_small",
    "MR_small_jp2klossless": "MR_small",
    "MR_small_jpeg_ls_lossless": "MR_small",
}
BY_DCMTK = {
    "JPEG-LL": "b364d556a70a0ed9",
    "JPGLosslessP14SV1_1s_1f_8b": "566b6fa1cbffda6c",
    "bad_sequence": "f763169c67cba6ca",  # JPEG lossless, 12 bits
    "JPEGLSNearLossless_08": "832dd54ff071afd5",
    "JPEGLSNearLossless_16": "1d1ea445c998e392",
    "image_dfl": "3ae25f749a71a0f3",  # deflated
}
SHOWN = (  # each with another way from stored values to grey ones
    "vlut_04",  # a table of the display
    "mlut_18",  # a table of the modality, signed values
    "693_UNCR",  # rescaled, a window, padding
    "bad_sequence",  # two windows
    "MR_small",  # a window, signed values
    "CT_small",  # rescaled, no window
    "6154",  # a CR file: low values white, a slope that is no whole number
)


def path_of(name: str) -> Path:
    if found := get_testdata_file(f"{name}.dcm"):
        return Path(str(found))
    return next((Path(pydicom.__file__).parent / "data").rglob(name))


def as_radiograph(path: Path) -> FileDataset:
    file = pydicom.dcmread(path)
    file.SOPClassUID = ComputedRadiographyImageStorage
    file.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    return file


def stored_values(file: FileDataset) -> Pixels:
    """What we decode; a window that shows some of it stands in for the header's."""
    first, last = np.quantile(file.pixel_array, [0, 1])
    file.WindowCenter, file.WindowWidth = round((first + last) / 2), round(last - first) + 1
    radiograph = decode_picture(to_bytes(file), "x.dcm").radiograph
    assert radiograph is not None
    return radiograph.stored


@pytest.mark.parametrize("name", PLAIN_OF)
def test_stored_values_are_those_of_the_picture_that_is_not_compressed(name: str) -> None:
    plain = pydicom.dcmread(path_of(PLAIN_OF[name])).pixel_array
    np.testing.assert_array_equal(stored_values(as_radiograph(path_of(name))), plain)


@pytest.mark.parametrize("name", BY_DCMTK)
def test_stored_values_are_those_that_dcmtk_decodes(name: str) -> None:
    stored = stored_values(as_radiograph(path_of(name)))
    assert hashlib.sha256(stored.astype("<i4").tobytes()).hexdigest()[:16] == BY_DCMTK[name]


def pattern() -> Pixels:
    """A 12-bit picture that no predictor guesses."""
    rng = np.random.default_rng(0)
    return (
        np.add.outer(np.arange(64) * 30, np.arange(48) * 20) + rng.integers(0, 90, (64, 48))
    ).astype(np.uint16)


BITS12 = {"BitsStored": 12, "HighBit": 11}


def test_jpeg_ls_gives_back_what_was_encoded() -> None:
    file = dicom_file(pattern(), **BITS12)
    file.compress(JPEGLSLossless)
    np.testing.assert_array_equal(stored_values(file), pattern())
    file = dicom_file(pattern(), **BITS12)
    file.compress(JPEGLSNearLossless, jls_error=3)
    off = np.abs(stored_values(file).astype(int) - pattern())
    assert 0 < off.max() <= 3


def test_baseline_jpeg_is_what_pillow_decodes() -> None:
    picture = (pattern() >> 4).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=90)
    file = dicom_file(picture, syntax=JPEGBaseline8Bit, PixelData=encapsulate([stream.getvalue()]))
    file["PixelData"].VR, file["PixelData"].is_undefined_length = "OB", True
    expected = np.array(Image.open(stream)).astype(int)
    assert np.abs(stored_values(file) - expected).max() <= 1  # two inverse transforms may round so


@pytest.mark.parametrize("name", ["JPGExtended", "JPEG-lossy"])
def test_jpeg_of_12_bits_is_named_and_not_called_damaged(name: str) -> None:
    content = to_bytes(as_radiograph(path_of(name)))
    with pytest.raises(
        UnreadableImage, match=r"nothing installed decodes JPEG Extended .* 12 bits"
    ):
        decode_picture(content, "x.dcm")


@pytest.mark.parametrize("name", ["693_J2KR", "JPEG-LL", "JPEGLSNearLossless_16", "MR_small_RLE"])
@pytest.mark.parametrize("tail", [None, 0, 255], ids=["cut", "zeros", "ones"])
def test_compressed_pixels_without_their_end_are_refused_and_nothing_else_is_said(
    name: str, tail: int | None, capfd: pytest.CaptureFixture[str]
) -> None:
    """A library that prints what it thinks of a stream would say it a second time."""
    file = as_radiograph(path_of(name))
    stream = next(generate_frames(file.PixelData, number_of_frames=1))
    half = len(stream) // 4 * 2
    rest = b"" if tail is None else bytes([tail]) * (len(stream) - half)
    file.PixelData = encapsulate([stream[:half] + rest])
    with pytest.raises(UnreadableImage):
        decode_picture(to_bytes(file), "x.dcm")
    assert capfd.readouterr() == ("", "")


def levels_by_pydicom(file: FileDataset) -> Pixels:
    """The 256 levels that pydicom's lookup functions give, over the range that they can give."""
    values = apply_voi_lut(apply_modality_lut(file.pixel_array, file), file, prefer_lut=True)
    half = 2 ** (file.BitsStored - 1)
    low, high = (-half, half - 1) if file.PixelRepresentation else (0, 2 * half - 1)
    slope, intercept = float(file.get("RescaleSlope", 1)), float(file.get("RescaleIntercept", 0))
    low, high = low * slope + intercept, high * slope + intercept
    for name in ("ModalityLUTSequence", "VOILUTSequence"):
        if name in file:
            low, high = 0, 2 ** file[name].value[0].LUTDescriptor[2] - 1
    shown = (values.astype(float) - low) / (high - low)
    if file.PhotometricInterpretation == "MONOCHROME1":
        shown = 1 - shown
    return np.floor(np.clip(shown, 0, 1) * 255 + 0.5)


def in_the_picture(file: FileDataset) -> Pixels:
    """Where no padding is: neither of the two readings treats it as the standard has it."""
    padding = file.get("PixelPaddingValue")
    return file.pixel_array != (1 << 20 if padding is None else padding)


@pytest.mark.parametrize("name", SHOWN)
def test_grey_levels_are_those_of_pydicom(name: str) -> None:
    file = as_radiograph(path_of(name))
    grey, own = decode_picture(to_bytes(file), "x.dcm").grey, in_the_picture(file)
    np.testing.assert_array_equal(grey[own], levels_by_pydicom(file)[own])


@pytest.mark.skipif(not shutil.which("dcmj2pnm"), reason="no dcmj2pnm (Debian: dcmtk)")
@pytest.mark.parametrize("name", SHOWN)
def test_grey_levels_are_within_one_of_those_of_dcmtk(name: str, tmp_path: Path) -> None:
    file = as_radiograph(path_of(name))
    content = to_bytes(file)
    if file.file_meta.TransferSyntaxUID.is_compressed:
        file.decompress()
    (tmp_path / "x.dcm").write_bytes(to_bytes(file))
    shown = ["+Wi", "1"] if "WindowCenter" in file else []
    shown = ["+Wl", "1"] if "VOILUTSequence" in file else shown
    words = ["dcmj2pnm", "+op", *shown, str(tmp_path / "x.dcm"), str(tmp_path / "x.pgm")]
    subprocess.run(words, check=True, capture_output=True, timeout=60)
    with Image.open(tmp_path / "x.pgm") as image:
        theirs = np.array(image).astype(int)
    own = in_the_picture(file)
    assert np.abs(decode_picture(content, "x.dcm").grey[own] - theirs[own]).max() <= 1
