"""A heatmap laid over its radiograph.

The studies that say most about a model: its surest errors, and what it got right.
"""

from __future__ import annotations

import base64
import functools
import html
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from mura_tune.errors import InputError
from mura_tune.evaluation.evaluate import Measured
from mura_tune.networks.gradcam import compute_gradcam
from mura_tune.networks.network import Model
from mura_tune.training.batches import Split, to_input

COLOURS = "inferno"  # dark to bright, also in grey and to colour-blind eyes
STRONGEST = 0.75  # how much of the picture the top of the map may hide


def overlay(
    image_hw: NDArray[np.uint8], cam_ss: NDArray[np.float32], strength: float = 1.0
) -> NDArray[np.uint8]:
    """The radiograph (H, W) in colours (H, W, 3) where the map (S, S) in [0, 1] is high.

    The map belongs to the square that the network saw, so it is stretched back to the
    picture's own shape. A lower `strength`, down to 0, makes it fainter all over.
    """
    height, width = image_hw.shape
    size = (width, height)
    cam = np.asarray(
        Image.fromarray(cam_ss.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    )
    level = np.clip(cam, 0, 1)[..., None]
    colours = _table()[(np.clip(cam, 0, 1) * 255).round().astype(np.uint8)]
    hidden = STRONGEST * strength * np.sqrt(level)
    mixed = (1 - hidden) * image_hw[..., None].astype(np.float32) + hidden * colours
    return np.asarray(np.clip(mixed, 0, 255), dtype=np.uint8)


def gradient(stops: int = 6) -> list[str]:
    """The colours from 0 to 1, as a style sheet writes them."""
    rows = _table()[np.linspace(0, 255, stops).round().astype(int)].round().astype(int)
    return [f"rgb({r} {g} {b})" for r, g, b in rows.tolist()]


@functools.cache
def _table() -> NDArray[np.float32]:
    from matplotlib import colormaps

    return np.asarray(colormaps[COLOURS](np.arange(256))[:, :3] * 255, dtype=np.float32)


MOST_VIEWS, SIDE = 3, 256  # of a study; pixels of a picture's longer side


@dataclass(frozen=True)
class Kind:
    """One row of the gallery: which studies, and whether the surest have a high score."""

    title: str
    label: int
    called: bool
    right: bool


KINDS = (
    Kind("Missed: labelled abnormal, called normal", 1, False, False),
    Kind("False alarms: labelled normal, called abnormal", 0, True, False),
    Kind("Rightly called abnormal", 1, True, True),
    Kind("Rightly called normal", 0, False, True),
)


def chosen(test: Measured, kind: Kind, most: int) -> list[int]:
    """Row numbers of the surest studies of a kind, the surest first."""
    studies = test.studies
    called = studies.scores >= test.chosen.threshold
    rows = np.flatnonzero((studies.labels == kind.label) & (called == kind.called))
    sure = studies.scores[rows] * (-1 if kind.called else 1)
    order = np.argsort(sure, kind="stable")
    return [int(row) for row in rows[order][:most]]


def gallery(
    net: Model,
    split: Split,
    test: Measured,
    cases: int,
    picture: Callable[[str], NDArray[np.uint8]],
) -> str:
    """HTML of `cases` studies of each kind of error, half as many of what was right.

    A view that says little for abnormal has a faint map.

    Args:
        picture: a view's radiograph (H, W), by its path.
    """
    rows = {kind: chosen(test, kind, -(-cases // 2) if kind.right else cases) for kind in KINDS}
    views = {
        row: np.flatnonzero(split.studies == str(test.studies.names[row]))
        for some in rows.values()
        for row in some
    }
    maps = _maps(net, split, test, [index[:MOST_VIEWS] for index in views.values()])
    parts = [_LEGEND.format(colours=", ".join(gradient()))] if maps else []
    for kind in KINDS:
        found = len(chosen(test, kind, len(test.studies.labels)))
        count = f"{len(rows[kind])} of {found}" if found else "none"
        figures = "".join(_study(split, test, row, views[row], maps, picture) for row in rows[kind])
        parts.append(
            f"<h3>{html.escape(kind.title)} <small>{count}</small></h3>"
            f'<div class="cases">{figures}</div>'
        )
    return "\n".join(parts)


_LEGEND = """<p class="scale"><span>nothing for abnormal</span>
<i style="background: linear-gradient(90deg, {colours})"></i>
<span>the strongest place of a view; all of it fainter in a view that says little</span></p>"""


@dataclass(frozen=True, eq=False)
class _Map:
    """A view's map (S, S) as a share of its maximum, and how strongly to show it."""

    cam: NDArray[np.float32]
    strength: float


def _maps(
    net: Model, split: Split, test: Measured, studies: Sequence[NDArray[np.int64]]
) -> dict[int, _Map]:
    """The map of each view, by its row; none from a network without one.

    One that says as much as the median view called abnormal, or more, is shown in full, one that
    says half of that half as strongly: else a view that says next to nothing would look like one
    that says much.
    """
    if not studies:
        return {}
    device = next(net.parameters()).device
    try:  # a study at a time: a whole gallery's activations would not fit everywhere
        found = [
            compute_gradcam(net, to_input(split.pixels[i.tolist()], device)).cpu() for i in studies
        ]
    except InputError:
        return {}
    cams, rows = torch.cat(found).numpy(), np.concatenate(studies)
    most = np.maximum(cams.max((1, 2)), 1e-12)
    called = test.views.scores[rows] >= test.chosen.threshold
    usual = float(np.median(most[called] if called.any() else most))
    return {
        int(row): _Map(cam / top, min(1.0, float(top) / usual))
        for row, cam, top in zip(rows, cams, most, strict=True)
    }


def _study(
    split: Split,
    test: Measured,
    row: int,
    views: NDArray[np.int64],
    maps: Mapping[int, _Map],
    picture: Callable[[str], NDArray[np.uint8]],
) -> str:
    pairs = ""
    for number, index in enumerate(views[:MOST_VIEWS].tolist(), 1):
        path, score = str(split.paths[index]), float(test.views.scores[index])
        told = f"<small>view {number} of {len(views)}: {score:.3f}</small>" * (len(views) > 1)
        pairs += (
            f'<div class="pair">{_pair(path, score, maps.get(index), picture(path))}{told}</div>'
        )
    name = html.escape(str(test.studies.names[row]))
    return (
        f"<figure><figcaption><b>P = {test.studies.scores[row]:.3f}</b> {name}</figcaption>"
        f'<div class="views">{pairs}</div></figure>'
    )


def _pair(path: str, score: float, found: _Map | None, picture: NDArray[np.uint8]) -> str:
    """One view, and beside it what speaks for abnormal, if the network has a map."""
    image = Image.fromarray(picture)
    image.thumbnail((SIDE, SIDE))
    small = np.asarray(image)
    shown = _img(small, f"{path}, P = {score:.3f}")
    if found is None:
        return shown
    return shown + _img(overlay(small, found.cam, found.strength), f"{path}, Grad-CAM")


def _img(pixels: NDArray[np.uint8], about: str) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=85)
    text = base64.b64encode(buffer.getvalue()).decode("ascii")
    alt = html.escape(about, quote=True)
    return f'<img src="data:image/jpeg;base64,{text}" alt="{alt}" title="{alt}">'
