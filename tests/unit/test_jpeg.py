"""jpeg: files that hold all of their picture are told from those that do not."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from mura_tune.errors import UnreadableImage
from mura_tune.imaging import images

CODINGS: dict[str, dict[str, object]] = {
    "baseline": {},
    "its own tables": {"optimize": True},
    "progressive": {"progressive": True},
    "fine": {"quality": 95},
    "coarse": {"quality": 20},
    "restarts by rows": {"restart_marker_rows": 1},
    "restarts by blocks": {"restart_marker_blocks": 7},
    "progressive with restarts": {"progressive": True, "restart_marker_rows": 1},
}
MODES = ("L", "RGB", "CMYK")


def picture(width: int = 403, height: int = 250) -> Image.Image:
    """Neither side a whole number of blocks, flat above, as much of a radiograph is."""
    across, down = np.meshgrid(np.linspace(0, 9, width), np.linspace(0, 7, height))
    noise = np.random.default_rng(0).normal(0, 6, (height, width))
    grey = 110 + 60 * np.sin(across * down / 3) + noise
    grey[: height // 4] = 128
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8))


def coded(mode: str, options: dict[str, object], image: Image.Image | None = None) -> bytes:
    out = io.BytesIO()
    (image or picture()).convert(mode).save(out, "JPEG", **options)
    return out.getvalue()


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("mode", MODES)
def test_whole_files_are_read(mode: str, coding: str) -> None:
    for size in ((203, 150), (64, 48), (7, 9), (17, 200), (200, 3)):
        data = coded(mode, CODINGS[coding], picture(*size))
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB").convert("L"))
        np.testing.assert_array_equal(images.decode_image(data, "x"), expected)
        np.testing.assert_array_equal(
            images.decode_image(data + b"a camera's own words", "x"), expected
        )


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_whole_files_are_read_whatever_the_colours_are_sampled_at(subsampling: int) -> None:
    for options in CODINGS.values():
        assert images.decode_image(coded("RGB", {**options, "subsampling": subsampling}), "x").any()


def hole(data: bytes, at: float) -> bytes:
    """512 bytes, a sector of a disk, are zeros."""
    start = _within(data, at)
    return data[:start] + bytes(512) + data[start + 512 :]


def without(data: bytes, at: float) -> bytes:
    start = _within(data, at)
    return data[:start] + data[start + 300 :]


def closed(data: bytes, at: float) -> bytes:
    """Cut off, and given the marker of a whole file's end."""
    return data[: _within(data, at)] + b"\xff\xd9"


def doubled(data: bytes, at: float) -> bytes:
    start = _within(data, at)
    return data[: start + 300] + data[start:]


def _within(data: bytes, at: float) -> int:
    first = data.index(b"\xff\xda") + 14
    return first + int((len(data) - first - 600) * at)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("coding", "harm"),
    [
        (coding, harm)
        for coding in CODINGS
        for harm in (hole, without, closed, doubled)
        if coding != "coarse" and not (harm is doubled and "restarts" in coding)
    ],
)
def test_what_is_damaged_inside_is_refused(
    coding: str, mode: str, harm: Callable[[bytes, float], bytes]
) -> None:
    """libjpeg warns of each, and Pillow gives a picture all the same."""
    data = coded(mode, CODINGS[coding])
    heals = coding == "progressive" and harm is not closed  # in scans that refine earlier ones
    for at in (0.05,) if heals else (0.1, 0.5, 0.9):
        with pytest.raises(UnreadableImage, match=r"damaged|truncated"):
            images.decode_image(harm(data, at), "x")


def test_the_reason_says_what_is_wrong() -> None:
    data = coded("L", {})
    with pytest.raises(UnreadableImage, match=r"damaged \(part of its picture is missing\): copy"):
        images.decode_image(closed(data, 0.5), "x")
    with pytest.raises(UnreadableImage, match=r"its picture and its size do not fit"):
        images.decode_image(doubled(data, 0.5), "x")
    data = coded("L", CODINGS["restarts by rows"])
    with pytest.raises(UnreadableImage, match=r"restart markers are missing"):
        images.decode_image(without(data, 0.5), "x")
    data = coded("L", CODINGS["progressive"])
    last = data.rindex(b"\xff\xda")
    with pytest.raises(UnreadableImage, match=r"its last scans are missing"):
        images.decode_image(data[:last] + b"\xff\xd9", "x")
    data = coded("L", {}).replace(b"\xff\xc0", b"\xff\xc9")  # arithmetic coding
    with pytest.raises(UnreadableImage, match="damaged"):
        images.decode_image(data, "x")


def test_a_flat_grey_end_is_no_missing_one() -> None:
    """Mid-grey is what libjpeg puts where data is missing, and what some pictures end in."""
    grey = np.full((96, 96), 128, np.uint8)
    grey[:20] = np.arange(96)
    for options in CODINGS.values():
        assert images.decode_image(coded("L", options, Image.fromarray(grey)), "x")[-1, -1] == 128
