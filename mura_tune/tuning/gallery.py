"""A trial's worst errors on one sheet: the dev studies it called wrongly with most confidence."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mura_tune.learning.metrics import Studies, sigmoid
from mura_tune.tuning.pictures import BLUE, INK, PALE, RED, Fits

ACROSS = 5  # studies of each kind
SHOWN = 4  # views of a study
TILE, THUMB, GAP, MARGIN = 198, 60, 11, 13  # pixels; three more views fit under the first
LINE = 18  # pixels from one line of a caption to the next


@dataclass(frozen=True, eq=False)
class Wrong:
    """A study on the wrong side of the threshold: its views (V, S, S), the worst one first."""

    name: str
    label: int
    probability: float
    views: NDArray[np.uint8]
    files: tuple[str, ...]


def sheet(fits: Fits, studies: Studies, threshold: float) -> Image.Image:
    """Missed abnormal studies above, normal ones called abnormal below, each worst first, RGB."""
    rows = []
    for label, words in ((1, "abnormal, called normal"), (0, "normal, called abnormal")):
        chosen = worst(studies, threshold, label)
        total = int((studies.labels == label).sum())
        title = f"Labelled {words}: {len(chosen)} of {total}"
        if len(chosen) > ACROSS:
            title += f", the {ACROSS} most confident"
        shown = [_found(studies, row, fits) for row in chosen[:ACROSS]]
        rows.append((title, RED if label else BLUE, shown))
    tops = np.cumsum([MARGIN, *(_height(shown) for _, _, shown in rows)])
    width = 2 * MARGIN + ACROSS * TILE + (ACROSS - 1) * GAP
    picture = Image.new("RGB", (width, int(tops[-1])), "white")
    draw = ImageDraw.Draw(picture)
    for top, (title, colour, shown) in zip(tops, rows, strict=False):
        draw.text((MARGIN, int(top)), title, colour, _font(16, bold=True))
        for place, study in enumerate(shown):
            _tile(picture, draw, MARGIN + place * (TILE + GAP), int(top) + 32, study)
    return picture


def worst(studies: Studies, threshold: float, label: int) -> NDArray[np.int64]:
    """Rows of the studies with that label on the wrong side of the threshold, worst first."""
    called = studies.scores >= threshold
    rows = np.flatnonzero((studies.labels == label) & (called != label))
    return rows[np.argsort(-np.abs(studies.scores[rows] - label), kind="stable")]


def _found(studies: Studies, row: int, fits: Fits) -> Wrong:
    """The views of a study, from the fold that held it out."""
    name, label = studies.names[row], int(studies.labels[row])
    fit, dev = next(pair for pair in fits if (pair[1].studies == name).any())
    views = np.flatnonzero(dev.studies == name)
    chances = sigmoid(fit.logits[views, 0].double().cpu().numpy())
    views = views[np.argsort(-np.abs(chances - label), kind="stable")]
    pixels = dev.pixels[views.tolist()].cpu().numpy()  # a few views, not the split, leave the GPU
    files = tuple(str(path) for path in dev.paths[views])
    return Wrong(str(name), label, float(studies.scores[row]), pixels, files)


def _height(shown: Sequence[Wrong]) -> int:
    """Of a row: its title, and where there are errors, pictures over captions."""
    if not shown:
        return 32 + MARGIN
    more = THUMB + 9 if any(len(study.views) > 1 for study in shown) else 0
    return 32 + TILE + 3 * LINE + more + 2 * MARGIN


def _tile(picture: Image.Image, draw: ImageDraw.ImageDraw, x: int, y: int, study: Wrong) -> None:
    large = Image.fromarray(study.views[0]).resize((TILE, TILE), Image.Resampling.BILINEAR)
    picture.paste(large, (x, y))
    y += TILE + 6
    label = "abnormal" if study.label else "normal"
    folder = "/".join(PurePosixPath(study.files[0]).parts[:-1][-2:])
    lines = ((f"p = {study.probability:.3f}, is {label}", INK, _font(13, bold=True)),
             (folder, INK, _font(11)), (_names(study.files), PALE, _font(11)))  # fmt: skip
    for text, colour, font in lines:
        draw.text((x, y), _fitted(text, font), colour, font)
        y += LINE
    for place, view in enumerate(study.views[1:SHOWN]):
        small = Image.fromarray(view).resize((THUMB, THUMB), Image.Resampling.BILINEAR)
        picture.paste(small, (x + place * (THUMB + 9), y + 6))


def _names(files: Sequence[str]) -> str:
    """The files' names in the order they are shown, as many as fit: `image2, image1 (.png)`."""
    paths = [PurePosixPath(file) for file in files]
    end = f" ({paths[0].suffix})" if len({path.suffix for path in paths}) == 1 else ""
    names = [path.stem if end else path.name for path in paths]
    for count in range(len(names), 0, -1):
        more = f" +{len(names) - count}" if count < len(names) else ""
        text = ", ".join(names[:count]) + more + end
        if _font(11).getlength(text) <= TILE:
            break
    return text


def _fitted(text: str, font: ImageFont.FreeTypeFont) -> str:
    """As much of the end of a text as a tile is wide: names differ at their ends."""
    if font.getlength(text) <= TILE:
        return text
    while font.getlength("…" + text) > TILE:
        text = text[1:]
    return "…" + text


@functools.cache
def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font of the charts, which comes with matplotlib."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)), size)
