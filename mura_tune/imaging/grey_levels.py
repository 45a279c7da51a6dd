"""Grey levels of an opened image file, by its depth, transparency, colours and orientation."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

Pixels = NDArray[np.uint8]

_DEPTHS = (8, 10, 12, 14, 16)  # bits that X-ray detectors store in 16-bit files
_LEVELS = 1 << 16
_DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_COLOUR = ("1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV")
_NATIVE, _SWAPPED = ("L", "B") if sys.byteorder == "little" else ("B", "L")
# How Pillow is told to unpack 16-bit channels, of which it keeps the high byte; told the other
# order of bytes, it keeps the low one.
_LOW = {
    f"{mode};16{high}": f"{mode};16{low}"
    for mode in ("RGB", "RGBX", "RGBA")
    for high, low in (("L", "B"), ("B", "L"), ("N", _SWAPPED))
}
_PPM = "ppm"  # Pillow's decoder where white is not 255
_TEXT = 1 << 22  # pixels that are read from text: some seconds
_STRIP = 1 << 20  # pixels that are widened at a time
_ORIENTATION, _PHOTOMETRIC, _SUBFILE = 0x0112, 262, 254  # tags of EXIF and TIFF
_WHITE_IS_ZERO, _REDUCED = 0, 1

_TURNS: dict[int, Callable[[Pixels], Pixels]] = {  # EXIF 2.32, section 4.6.4, tag 274
    2: lambda grey: grey[:, ::-1],
    3: lambda grey: grey[::-1, ::-1],
    4: lambda grey: grey[::-1],
    5: lambda grey: grey.T,
    6: lambda grey: np.rot90(grey, -1),
    7: lambda grey: grey[::-1, ::-1].T,
    8: lambda grey: np.rot90(grey),
}


class UnclearGreyLevels(ValueError):
    """A file that opens, but whose grey pixels are not clear; the text says why, for people."""


def read_grey_levels(image: ImageFile, reopen: Callable[[], ImageFile]) -> Pixels:
    """Return the grey pixels (H, W) of an image that was opened and not loaded yet.

    Colour becomes luma. What is partly transparent lies over the one colour that the fully
    transparent pixels have. Channels of 16 bits are scaled by the smallest of 8, 10, 12, 14 and 16
    bits that holds their maximum, or by what a PGM or PPM file says. The EXIF orientation is
    applied; a TIFF's by Pillow.

    Args:
        reopen: opens the same file anew.

    Raises:
        UnclearGreyLevels: several pictures, transparency that hides part of one, or pixels of
            another type.
    """
    _check_single(image)
    rawmode = _rawmode(image)
    if image.tile and image.tile[0].codec_name in (_PPM, "ppm_plain") and image.mode != "1":
        grey = _portable(image, reopen)
    elif ";16" in rawmode and image.mode not in _DEEP:
        grey = _deep_colour(image, reopen, rawmode)
    else:
        image.load()
        grey = _deep(image) if image.mode in _DEEP else _plain(image)
    turn = _TURNS.get(_orientation(image))
    return grey if turn is None else np.ascontiguousarray(turn(grey))


def _check_single(image: ImageFile) -> None:
    """Raises Unclear where a file holds several pictures; smaller copies of one don't count."""
    if not getattr(image, "is_animated", False):
        return
    count = getattr(image, "n_frames", 2)
    if image.format == "TIFF":
        count -= sum(_reduced(image, page) for page in range(1, count))
        image.seek(0)
    elif image.format == "MPO":  # beside the photograph: thumbnails, depth, gain; or other views
        entries = getattr(image, "mpinfo", {}).get(0xB002, ())
        kinds = [entry["Attribute"]["MPType"] for entry in entries]
        count = 1 + sum("Multi-Frame" in kind for kind in kinds[1:])
    if count > 1:
        raise UnclearGreyLevels(f"{count} pictures in one file: save each as a file of its own")


def _reduced(image: ImageFile, page: int) -> bool:
    image.seek(page)
    assert isinstance(image, TiffImageFile)  # of the formats that are read, it alone has pages
    return bool(image.tag_v2.get(_SUBFILE, 0) & _REDUCED)


def _rawmode(image: ImageFile) -> str:
    """How Pillow will unpack the file's pixels; "" where it does not say."""
    if not image.tile:
        return ""
    return str(_arguments(image)[0])


def _arguments(image: ImageFile) -> tuple[Any, ...]:
    """What Pillow tells the decoder of the file's pixels."""
    args = image.tile[0].args
    return args if isinstance(args, tuple) else (args,)


def _unpacked(image: ImageFile, rawmode: str) -> Image.Image:
    """Load `image`, unpacking its pixels another way; a PPM's as they are, whatever white is."""
    portable = image.tile[0].codec_name == _PPM
    image.tile = [
        tile._replace(
            codec_name="raw" if portable else tile.codec_name,
            args=rawmode if portable else (rawmode, *_arguments(image)[1:]),
        )
        for tile in image.tile
    ]
    image.load()
    return image


def _plain(image: Image.Image) -> Pixels:
    """Of 8-bit channels."""
    if image.mode == "L":  # as np.array(image) gives it, in half the time
        pixels = np.frombuffer(bytearray(image.tobytes()), np.uint8)
        return pixels.reshape(image.height, image.width)
    if image.mode not in _COLOUR and not image.has_transparency_data:
        raise UnclearGreyLevels(f"pixels of type {image.mode} are not supported: save as 8-bit PNG")
    palette = image.mode == "P" and "transparency" in image.info
    if image.mode not in _COLOUR or palette:
        image = _over(image.convert("RGBA"))
    elif image.mode != "RGB":
        image = image.convert("RGB")  # straight to L, Pillow rounds some otherwise
    return np.array(image.convert("L"), dtype=np.uint8)


