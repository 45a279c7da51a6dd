"""A picture of a trial's worst errors: the dev studies called wrongly with most confidence."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mura_tune.dashboard.trial_charts import BLUE, INK, PALE, RED, Fits
from mura_tune.metrics.areas import softmax
from mura_tune.metrics.estimates import StudyScores, sigmoid
from mura_tune.training.batches import Split
from mura_tune.training.fit import FitResult
from mura_tune.training.tasks import study_logits

ACROSS = 5  # studies of each kind
SHOWN = 4  # views of a study
TILE, THUMB, GAP, MARGIN = 198, 60, 11, 13  # pixels; three more views fit under the first
LINE = 18  # pixels from one line of a caption to the next


@dataclass(frozen=True, eq=False)
class SheetStudy:
    """A study on the sheet: its caption, its views (V, S, S), the worst view first, and files."""

    caption: str
    views: NDArray[np.uint8]
    files: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class SheetRow:
    """Studies of one kind under a title in its colour."""

    title: str
    colour: str
    studies: Sequence[SheetStudy]


def draw_error_sheet(fits: Fits, studies: StudyScores, threshold: float) -> Image.Image:
    """Draw missed abnormal studies above normal ones called abnormal, worst first (RGB)."""
    rows = []
    for label, words in ((1, "abnormal, called normal"), (0, "normal, called abnormal")):
        mistakes = worst_errors(studies, threshold, label)
        total = int((studies.labels == label).sum())
        title = f"Labelled {words}: {len(mistakes)} of {total}{_name_limit(len(mistakes))}"
        shown = [_study_of_probability(studies, row, fits) for row in mistakes[:ACROSS]]
        rows.append(SheetRow(title, RED if label else BLUE, shown))
    return draw_sheet(rows)


def worst_errors(studies: StudyScores, threshold: float, label: int) -> NDArray[np.int64]:
    """The rows of studies with `label` on the wrong side of the threshold, worst first."""
    called = studies.scores >= threshold
    rows = np.flatnonzero((studies.labels == label) & (called != label))
    return rows[np.argsort(-np.abs(studies.scores[rows] - label), kind="stable")]


def draw_area_error_sheet(fits: Fits) -> Image.Image:
    """Draw studies taken for another area, surest first, above those recognised least surely."""
    folds = [(fit, dev, study_logits(fit.logits, dev)) for fit, dev in fits]
    answers = []
    for fit, dev, table in folds:
        chances = softmax(table.logits)
        answers += [
            (float(chance.max()), int(chance.argmax()), int(area), fit, dev, str(name))
            for name, area, chance in zip(table.names, table.areas, chances, strict=True)
        ]
    answers.sort(key=lambda answer: -answer[0])
    wrong = [answer for answer in answers if answer[1] != answer[2]]
    right = [answer for answer in reversed(answers) if answer[1] == answer[2]]
    titles = (
        f"Taken for another area: {len(wrong)} of {len(answers)}{_name_limit(len(wrong))}",
        f"Recognised: {len(right)} of {len(answers)}, the least sure",
    )
    rows = [
        SheetRow(title, colour, [_study_of_area(*answer) for answer in some[:ACROSS]])
        for title, colour, some in zip(titles, (RED, BLUE), (wrong, right), strict=True)
    ]
    return draw_sheet(rows)


def draw_sheet(rows: Sequence[SheetRow]) -> Image.Image:
    """Draw a sheet with these rows (RGB)."""
    tops = np.cumsum([MARGIN, *(_height(row.studies) for row in rows)])
    width = 2 * MARGIN + ACROSS * TILE + (ACROSS - 1) * GAP
    picture = Image.new("RGB", (width, int(tops[-1])), "white")
    draw = ImageDraw.Draw(picture)
    for top, row in zip(tops, rows, strict=False):
        draw.text((MARGIN, int(top)), row.title, row.colour, _font(16, bold=True))
        for place, study in enumerate(row.studies):
            _draw_tile(picture, draw, MARGIN + place * (TILE + GAP), int(top) + 32, study)
    return picture


def _name_limit(number: int) -> str:
    return f", the {ACROSS} most confident" if number > ACROSS else ""


def _study_of_probability(studies: StudyScores, row: int, fits: Fits) -> SheetStudy:
    """A study and its probability, from the fold that held it out."""
    name, label = studies.names[row], int(studies.labels[row])
    fit, dev = next(pair for pair in fits if (pair[1].studies == name).any())
    views = np.flatnonzero(dev.studies == name)
    chances = sigmoid(fit.logits[views, 0].double().cpu().numpy())
    word = "abnormal" if label else "normal"
    return _sheet_study(
        f"p = {studies.scores[row]:.3f}, is {word}", dev, views, -np.abs(chances - label)
    )


def _study_of_area(
    chance: float, called: int, area: int, fit: FitResult, dev: Split, name: str
) -> SheetStudy:
    """A study and what it was taken for."""
    views = np.flatnonzero(dev.studies == name)
    sure = softmax(fit.logits[views].double().cpu().numpy())[:, called]
    names = [area.removeprefix("XR_").lower() for area in dev.areas]
    word = f", is {names[area]}" if called != area else ""
    return _sheet_study(f"{names[called]} {chance:.3f}{word}", dev, views, -sure)


def _sheet_study(
    caption: str, dev: Split, views: NDArray[np.int64], by: NDArray[np.float64]
) -> SheetStudy:
    """The views of a study in the order of `by`."""
    views = views[np.argsort(by, kind="stable")]
    pixels = dev.pixels[views.tolist()].cpu().numpy()  # a few views, not the split, leave the GPU
    return SheetStudy(caption, pixels, tuple(str(path) for path in dev.paths[views]))


def _height(shown: Sequence[SheetStudy]) -> int:
    """Of a row: its title, and where there are errors, pictures over captions."""
    if not shown:
        return 32 + MARGIN
    more = THUMB + 9 if any(len(study.views) > 1 for study in shown) else 0
    return 32 + TILE + 3 * LINE + more + 2 * MARGIN


def _draw_tile(
    picture: Image.Image, draw: ImageDraw.ImageDraw, x: int, y: int, study: SheetStudy
) -> None:
    large = Image.fromarray(study.views[0]).resize((TILE, TILE), Image.Resampling.BILINEAR)
    picture.paste(large, (x, y))
    y += TILE + 6
    folder = "/".join(PurePosixPath(study.files[0]).parts[:-1][-2:])
    lines = (
        (study.caption, INK, _font(13, bold=True)),
        (folder, INK, _font(11)),
        (_fit_names(study.files), PALE, _font(11)),
    )
    for text, colour, font in lines:
        draw.text((x, y), _fit_text(text, font), colour, font)
        y += LINE
    for place, view in enumerate(study.views[1:SHOWN]):
        small = Image.fromarray(view).resize((THUMB, THUMB), Image.Resampling.BILINEAR)
        picture.paste(small, (x + place * (THUMB + 9), y + 6))


def _fit_names(files: Sequence[str]) -> str:
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


def _fit_text(text: str, font: ImageFont.FreeTypeFont) -> str:
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
