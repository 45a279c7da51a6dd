"""images: every mode scaled rightly, every broken file refused by name."""

import io
import time
import tracemalloc
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mura_tune.errors import BlankImage, InputError, UnreadableImage
from mura_tune.imaging import grey_levels, images

REAL = Path(__file__).parents[3] / "shared" / "real-xrays"
GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def beside_black(image: Image.Image, black: object) -> Image.Image:
    """The picture with a black corner: one that is a single grey is blank."""
    image.putpixel((0, 0), black)
    return image


def test_grey_comes_back_as_stored_with_rows_first(tmp_path: Path) -> None:
    file = tmp_path / "image1.png"
    Image.fromarray(GREY).save(file)
    got = images.read_image(file)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, GREY)
    assert got.flags.writeable


@pytest.mark.parametrize(
    ("image", "black", "expected"),
    [
        (Image.new("RGB", (2, 2), (90, 90, 90)), (0, 0, 0), 90),
        (Image.new("RGB", (2, 2), (255, 0, 0)), (0, 0, 0), 76),  # ITU-R 601 luma of red
        (Image.new("RGBA", (2, 2), (200, 200, 200, 255)), (0, 0, 0, 255), 200),
        (Image.new("RGBA", (2, 2), (200, 200, 200, 128)), (0, 0, 0, 0), 100),
        (Image.new("LA", (2, 2), (77, 255)), (0, 255), 77),
        (Image.new("LA", (2, 2), (200, 128)), (0, 0), 100),
        (Image.new("1", (2, 2), 1), 0, 255),
    ],
)
def test_colour_becomes_luma_and_a_cut_out_lies_over_its_ground(
    image: Image.Image, black: object, expected: int
) -> None:
    got = images.decode_image(encoded(beside_black(image, black)), "x").ravel()
    assert list(got) == [0, expected, expected, expected]


def test_cmyk_is_read() -> None:
    image = beside_black(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), (0, 0, 0, 255))
    assert images.decode_image(encoded(image, "TIFF"), "x")[1:].min() == 255


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_deep_grey_is_scaled_by_the_depth_that_holds_its_maximum(bits: int, mode: str) -> None:
    top = 2**bits - 1
    deep = np.linspace(0, top, 64).round().astype({"I": "<i4", "I;16B": ">u2"}.get(mode, "<u2"))
    image = Image.frombytes(mode, (8, 8), deep.tobytes())
    got = images.decode_image(encoded(image, "TIFF"), "x").ravel()
    assert (got[0], got[-1]) == (0, 255)
    np.testing.assert_allclose(got, deep * (255 / top), atol=0.51)


def test_deep_grey_png_of_twelve_bits_is_not_black() -> None:
    deep = np.array([[2048, 0]], np.uint16)
    assert images.decode_image(encoded(Image.fromarray(deep)), "x")[0, 0] == 128


@pytest.mark.parametrize(
    ("image", "size"),
    [
        (Image.new("L", (30, 20), 0), "30 x 20"),
        (Image.new("L", (30, 20), 133), "30 x 20"),
        (Image.new("I;16", (30, 20), 4095), "30 x 20"),
        (Image.new("L", (1, 1), 255), "1 x 1"),
        (Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4) // 4 + 99), "4 x 3"),  # noise
    ],
)
def test_a_picture_of_one_grey_is_blank(tmp_path: Path, image: Image.Image, size: str) -> None:
    """It can be decoded, but nothing is there to be judged: no pixels, and a finding of its own."""
    file = tmp_path / "image1.png"
    image.save(file)
    with pytest.raises(BlankImage, match=f"blank: {size} pixels of one grey"):
        images.read_image(file)
    record, grey = images.examine_image(file)
    assert (record.kind, record.pixel_sha, grey) == ("blank", "", None)


PNG = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)))
JPEG = encoded(
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)), "JPEG"
)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"not a radiograph at all\n" * 9, "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (PNG[:2000], "truncated after 2,000 bytes"),
        (PNG[:20], "truncated"),
        (PNG[:2000] + bytes(len(PNG) - 2000), "damaged"),  # a download that reserved its space
        (JPEG[:700], "truncated after 700 bytes"),
        (encoded(Image.new("F", (2, 2), 0.5), "TIFF"), "type F"),
        (encoded(Image.new("I", (2, 2), 70000), "TIFF"), "do not fit 16 bits"),
    ],
)
def test_a_broken_file_is_named_with_its_reason(tmp_path: Path, data: bytes, reason: str) -> None:
    file = tmp_path / "image1.png"
    file.write_bytes(data)
    with pytest.raises(UnreadableImage) as told:
        images.read_image(file)
    assert str(told.value).startswith(f"{file}: ")
    assert reason in told.value.reason
    assert "\n" not in str(told.value)