def _over(rgba: Image.Image) -> Image.Image:
    """The picture over the one colour of its fully transparent pixels.

    A colour that is marked as transparent stays itself so, and a cut-out keeps its ground.
    """
    alpha = rgba.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return rgba
    clear = alpha.point([255] + [0] * 255)
    if not clear.getbbox():
        raise UnclearGreyLevels("partly transparent, over nothing: save it without transparency")
    hidden = [band.histogram(clear) for band in rgba.split()[:3]]
    if any(sum(map(bool, levels)) > 1 for levels in hidden):
        raise UnclearGreyLevels("part of the picture is transparent: save it without transparency")
    ground = tuple(next(level for level, n in enumerate(levels) if n) for levels in hidden)
    return Image.alpha_composite(Image.new("RGBA", rgba.size, (*ground, 255)), rgba)


def _deep(image: Image.Image, white: int | None = None) -> Pixels:
    """Of one channel of up to 16 bits; `white` is the level that is white, if the file says so."""
    lows, highs = zip(*((strip.min(), strip.max()) for _, (strip,) in _strips(image)), strict=True)
    low, high = int(min(lows)), int(max(highs))
    if low < 0 or high >= _LEVELS:
        raise UnclearGreyLevels(f"grey levels {low} to {high} do not fit 16 bits")
    to_eight = _scale(white or _top(high))
    if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        to_eight = 255 - to_eight  # Pillow turns round those of up to 8 bits alone
    grey = np.empty((image.height, image.width), np.uint8)
    for rows, (strip,) in _strips(image):
        grey[rows] = to_eight[strip]
    return grey


def _deep_colour(
    image: ImageFile, reopen: Callable[[], ImageFile], rawmode: str, white: int | None = None
) -> Pixels:
    """Of channels of 16 bits, which Pillow gives a byte at a time."""
    if rawmode == "LA;16B":  # four bytes, as if of four channels
        images = [_unpacked(image, "RGBA")]
    elif rawmode in _LOW:
        images = [_unpacked(image, rawmode), _unpacked(reopen(), _LOW[rawmode])]
    else:
        raise UnclearGreyLevels(
            f"16-bit channels of type {rawmode} are not supported: save as 8-bit PNG"
        )
    tops = np.max([strip.max((0, 1)) for _, strip in _widened(images)], axis=0)
    colours = 3 if len(tops) > 2 else 1
    to_eight = _scale(white or _top(int(tops[:colours].max())))
    opacity = _scale(_top(int(tops[-1])))
    eight = Image.new("RGBA" if len(tops) > colours else "RGB", image.size)
    for rows, strip in _widened(images):
        bands = to_eight[strip[..., :colours]].repeat(3 // colours, axis=2)
        if len(tops) > colours:
            bands = np.concatenate([bands, opacity[strip[..., colours:]]], axis=2)
        eight.paste(Image.fromarray(bands), (0, rows.start))
    return _plain(eight)


def _widened(images: list[Image.Image]) -> Iterator[tuple[slice, NDArray[np.uint16]]]:
    """Rows at a time (H, W, C) of 16 bits, from one image of high bytes and one of low ones.

    Or from one image in which they take turns.
    """
    for rows, strips in _strips(*images):
        if len(strips) == 1:
            strips = [strips[0][..., 0::2], strips[0][..., 1::2]]
        yield rows, (strips[0].astype(np.uint16) << 8) | strips[1]


def _portable(image: ImageFile, reopen: Callable[[], ImageFile]) -> Pixels:
    """Of a PGM or PPM whose header says another white than 255, or which is text.

    Pillow would do the arithmetic in Python, a pixel at a time.
    """
    rawmode, white = _arguments(image)
    if image.tile[0].codec_name != _PPM:
        if image.width * image.height > _TEXT or (image.mode == "RGB" and white > 255):
            raise UnclearGreyLevels("too much for a file of text: save it as PNG")
        image.load()
        return _deep(image, _LEVELS - 1) if image.mode == "I" else _plain(image)
    if white > 255 and image.mode == "RGB":
        return _deep_colour(image, reopen, "RGB;16B", white if white < _LEVELS - 1 else None)
    if white > 255:
        return _deep(_unpacked(image, "I;16B"), white)
    return _plain(_unpacked(image, rawmode).point(list(_scale(white)[:256]) * len(rawmode)))


def _strips(*images: Image.Image) -> Iterator[tuple[slice, list[NDArray[Any]]]]:
    """Rows at a time, and their pixels in each of the images."""
    width, height = images[0].size
    step = max(1, _STRIP // width)
    for top in range(0, height, step):
        box = (0, top, width, min(top + step, height))
        yield slice(box[1], box[3]), [np.asarray(image.crop(box)) for image in images]


def _top(high: int) -> int:
    """White of the least depth that holds `high`."""
    return next((1 << bits) - 1 for bits in _DEPTHS if high < 1 << bits)


def _scale(top: int) -> Pixels:
    """The grey of 8 bits for each level of 16; those above `top` are white."""
    levels = np.arange(_LEVELS, dtype=np.int64).clip(max=top)
    return ((levels * 255 + top // 2) // top).astype(np.uint8)


def _orientation(image: Image.Image) -> int:
    """What EXIF says; 1, as it is, where that cannot be read. Pillow has turned a TIFF already."""
    if image.format == "TIFF" or not image.info.get("exif"):
        return 1
    exif = Image.Exif()
    try:
        exif.load(image.info["exif"])
        return int(exif.get(_ORIENTATION, 1))
    except MemoryError:
        raise
    except Exception:
        # Pillow raises SyntaxError, struct.error, KeyError, … for tags that it cannot read; the
        # pixels are sound, and most programs show them as they lie.
        return 1
