"""The studies that say most about a model: its surest errors, and what it got right."""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mura_tune.errors import InputError
from mura_tune.learning.batches import Split, to_input
from mura_tune.learning.ensemble import Model
from mura_tune.learning.gradcam import gradcam
from mura_tune.release.evaluate import Measured
from mura_tune.release.overlay import overlay

MOST_VIEWS, SIDE = 3, 256  # of a study; pixels of a picture


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


def gallery(net: Model, split: Split, test: Measured, cases: int) -> str:
    """HTML of `cases` studies of each kind of error, half as many of what was right."""
    return "\n".join(_kind(net, split, test, kind, cases) for kind in KINDS)


def _kind(net: Model, split: Split, test: Measured, kind: Kind, cases: int) -> str:
    most = -(-cases // 2) if kind.right else cases
    rows = chosen(test, kind, most)
    figures = "".join(_study(net, split, test, row) for row in rows)
    everything = len(chosen(test, kind, len(test.studies.labels)))
    count = f"{len(rows)} of {everything}" if rows else "none"
    return (f"<h3>{html.escape(kind.title)} <small>{count}</small></h3>"
            f'<div class="cases">{figures}</div>')  # fmt: skip


def _study(net: Model, split: Split, test: Measured, row: int) -> str:
    name = str(test.studies.names[row])
    views = np.flatnonzero(split.studies == name)
    pictures = "".join(_pair(net, split, int(i), float(test.views.scores[i])) for i in
                       views[:MOST_VIEWS])  # fmt: skip
    more = f", {_more(len(views) - MOST_VIEWS)}" if len(views) > MOST_VIEWS else ""
    return (f"<figure><figcaption><b>P = {test.studies.scores[row]:.3f}</b> "
            f"{html.escape(name)}{more}</figcaption>{pictures}</figure>")  # fmt: skip


def _pair(net: Model, split: Split, index: int, score: float) -> str:
    """One view as the network saw it, and with its map."""
    pixels_1ss = split.pixels[index : index + 1]
    pixels = pixels_1ss[0].cpu().numpy()
    shown = [pixels]
    try:
        x_1chw = to_input(pixels_1ss, next(net.parameters()).device)
        shown.append(overlay(pixels, gradcam(net, x_1chw)[0].cpu().numpy()))
    except InputError:  # a network without a map: the view alone
        pass
    alt = html.escape(f"{split.paths[index]}, P = {score:.3f}", quote=True)
    pictures = "".join(_img(p, alt) for p in shown)
    return f'<div class="pair">{pictures}<small>this view: {score:.3f}</small></div>'


def _img(pixels: NDArray[np.uint8], alt: str) -> str:
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=85)
    text = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img src="data:image/jpeg;base64,{text}" alt="{alt}" title="{alt}">'


def _more(views: int) -> str:
    return f"{views} more view{'s' if views > 1 else ''}"