def test_any_truncation_is_refused_or_harmless() -> None:
    whole = images.decode_image(PNG, "x")
    refused = 0
    for length in range(0, len(PNG), 37):
        try:
            got = images.decode_image(PNG[:length], "x")
        except UnreadableImage:
            refused += 1
        else:
            np.testing.assert_array_equal(got, whole)
    assert refused > len(PNG) // 37 - 2


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "not an image file"),
    ],
)
def test_a_path_without_a_file_is_refused(
    tmp_path: Path, make: Callable[[Path], None], reason: str
) -> None:
    make(tmp_path / "x.png")
    with pytest.raises(UnreadableImage, match=reason):
        images.read_image(tmp_path / "x.png")


@pytest.mark.parametrize("limit", [10, 3])  # above PIL's warning level, above its error level
def test_a_decompression_bomb_is_refused_without_a_warning(
    monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", limit)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pytest.raises(UnreadableImage, match="more than"):
            images.decode_image(encoded(Image.new("L", (4, 4))), "x")
    assert seen == []


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    """Sparse files take no room on the disk; what memory would be needed is said beforehand."""
    file = tmp_path / "image1.png"
    with file.open("wb") as out:
        out.truncate(60 << 30)
    with pytest.raises(UnreadableImage, match="64,424,509,440 bytes are more than an image has"):
        images.read_image(file)


@pytest.mark.parametrize("where", ["load", "decode"])
def test_too_little_memory_is_not_the_fault_of_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """It stops the run by name: recorded as unreadable, the image would be left out for good."""

    def full(*_: object, **__: object) -> None:
        raise MemoryError

    file = tmp_path / "image1.png"
    file.write_bytes(PNG)
    if where == "load":
        monkeypatch.setattr(Path, "read_bytes", full)
    else:
        monkeypatch.setattr(grey_levels, "read_grey_levels", full)
    with pytest.raises(InputError, match=r"image1\.png: not enough memory") as refusal:
        images.examine_image(file)
    assert not isinstance(refusal.value, UnreadableImage)


def test_a_deep_picture_takes_little_more_memory_than_its_pixels() -> None:
    """numpy's memory is traced, Pillow's is not: the picture itself has 2 bytes a pixel there."""
    deep = np.zeros((3000, 2000), np.uint16)
    deep[:100] = 4095
    data = encoded(Image.fromarray(deep), "TIFF")
    tracemalloc.start()
    images.decode_image(data, "x")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * deep.size


def test_pictures_that_need_much_memory_are_decoded_one_after_another() -> None:
    room, held, most = images.MemoryLimit(100), [], []

    def take(size: int) -> None:
        with room.hold(size):
            held.append(size)
            most.append(sum(held))
            time.sleep(0.001)
            held.remove(size)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(take, [60, 30, 400, 10, 70, 100, 50, 50] * 4))
    assert max(most) == 400  # alone, being more than there is
    assert all(total <= 100 or total == 400 for total in most)


def test_threads_decode_alike() -> None:
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda _: images.decode_image(PNG, "x").tobytes(), range(64)))
    assert set(got) == {images.decode_image(PNG, "x").tobytes()}


def test_examine_skips_decoding_a_known_content(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(PNG)
    record, grey = images.examine_image(file)
    assert grey is not None
    assert record.size == len(PNG)
    assert images.examine_image(file, {record.file_sha: record.pixel_sha}.get) == (record, None)


def test_square_squashes_both_sides_with_an_antialiased_filter() -> None:
    ramp = np.tile(np.arange(200, dtype=np.uint8), (50, 1))
    got = images.resize_to_square(ramp, 20)
    assert got.shape == (20, 20)
    np.testing.assert_allclose(got, got[:1].repeat(20, 0))  # rows stay rows
    np.testing.assert_allclose(got[0, 1:-1], np.arange(20)[1:-1] * 10 + 4.5, atol=0.51)
    checker = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    np.testing.assert_allclose(images.resize_to_square(checker, 8)[1:-1, 1:-1], 127.5, atol=2)


def test_square_at_the_same_size_is_a_copy() -> None:
    same = np.eye(5, dtype=np.uint8)
    got = images.resize_to_square(same, 5)
    np.testing.assert_array_equal(got, same)
    assert not np.shares_memory(got, same)


@pytest.mark.parametrize("shape", [(4, 4, 3), (4,)])
def test_square_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="uint8"):
        images.resize_to_square(np.zeros(shape, np.uint8), 2)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real radiographs in {REAL}")
def test_real_radiographs_are_read_and_the_two_truncated_ones_refused() -> None:
    refused = []
    for file in sorted(REAL.rglob("*.png")):
        try:
            assert images.read_image(file).std() > 1
        except UnreadableImage as error:
            refused.append((file.name, error.reason.split(" ")[0]))
    assert refused == [("image99.png", "truncated")] * 2


def test_what_is_read_differently_is_told_in_one_line() -> None:
    assert "EXIF orientation" in images.preprocessing_changes(1)
    assert "\n" not in images.preprocessing_changes(1)
    assert images.preprocessing_changes(images.PREPROCESSING) == ""
