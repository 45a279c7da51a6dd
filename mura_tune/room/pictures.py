"""PNG files of a view: at its own size through a window, as the network reads it, and its map."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mura_tune.imaging.images import Picture
from mura_tune.report.heatmap import paint_map

MOST_SHOWN = 24_000_000  # pixels of a picture that a browser gets: more than a detector has


def picture_png(picture: Picture, window: tuple[float, float] | None = None) -> bytes:
    """A view in 8-bit grey; a very large one at a smaller scale.

    Args:
        window: centre and width, in what the file's values mean (DICOM), else in grey levels; None
            for the window of the file.
    """
    grey = picture.grey if window is None else _through(picture, *window)
    image = Image.fromarray(grey)
    scale = (MOST_SHOWN / grey.size) ** 0.5
    if scale < 1:
        size = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
        image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    return _png(image)


def square_png(square_ss: NDArray[np.uint8]) -> bytes:
    """A grey square (S, S)."""
    return _png(Image.fromarray(square_ss))


def map_png(cam_ss: NDArray[np.float32]) -> bytes:
    """A map (S, S) as colours with opacity, to be stretched over its view."""
    return _png(Image.fromarray(paint_map(cam_ss)))


@dataclass(frozen=True)
class Window:
    """Centre and width of a view's window, and the ends of what it can be moved over, in what the
    values of its DICOM file mean."""

    center: float
    width: float
    low: float
    high: float


def find_window(picture: Picture) -> Window | None:
    """The window of a DICOM file, or one that shows all of its values; None for other files."""
    if picture.radiograph is None:
        return None
    low, high = picture.radiograph.extremes()
    center, width = picture.radiograph.window or ((low + high) / 2, max(high - low, 1.0))
    return Window(center, width, low, high)


def _through(picture: Picture, center: float, width: float) -> NDArray[np.uint8]:
    if picture.radiograph is not None:
        return picture.radiograph.grey((center, width))
    levels = (np.arange(256) - center) / max(width, 1e-6) + 0.5
    table = np.floor(levels.clip(0, 1) * 255 + 0.5).astype(np.uint8)
    seen: NDArray[np.uint8] = table[picture.grey]
    return seen


def _png(image: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)  # a local line is faster than more compression
    return out.getvalue()
