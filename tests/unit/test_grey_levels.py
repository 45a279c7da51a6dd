"""greys: what a file says of depth, transparency and orientation is what is read, or refused."""

import io
import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mura_tune.errors import InputError, UnreadableImage
from mura_tune.imaging import images

RAMP = np.tile(np.linspace(0, 4095, 40).round().astype(np.uint16), (30, 1))  # 12 bits
EIGHT = ((RAMP.astype(np.int64) * 255 + 2047) // 4095).astype(np.uint8)
TURN = Image.Transpose


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def png(pixels_hwc: NDArray[np.uint16], kind: int, *, interlaced: bool = False) -> bytes:
    """A PNG of 16-bit channels, which Pillow does not write; `kind` is PNG's colour type."""
    height, width, _ = pixels_hwc.shape
    head = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, int(interlaced))
    passes = [pixels_hwc]
    if interlaced:
        starts = (
            (0, 0, 8, 8),
            (0, 4, 8, 8),
            (4, 0, 8, 4),
            (0, 2, 4, 4),
            (2, 0, 4, 2),
            (0, 1, 2, 2),
            (1, 0, 2, 1),
        )
        passes = [pixels_hwc[y::down, x::across] for y, x, down, across in starts]
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for one in passes for row in one)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(pixels_hwc: NDArray[np.uint16], photometric: int, order: str, *, packed: bool) -> bytes:
    """A TIFF of 16-bit channels in one strip, of which Pillow writes neither colour nor white 0."""
    height, width, channels = pixels_hwc.shape
    strip = pixels_hwc.astype(f"{order}u2").tobytes()
    strip = zlib.compress(strip) if packed else strip
    extra = [(338, 3, [2])] if (channels, photometric) == (4, 2) else []
    tags = [
        (256, 3, [width]),
        (257, 3, [height]),
        (258, 3, [16] * channels),
        (259, 3, [8 if packed else 1]),
        (262, 3, [photometric]),
        (273, 4, [0]),
        (277, 3, [channels]),
        (278, 3, [height]),
        (279, 4, [len(strip)]),
        *extra,
    ]
    end = 8 + 2 + 12 * len(tags) + 4
    depths = struct.pack(f"{order}{channels}H", *[16] * channels)
    entries = b""
    for tag, kind, values in tags:
        if tag == 273:
            values = [end + len(depths)]
        if len(values) > 2:
            value = struct.pack(f"{order}I", end)
        else:
            value = struct.pack(f"{order}{len(values)}{' HHHI'[kind + 0]}", *values).ljust(4, b"\0")
        entries += struct.pack(f"{order}HHI", tag, kind, len(values)) + value
    mark = b"II" if order == "<" else b"MM"
    head = mark + struct.pack(f"{order}HIH", 42, 8, len(tags))
    return head + entries + bytes(4) + depths + strip


def channels(count: int, *, alpha: int | None = None) -> NDArray[np.uint16]:
    bands = [RAMP] * count + ([] if alpha is None else [np.full_like(RAMP, alpha)])
    return np.stack(bands, axis=2)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
    ("pixels", "kind"),
    [
        (channels(3), 2),
        (channels(1, alpha=65535), 4),
        (channels(1, alpha=4095), 4),
        (channels(3, alpha=65535), 6),
        (channels(3, alpha=4095), 6),
    ],
)
def test_twelve_bits_in_a_deep_colour_png_are_not_black(
    pixels: NDArray[np.uint16], kind: int, interlaced: bool
) -> None:
    got = images.decode_image(png(pixels, kind, interlaced=interlaced), "x")
    np.testing.assert_array_equal(got, EIGHT)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("pixels", [channels(3), channels(3, alpha=65535)])
def test_twelve_bits_in_a_deep_colour_tiff_are_not_black(
    pixels: NDArray[np.uint16], order: str, packed: bool
) -> None:
    got = images.decode_image(tiff(pixels, 2, order, packed=packed), "x")
    np.testing.assert_array_equal(got, EIGHT)


