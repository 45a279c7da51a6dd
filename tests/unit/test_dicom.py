"""DICOM radiographs: each lookup, window and inversion gives the grey values that it should."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from conftest import Ran
from dicoms import SECRET, dicom_file, table, to_bytes
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.encaps import generate_frames
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForProcessing,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    MRImageStorage,
    RLELossless,
)

from mura_tune.errors import InputError, UnreadableImage
from mura_tune.imaging import dicom, images
from mura_tune.imaging.images import decode_image
from mura_tune.imaging.radiograph import Radiograph

DICOM = Path(__file__).parents[3] / "shared" / "dicom"


def ramp(bits: int, dtype: Any = np.uint16) -> np.ndarray[Any, Any]:
    """Every 16th of the values of so many bits, 16 x 16 and more."""
    low = -(2 ** (bits - 1)) if np.dtype(dtype).kind == "i" else 0
    return np.linspace(low, low + 2**bits - 1, 256).round().astype(dtype).reshape(16, 16)


def shares(levels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Levels of shares from 0 to 1, rounded to the next."""
    return np.floor(np.clip(levels, 0, 1) * 255 + 0.5).astype(np.uint8)


X10, X12, X14, X16 = (ramp(bits).astype(float) for bits in (10, 12, 14, 16))
S12 = ramp(12, np.int16).astype(float)
BITS12 = {"BitsStored": 12, "HighBit": 11}
GAMMA = (np.linspace(0, 1, 4096) ** 2 * 4095).round().astype(np.uint16)
SHORT = np.arange(1024, dtype=np.uint16)[::-1].copy()
CASES: dict[str, tuple[np.ndarray[Any, Any], dict[str, Any], np.ndarray[Any, Any]]] = {
    "8 bits as they are": (ramp(8, np.uint8), {}, ramp(8, np.uint8)),
    "12 of 16 bits": (ramp(12), BITS12, shares(X12 / 4095)),
    "16 bits": (ramp(16), {}, shares(X16 / 65535)),
    "signed": (ramp(12, np.int16), BITS12, shares((S12 + 2048) / 4095)),
    "low values white": (
        ramp(12),
        BITS12 | {"PhotometricInterpretation": "MONOCHROME1"},
        shares(1 - X12 / 4095),
    ),
    "inverse by its shape": (
        ramp(12),
        BITS12 | {"PresentationLUTShape": "INVERSE"},
        shares(1 - X12 / 4095),
    ),
    "inverted once, though both say so": (
        ramp(12),
        BITS12 | {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
        shares(1 - X12 / 4095),
    ),
    "a window": (
        ramp(12),
        BITS12 | {"WindowCenter": 1000, "WindowWidth": 500},
        shares((X12 - 999.5) / 499 + 0.5),
    ),
    "the first of two windows": (
        ramp(12),
        BITS12 | {"WindowCenter": [1000, 2000], "WindowWidth": [500, 9]},
        shares((X12 - 999.5) / 499 + 0.5),
    ),
    "an exact window": (
        ramp(12),
        BITS12 | {"WindowCenter": 1000, "WindowWidth": 500, "VOILUTFunction": "LINEAR_EXACT"},
        shares((X12 - 1000) / 500 + 0.5),
    ),
    "a sigmoid": (
        ramp(12),
        BITS12 | {"WindowCenter": 1000, "WindowWidth": 500, "VOILUTFunction": "SIGMOID"},
        shares(1 / (1 + np.exp(-4 * (X12 - 1000) / 500))),
    ),
    "a window of one value": (
        ramp(12),
        BITS12 | {"WindowCenter": 1000.5, "WindowWidth": 1},
        shares(X12 > 1000),
    ),
    "a window and low values white": (
        ramp(12),
        BITS12
        | {"WindowCenter": 1000, "WindowWidth": 500, "PhotometricInterpretation": "MONOCHROME1"},
        shares(0.5 - (X12 - 999.5) / 499),
    ),
    "rescaled, then windowed": (
        ramp(12),
        BITS12
        | {"RescaleSlope": 2, "RescaleIntercept": -1000, "WindowCenter": 1000, "WindowWidth": 500},
        shares((2 * X12 - 1000 - 999.5) / 499 + 0.5),
    ),
    "rescaled by a negative slope": (
        ramp(12),
        BITS12 | {"RescaleSlope": -1, "RescaleIntercept": 0},
        shares(1 - X12 / 4095),
    ),
    "a lookup table of the modality": (
        ramp(12),
        BITS12 | {"ModalityLUTSequence": table(0, 12, GAMMA)},
        shares(GAMMA[X12.astype(int)] / 4095),
    ),
    "a table that says 16 bits and has 10": (
        ramp(10),
        {"BitsStored": 10, "HighBit": 9, "ModalityLUTSequence": table(0, 16, SHORT)},
        shares(SHORT[ramp(10)] / 1023),
    ),
    "a table of the display, before any window": (
        ramp(12),
        BITS12 | {"VOILUTSequence": table(0, 12, GAMMA), "WindowCenter": 1000, "WindowWidth": 500},
        shares(GAMMA[X12.astype(int)] / 4095),
    ),
    "a table that begins later": (
        ramp(12),
        BITS12 | {"VOILUTSequence": table(2000, 10, SHORT)},
        shares(SHORT[np.clip(X12 - 2000, 0, 1023).astype(int)] / 1023),
    ),
    "padding is black": (
        ramp(12),
        BITS12 | {"PixelPaddingValue": 4095},
        np.where(X12 == 4095, 0, shares(X12 / 4095)),
    ),
    "padding is black where low values are white": (
        ramp(12),
        BITS12
        | {
            "PixelPaddingValue": 0,
            "PixelPaddingRangeLimit": 100,
            "PhotometricInterpretation": "MONOCHROME1",
        },
        np.where(X12 <= 100, 0, shares(1 - X12 / 4095)),
    ),
    "10 bits": (ramp(10), {"BitsStored": 10, "HighBit": 9}, shares(X10 / 1023)),
    "14 bits": (ramp(14), {"BitsStored": 14, "HighBit": 13}, shares(X14 / 16383)),
    "8 bits with low values white": (
        ramp(8, np.uint8),
        {"PhotometricInterpretation": "MONOCHROME1"},
        255 - ramp(8, np.uint8),
    ),
    "8 bits with a sign": (ramp(8, np.int8), {}, ramp(8, np.uint8)),
    "low values black, and its shape says so": (
        ramp(12),
        BITS12 | {"PresentationLUTShape": "IDENTITY"},
        shares(X12 / 4095),
    ),
    "a window over values with a sign": (
        ramp(12, np.int16),
        BITS12 | {"WindowCenter": -100, "WindowWidth": 500},
        shares((S12 + 100.5) / 499 + 0.5),
    ),
    "a window that is named linear": (
        ramp(12),
        BITS12 | {"WindowCenter": 1000, "WindowWidth": 500, "VOILUTFunction": "LINEAR"},
        shares((X12 - 999.5) / 499 + 0.5),
    ),
    "a window without its width is none": (
        ramp(12),
        BITS12 | {"WindowCenter": 1000},
        shares(X12 / 4095),
    ),
    "an exact window and low values white": (
        ramp(12),
        BITS12
        | {"WindowCenter": 1000, "WindowWidth": 500, "VOILUTFunction": "LINEAR_EXACT"}
        | {"PhotometricInterpretation": "MONOCHROME1"},
        shares(0.5 - (X12 - 1000) / 500),
    ),
    "a sigmoid, inverse by its shape": (
        ramp(12),
        BITS12
        | {"WindowCenter": 1000, "WindowWidth": 500, "VOILUTFunction": "SIGMOID"}
        | {"PresentationLUTShape": "INVERSE"},
        shares(1 - 1 / (1 + np.exp(-4 * (X12 - 1000) / 500))),
    ),
    "a sigmoid after a rescale": (
        ramp(12),
        BITS12
        | {"RescaleSlope": 0.5, "RescaleIntercept": 10}
        | {"WindowCenter": 1000, "WindowWidth": 500, "VOILUTFunction": "SIGMOID"},
        shares(1 / (1 + np.exp(-4 * (0.5 * X12 + 10 - 1000) / 500))),
    ),
    "rescaled, and no window": (
        ramp(12),
        BITS12 | {"RescaleSlope": 0.684, "RescaleIntercept": 200},
        shares(X12 / 4095),
    ),
    "a table of the modality, then a window": (
        ramp(12),
        BITS12
        | {"ModalityLUTSequence": table(0, 12, GAMMA), "WindowCenter": 1000, "WindowWidth": 500},
        shares((GAMMA[X12.astype(int)] - 999.5) / 499 + 0.5),
    ),
    "a table of the modality, then one of the display": (
        ramp(12),
        BITS12
        | {
            "ModalityLUTSequence": table(0, 12, GAMMA),
            "VOILUTSequence": table(0, 12, GAMMA[::-1].copy()),
        },
        shares(GAMMA[4095 - GAMMA[X12.astype(int)]] / 4095),
    ),
    "a table of the modality over values with a sign": (
        ramp(12, np.int16),
        BITS12 | {"ModalityLUTSequence": table(2**16 - 2048, 12, GAMMA)},
        shares(GAMMA[S12.astype(int) + 2048] / 4095),
    ),
    "a table of the display after a rescale": (
        ramp(12),
        BITS12
        | {"RescaleSlope": 2, "RescaleIntercept": 100, "VOILUTSequence": table(100, 12, GAMMA)},
        shares(GAMMA[np.clip(2 * X12, 0, 4095).astype(int)] / 4095),
    ),
    "a table of the display and low values white": (
        ramp(12),
        BITS12
        | {"VOILUTSequence": table(0, 12, GAMMA), "PhotometricInterpretation": "MONOCHROME1"},
        shares(1 - GAMMA[X12.astype(int)] / 4095),
    ),
    "the first of two tables": (
        ramp(12),
        BITS12 | {"VOILUTSequence": table(0, 12, GAMMA) + table(0, 10, SHORT)},
        shares(GAMMA[X12.astype(int)] / 4095),
    ),
    "a table of 65,536 entries": (
        ramp(16),
        {"VOILUTSequence": table(0, 16, np.arange(2**16, dtype=np.uint16)[::-1].copy())},
        shares(1 - X16 / 65535),
    ),
    "padding with a sign, outside the window": (
        ramp(12, np.int16),
        BITS12 | {"PixelPaddingValue": -2048, "WindowCenter": -2000, "WindowWidth": 200},
        np.where(S12 == -2048, 0, shares((S12 + 2000.5) / 199 + 0.5)),
    ),
    "padding down to a limit": (
        ramp(12),
        BITS12 | {"PixelPaddingValue": 4095, "PixelPaddingRangeLimit": 4000},
        np.where(X12 >= 4000, 0, shares(X12 / 4095)),
    ),
    "padding that a rescale does not touch": (
        ramp(12),
        BITS12 | {"PixelPaddingValue": 4095, "RescaleSlope": -1, "RescaleIntercept": 0},
        np.where(X12 == 4095, 0, shares(1 - X12 / 4095)),
    ),
    "bits of another in the same words": (
        ramp(12) | np.uint16(0xA000),
        BITS12,
        shares(X12 / 4095),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_grey_values_are_those_of_the_header(name: str) -> None:
    pixels, fields, expected = CASES[name]
    grey = decode_image(to_bytes(dicom_file(pixels, **fields)), "x.dcm")
    np.testing.assert_array_equal(grey, expected)


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian],
)
def test_other_orders_of_bytes_give_the_same(syntax: str) -> None:
    pixels = ramp(12)
    big = pixels.astype(">u2") if syntax == ExplicitVRBigEndian else pixels
    fields = BITS12 | {"VOILUTSequence": table(0, 12, GAMMA)}
    if syntax == ExplicitVRBigEndian:
        fields["VOILUTSequence"][0]["LUTData"].value = GAMMA.astype(">u2").tobytes()
    grey = decode_image(to_bytes(dicom_file(big, syntax=syntax, **fields)), "x.dcm")
    np.testing.assert_array_equal(grey, shares(GAMMA[pixels] / 4095))


def test_packed_runs_give_the_same() -> None:
    file = dicom_file(ramp(12), **BITS12)
    plain = decode_image(to_bytes(file), "x.dcm")
    file.compress(RLELossless)
    np.testing.assert_array_equal(decode_image(to_bytes(file), "x.dcm"), plain)


def test_a_real_radiograph_is_shown_by_its_window() -> None:
    file = get_testdata_file("RG3_J2KR.dcm")
    grey = images.read_image(str(file))
    header = pydicom.dcmread(str(get_testdata_file("RG3_UNCR.dcm")))  # the same, not compressed
    center, width = float(header.WindowCenter), float(header.WindowWidth)
    by_hand = 0.5 - (header.pixel_array.astype(float) - (center - 0.5)) / (width - 1)
    np.testing.assert_array_equal(grey, shares(by_hand))


@pytest.mark.skipif(not DICOM.is_dir(), reason="no real radiographs in DICOM beside the checkout")
def test_real_files_are_as_pydicom_reads_them() -> None:
    hand = DICOM / "hand_J2K_lossless_mono2_12bit.dcm"
    stream = next(generate_frames(pydicom.dcmread(hand).PixelData, number_of_frames=1))
    with Image.open(io.BytesIO(stream)) as opened:  # JPEG 2000, read by Pillow alone
        stored = np.array(opened).astype(float)
    np.testing.assert_array_equal(images.read_image(hand), shares((stored - 2047.5) / 4095 + 0.5))
    table_of_modality = DICOM / "CR-ModalitySequenceLUT.dcm"
    header = pydicom.dcmread(table_of_modality)
    entries = np.frombuffer(header.ModalityLUTSequence[0].LUTData, "<u2").astype(float)
    np.testing.assert_array_equal(
        images.read_image(table_of_modality), shares(1 - entries[header.pixel_array] / 1023)
    )
    breast = DICOM / "mg_voilut_3windows_sigmoid.dcm"
    with pytest.raises(UnreadableImage, match="no radiograph"):
        images.read_image(breast)
    header = pydicom.dcmread(breast)  # it has a table of the display, beside three windows
    item = header.VOILUTSequence[0]
    count, first, _ = item.LUTDescriptor
    places = np.clip(header.pixel_array.astype(int) - first, 0, count - 1)
    expected = shares(np.asarray(item.LUTData)[places] / 4095)
    expected[header.pixel_array == header.PixelPaddingValue] = 0
    np.testing.assert_array_equal(Radiograph.of(header.pixel_array, header).grey(), expected)


def test_the_ends_of_a_picture_are_those_of_what_is_no_padding() -> None:
    values = np.array([[0, 100], [300, 4000]], np.uint16)
    file = dicom_file(values, RescaleSlope=2, RescaleIntercept=-50, PixelPaddingValue=0)
    assert Radiograph.of(values, file).extremes() == (150, 7950)
    file.PixelPaddingRangeLimit = 4000
    assert Radiograph.of(values, file).extremes() == (-50, 2 * 65535 - 50)  # all of it is padding


def broken(**fields: object) -> bytes:
    return to_bytes(dicom_file(ramp(12), **BITS12 | fields))


WHOLE = broken()
PREFIX, _, _ = WHOLE.partition(ramp(12).tobytes())
BAD: dict[str, bytes] = {
    "cut off in the pixels": WHOLE[:-100],
    "cut off before the pixels": PREFIX[:-4],
    "cut off in the header": WHOLE[:400],
    "cut off after the magic word": WHOLE[:132],
    "cut off in the meta information": WHOLE[:160],
    "no pixels": to_bytes(dicom_file(ramp(12), PixelData=None, **BITS12)),
    "bytes of another size": broken(Rows=400),
    "no rows": broken(Rows=None),
    "zero rows": broken(Rows=0),
    "more pixels than memory": broken(Rows=65535, Columns=65535),
    "no bits": broken(BitsStored=None),
    "more bits stored than there are": broken(BitsStored=20),
    "zero bits": broken(BitsStored=0),
    "a high bit that is too low": broken(HighBit=3),
    "bits that begin higher": to_bytes(
        dicom_file(ramp(12) << np.uint16(4), BitsStored=12, HighBit=15)
    ),
    "32 bits": to_bytes(dicom_file(ramp(12, np.uint32))),
    "raw data of the detector": broken(SOPClassUID=DigitalXRayImageStorageForProcessing),
    "raw data by its intent": broken(PresentationIntentType="FOR PROCESSING"),
    "another modality": broken(SOPClassUID=MRImageStorage),
    "no object": broken(SOPClassUID=None),
    "several frames": broken(NumberOfFrames=2),
    "colour": broken(PhotometricInterpretation="RGB"),
    "three samples": broken(SamplesPerPixel=3),
    "no photometry": broken(PhotometricInterpretation=None),
    "a window without contrast": broken(WindowCenter=20000, WindowWidth=100),
    "a window of no width": broken(WindowCenter=1000, WindowWidth=0),
    "a window of another kind": broken(
        WindowCenter=1000, WindowWidth=100, VOILUTFunction="MYSTERY"
    ),
    "a window that is no number": broken(WindowCenter="1000", WindowWidth=500).replace(
        b"DS\x04\x001000", b"DS\x04\x00abcd"
    ),
    "a slope of zero": broken(RescaleSlope=0, RescaleIntercept=0),
    "a table that is cut off": broken(VOILUTSequence=table(0, 12, GAMMA[:10])).replace(
        struct.pack("<HHH", 10, 0, 12), struct.pack("<HHH", 4096, 0, 12)
    ),
    "a table of 9 bits": broken(VOILUTSequence=table(0, 9, GAMMA)),
    "one value everywhere": to_bytes(dicom_file(np.full((16, 16), 7, np.uint8))),
    "no compression that is known": WHOLE.replace(
        b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0"
    ),
    "compressed by name alone": WHOLE.replace(
        b"UI\x14\x001.2.840.10008.1.2.1\0", b"UI\x14\x001.2.840.10008.1.2.5\0"
    ),
    "bytes behind the deflated part": to_bytes(
        dicom_file(ramp(16), syntax=DeflatedExplicitVRLittleEndian)
    )
    + bytes(64),
    "a bomb": to_bytes(
        dicom_file(
            ramp(16),
            syntax=DeflatedExplicitVRLittleEndian,
            EncapsulatedDocument=bytes(3 * 2**20),
        )
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_malformed_file_is_refused_in_one_line(
    name: str, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    if name == "a bomb":
        monkeypatch.setattr(images, "MAX_BYTES", 2**20)
    with pytest.raises(UnreadableImage) as refused:
        decode_image(BAD[name], "x.dcm")
    line = str(refused.value)
    assert line.startswith("x.dcm: ")
    assert "\n" not in line
    assert SECRET not in line
    assert ("inflates" in line) == (name == "a bomb")
    assert ("65535 x 65535 is more than" in line) == (name == "more pixels than memory")
    assert not [one for one in recwarn if SECRET in str(one.message)]


@pytest.mark.parametrize("damage", ["bomb", "no deflate", "hidden", "a length that lies"])
def test_a_deflated_header_is_inflated_up_to_a_limit(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = BAD["a bomb"]
    if damage == "no deflate":
        content = content[:-3000] + bytes([255]) * 3000
    if damage == "hidden":  # the transfer syntax comes late
        private = struct.pack("<HH2sHI", 2, 0x0102, b"OB", 0, 2000) + bytes(2000)
        content = content[:132] + private + content[132:]
    if damage == "a length that lies":
        content = content[:140] + struct.pack("<I", 20) + content[144:]
    monkeypatch.setattr(dicom, "_MOST_INFLATED", 2**20)
    (tmp_path / "x.dcm").write_bytes(content)
    for read in (
        lambda: dicom.read_identity(tmp_path / "x.dcm"),
        lambda: dicom.parse_identity(content, "x.dcm", 2**20),
    ):
        with pytest.raises(UnreadableImage, match=r"x\.dcm: (inflates to more|damaged)"):
            read()


def test_a_header_that_names_no_study_is_unreadable(tmp_path: Path) -> None:
    content = to_bytes(dicom_file(ramp(12), StudyInstanceUID=None))
    (tmp_path / "x.dcm").write_bytes(content)
    for read in (
        lambda: dicom.read_identity(tmp_path / "x.dcm"),
        lambda: dicom.parse_identity(content, "x.dcm", 2**20),
    ):
        with pytest.raises(UnreadableImage, match=r"x\.dcm: its header names no study"):
            read()


def test_there_are_thirty_of_them_and_the_whole_file_is_read() -> None:
    assert len(BAD) >= 30
    assert decode_image(WHOLE, "x.dcm").shape == (16, 16)


def test_without_the_extra_its_name_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    dicom._pydicom.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with pytest.raises(InputError, match=r"mura-tune\[dicom\]"):
        decode_image(WHOLE, "x.dcm")
    dicom._pydicom.cache_clear()


def test_what_nothing_installed_decodes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    file = pydicom.dcmread(str(get_testdata_file("RG3_J2KR.dcm")))
    decoders = pydicom.pixels.get_decoder(JPEG2000Lossless)._available
    for name in list(decoders):
        monkeypatch.delitem(decoders, name)
    with pytest.raises(UnreadableImage, match="nothing installed decodes JPEG 2000"):
        decode_image(to_bytes(file), "x.dcm")


def test_the_command_line_ends_with_one_line_and_code_2_for_each(
    run: Callable[..., Ran], release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MAX_BYTES", 2**20)
    ended = {}
    for number, content in enumerate(BAD.values()):
        file = tmp_path / f"{number}.dcm"
        file.write_bytes(content)
        ended[file] = run("infer", f"--release={release}", f"--image={file}")
    for file, ran in ended.items():
        assert (ran.code, ran.out) == (2, "")
        assert ran.err.startswith(f"mura: {file}: ")
        assert len(ran.err.splitlines()) == 1
        assert SECRET not in ran.err


def test_a_deflated_file_is_decoded_and_not_accepted_from_the_network() -> None:
    syntaxes = dicom.decoded_syntaxes()
    assert {ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless} <= set(syntaxes)
    assert DeflatedExplicitVRLittleEndian not in syntaxes
