"""A heatmap laid over its radiograph."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from PIL import Image

COLOURS = "inferno"  # dark to bright, also in grey and to colour-blind eyes
STRONGEST = 0.75  # how much of the picture the top of the map may hide


def overlay(
    image_hw: NDArray[np.uint8], cam_ss: NDArray[np.float32], strength: float = 1.0
) -> NDArray[np.uint8]:
    """Colour the radiograph (H, W) where the map (S, S) in [0, 1] is high; returns (H, W, 3).

    The map belongs to the square that the network saw, so it is stretched to the shape of the
    radiograph. A lower `strength`, down to 0, makes the colours fainter everywhere.
    """
    height, width = image_hw.shape
    size = (width, height)
    cam = np.asarray(
        Image.fromarray(cam_ss.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    )
    level = np.clip(cam, 0, 1)[..., None]
    colours = _colour_table()[(np.clip(cam, 0, 1) * 255).round().astype(np.uint8)]
    hidden = STRONGEST * strength * np.sqrt(level)
    mixed = (1 - hidden) * image_hw[..., None].astype(np.float32) + hidden * colours
    return np.asarray(np.clip(mixed, 0, 255), dtype=np.uint8)


def paint_map(cam_ss: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The map (S, S) in [0, 1] as colours with opacity (S, S, 4), to be laid over a radiograph as
    `overlay` lays it."""
    cam = np.clip(cam_ss, 0, 1)
    colours = _colour_table()[(cam * 255).round().astype(np.uint8)]
    opacity = 255 * STRONGEST * np.sqrt(cam)[..., None]
    return np.concatenate([colours, opacity], axis=-1).round().astype(np.uint8)


def css_colours(stops: int = 6) -> list[str]:
    """The colours from 0 to 1, as a style sheet writes them."""
    rows = _colour_table()[np.linspace(0, 255, stops).round().astype(int)].round().astype(int)
    return [f"rgb({r} {g} {b})" for r, g, b in rows.tolist()]


@functools.cache
def _colour_table() -> NDArray[np.float32]:
    from matplotlib import colormaps

    return np.asarray(colormaps[COLOURS](np.arange(256))[:, :3] * 255, dtype=np.float32)