def test_deep_colours_become_the_luma_of_their_eight_bits() -> None:
    deep = np.random.default_rng(0).integers(0, 4096, (9, 7, 3), dtype=np.uint16)
    deep[0, 0, 2] = 4095
    eight = ((deep.astype(np.int64) * 255 + 2047) // 4095).astype(np.uint8)
    expected = np.asarray(Image.fromarray(eight).convert("L"))
    np.testing.assert_array_equal(images.decode_image(png(deep, 2), "x"), expected)


@pytest.mark.parametrize("packed", [False, True])
def test_white_is_zero_at_every_depth(packed: bool) -> None:
    deep = tiff(RAMP[..., None], 0, "<", packed=packed)
    np.testing.assert_array_equal(images.decode_image(deep, "x"), 255 - EIGHT)
    eight = encoded(Image.fromarray(EIGHT), "TIFF", tiffinfo={262: 0})  # Pillow turns it round
    np.testing.assert_array_equal(images.decode_image(eight, "x"), EIGHT)


@pytest.mark.parametrize(
    ("head", "kind", "expected"),
    [
        (b"P5\n40 30\n4095\n", ">u2", EIGHT),
        (b"P5\n40 30\n65535\n", ">u2", EIGHT),
        (b"P5\n40 30\n16383\n", ">u2", (RAMP.astype(int) * 255 + 8191) // 16383),
        (b"P6\n40 30\n65535\n", ">u2", EIGHT),
        (b"P6\n40 30\n16383\n", ">u2", (RAMP.astype(int) * 255 + 8191) // 16383),
        (b"P5\n40 30\n100\n", "u1", (RAMP.astype(int) // 41 * 255 + 50) // 100),
        (b"P6\n40 30\n100\n", "u1", (RAMP.astype(int) // 41 * 255 + 50) // 100),
    ],
)
def test_a_portable_map_has_the_white_of_its_header(
    head: bytes, kind: str, expected: NDArray[np.uint8]
) -> None:
    pixels = RAMP if kind == ">u2" else RAMP // 41
    bands = np.stack([pixels] * (3 if head[:2] == b"P6" else 1), axis=2)
    got = images.decode_image(head + bands.astype(kind).tobytes(), "x")
    np.testing.assert_array_equal(got, expected)


def test_a_portable_map_of_text_is_read_and_not_for_minutes() -> None:
    head = "P2\n40 30\n16383\n" + " ".join(map(str, RAMP.ravel()))
    got = images.decode_image(head.encode(), "x")
    np.testing.assert_array_equal(got, (RAMP.astype(int) * 255 + 8191) // 16383)
    with pytest.raises(UnreadableImage, match="too much for a file of text"):
        images.decode_image(b"P2\n4000 4000\n255\n0", "x")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    ("orientation", "stored_as"),
    [
        (1, None),
        (2, TURN.FLIP_LEFT_RIGHT),
        (3, TURN.ROTATE_180),
        (4, TURN.FLIP_TOP_BOTTOM),
        (5, TURN.TRANSPOSE),
        (6, TURN.ROTATE_90),
        (7, TURN.TRANSVERSE),
        (8, TURN.ROTATE_270),
        (0, None),
        (9, None),
    ],
)
def test_the_exif_orientation_is_applied(
    form: str, orientation: int, stored_as: TURN | None
) -> None:
    """A photograph is stored as its sensor saw it, and EXIF says how to turn it back."""
    upright = Image.fromarray(
        np.kron([[0, 80], [160, 255], [40, 200]], np.ones((16, 16))).astype(np.uint8)
    )
    stored = upright if stored_as is None else upright.transpose(stored_as)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if form == "WEBP" else {}
    got = images.decode_image(encoded(stored, form, exif=exif, **options), "x")
    np.testing.assert_allclose(got, np.asarray(upright), atol=3)


def test_an_exif_that_cannot_be_read_turns_nothing() -> None:
    data = encoded(Image.fromarray(EIGHT), exif=b"Exif\0\0II*\0 not a directory")
    np.testing.assert_array_equal(images.decode_image(data, "x"), EIGHT)


def test_an_exif_that_there_is_no_memory_for_turns_nothing_silently(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(EIGHT), exif=exif)
    monkeypatch.setattr(Image.Exif, "load", fail)
    with pytest.raises(InputError, match="not enough memory"):
        images.decode_image(data, "x")


def test_a_colour_marked_as_transparent_stays_itself() -> None:
    image = Image.fromarray(EIGHT)
    for level in (0, 128, 255):
        data = encoded(image, transparency=level)
        np.testing.assert_array_equal(images.decode_image(data, "x"), EIGHT)
    data = encoded(image.convert("RGB"), transparency=(255, 255, 255))
    np.testing.assert_array_equal(images.decode_image(data, "x"), EIGHT)
    indexed = image.convert("P")
    np.testing.assert_array_equal(
        images.decode_image(encoded(indexed, transparency=indexed.getpixel((39, 0))), "x"),
        images.decode_image(encoded(indexed), "x"),
    )


@pytest.mark.parametrize("ground", [0, 255])
def test_a_cut_out_keeps_its_ground(ground: int) -> None:
    alpha = np.full_like(EIGHT, 255)
    alpha[:, :10], alpha[:, 10:12] = 0, 102
    grey = np.where(alpha == 0, ground, EIGHT).astype(np.uint8)
    soft = np.where(alpha == 102, (grey * 0.4 + ground * 0.6), grey)
    for bands in ([grey, alpha], [grey, grey, grey, alpha]):
        got = images.decode_image(encoded(Image.fromarray(np.stack(bands, axis=2))), "x")
        np.testing.assert_allclose(got, soft, atol=0.51)


@pytest.mark.parametrize(
    ("alpha", "reason"),
    [
        (np.where(np.arange(40) < 20, 0, 255), "part of the picture is transparent"),
        (np.zeros(40), "part of the picture is transparent"),
        (np.full(40, 128), "partly transparent, over nothing"),
    ],
)
def test_transparency_that_hides_a_part_is_refused(alpha: NDArray[np.float64], reason: str) -> None:
    whole = np.broadcast_to(alpha.astype(np.uint8), EIGHT.shape)
    with pytest.raises(UnreadableImage, match=reason):
        images.decode_image(encoded(Image.fromarray(np.stack([EIGHT, whole], axis=2))), "x")


PAGES = [Image.fromarray(np.roll(EIGHT, shift, 1)) for shift in range(3)]


@pytest.mark.parametrize("form", ["TIFF", "GIF", "PNG", "WEBP", "MPO"])
def test_several_pictures_in_a_file_are_refused(form: str) -> None:
    data = encoded(PAGES[0], form, save_all=True, append_images=PAGES[1:])
    if form == "MPO":  # as a stereo camera says it: the other two are views, not attachments
        first = data.index(b"0100") + 32  # after the version, two more tags and the end
        for entry in (first + 16, first + 32):
            data = data[:entry] + struct.pack("<I", 0x020002) + data[entry + 4 :]
    with pytest.raises(UnreadableImage, match="3 pictures in one file"):
        images.decode_image(data, "x")
    one = images.decode_image(encoded(PAGES[0], form, save_all=True), "x")
    np.testing.assert_allclose(one, EIGHT, atol=6)


def test_a_smaller_copy_of_the_picture_is_no_second_one() -> None:
    small = PAGES[0].resize((10, 8))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    data = encoded(PAGES[0], "TIFF", save_all=True, append_images=[small])
    np.testing.assert_array_equal(images.decode_image(data, "x"), EIGHT)
    photograph = encoded(PAGES[0], "MPO", save_all=True, append_images=[PAGES[0]])
    np.testing.assert_allclose(images.decode_image(photograph, "x"), EIGHT, atol=6)


def test_ycbcr_has_the_luma_of_its_rgb() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    image = Image.fromarray(colours).convert("YCbCr")
    found = images.decode_image(encoded(image, "TIFF"), "x.tif")
    np.testing.assert_array_equal(found, np.array(image.convert("RGB").convert("L")))


def test_cmyk_photographs_are_not_negatives() -> None:
    """Adobe stores ink the other way round, and says so in a marker, as Pillow does."""
    data = encoded(Image.fromarray(EIGHT).convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in data
    np.testing.assert_allclose(images.decode_image(data, "x"), EIGHT, atol=4)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encoded(Image.fromarray(EIGHT).convert("F"), "TIFF"), "type F"),
        (encoded(Image.fromarray(EIGHT).convert("RGB").convert("LAB"), "TIFF"), "type LAB"),
        (tiff(channels(4), 5, "<", packed=False), "16-bit channels of type CMYK;16L"),
        (b"II*\0" + struct.pack("<IH", 8, 0) + bytes(4), "a kind of TIFF"),
    ],
)
def test_other_pixels_are_refused_with_what_to_do(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImage, match=reason) as refusal:
        images.decode_image(data, "x")
    assert "save" in refusal.value.reason
