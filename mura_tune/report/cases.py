"""The studies that say most about a network: its surest errors, and some that it got right."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from mura_tune.errors import InputError
from mura_tune.evaluation.evaluate import Evaluation
from mura_tune.networks.gradcam import compute_gradcam
from mura_tune.networks.network import Model
from mura_tune.report.heatmap import css_colours, overlay
from mura_tune.training.batches import Split, to_input

MOST_VIEWS, SIDE = 3, 256  # of a study; pixels of a picture's longer side


@dataclass(frozen=True)
class CaseKind:
    """Studies of one label that the network called one way.

    Attributes:
        label: 1 for abnormal.
        called: whether the network called them abnormal; the surest then have a high score.
        right: whether the call is the label.
    """

    title: str
    label: int
    called: bool
    right: bool


CASE_KINDS = (
    CaseKind("Missed: labelled abnormal, called normal", 1, False, False),
    CaseKind("False alarms: labelled normal, called abnormal", 0, True, False),
    CaseKind("Rightly called abnormal", 1, True, True),
    CaseKind("Rightly called normal", 0, False, True),
)


@dataclass(frozen=True)
class CaseView:
    """One view; `radiograph` and `overlay` are addresses that hold a JPEG picture themselves.

    `overlay` is None where the network has no map.
    """

    path: str
    score: float
    radiograph: str
    overlay: str | None


@dataclass(frozen=True)
class Case:
    """One study; `views` are the first of its `all_views`."""

    name: str
    score: float
    views: list[CaseView]
    all_views: int


@dataclass(frozen=True)
class CaseGroup:
    """The studies shown of a kind, the surest first; there are `total` of the kind."""

    kind: CaseKind
    cases: list[Case]
    total: int


@dataclass(frozen=True)
class Gallery:
    """The studies of each kind; `colours` are those of the maps, from 0 to 1, for a style sheet."""

    groups: list[CaseGroup]
    has_maps: bool
    colours: list[str]


@dataclass(frozen=True, eq=False)
class CaseMap:
    """A view's map (S, S) as a share of its maximum, and how strongly to show it, in [0, 1]."""

    cam: NDArray[np.float32]
    strength: float


def find_cases(
    net: Model,
    split: Split,
    test: Evaluation,
    cases: int,
    read_view: Callable[[str], NDArray[np.uint8]],
) -> Gallery:
    """Find `cases` studies of each kind of error, and half as many of each kind that is right.

    Args:
        read_view: gives the radiograph (H, W) of a view, by its path.
    """
    rows = {kind: rank_studies(test, kind) for kind in CASE_KINDS}
    shown = {kind: rows[kind][: -(-cases // 2) if kind.right else cases] for kind in CASE_KINDS}
    views = {
        row: np.flatnonzero(split.studies == str(test.studies.names[row]))
        for some in shown.values()
        for row in some
    }
    maps = map_views(net, split, test, [index[:MOST_VIEWS] for index in views.values()])

    def open_case(row: int) -> Case:
        return Case(
            name=str(test.studies.names[row]),
            score=float(test.studies.scores[row]),
            views=[
                _open_view(
                    str(split.paths[view]),
                    float(test.views.scores[view]),
                    maps.get(view),
                    read_view,
                )
                for view in views[row][:MOST_VIEWS].tolist()
            ],
            all_views=len(views[row]),
        )

    return Gallery(
        groups=[
            CaseGroup(kind, [open_case(row) for row in shown[kind]], len(rows[kind]))
            for kind in CASE_KINDS
        ],
        has_maps=bool(maps),
        colours=css_colours(),
    )


def rank_studies(test: Evaluation, kind: CaseKind) -> list[int]:
    """Row numbers of the studies of a kind, the surest first."""
    studies = test.studies
    called = studies.scores >= test.decision.threshold
    rows = np.flatnonzero((studies.labels == kind.label) & (called == kind.called))
    sure = studies.scores[rows] * (-1 if kind.called else 1)
    return [int(row) for row in rows[np.argsort(sure, kind="stable")]]


def map_views(
    net: Model, split: Split, test: Evaluation, studies: Sequence[NDArray[np.int64]]
) -> dict[int, CaseMap]:
    """The map of each view by its row; empty for a network that has no maps.

    A map is shown in full if its maximum is at least that of the median view called abnormal, and
    with half the strength if its maximum is half as large. Otherwise a view that says next to
    nothing for *abnormal* would look like one that says much.

    Args:
        studies: the rows of each study's views.
    """
    if not studies:
        return {}
    device = next(net.parameters()).device
    try:  # a study at a time: a whole gallery's activations would not fit everywhere
        maps = [
            compute_gradcam(net, to_input(split.pixels[i.tolist()], device)).cpu() for i in studies
        ]
    except InputError:
        return {}
    cams, rows = torch.cat(maps).numpy(), np.concatenate(studies)
    most = np.maximum(cams.max((1, 2)), 1e-12)
    called = test.views.scores[rows] >= test.decision.threshold
    usual = float(np.median(most[called] if called.any() else most))
    return {
        int(row): CaseMap(cam / top, min(1.0, float(top) / usual))
        for row, cam, top in zip(rows, cams, most, strict=True)
    }


def _open_view(
    path: str,
    score: float,
    case_map: CaseMap | None,
    read_view: Callable[[str], NDArray[np.uint8]],
) -> CaseView:
    image = Image.fromarray(read_view(path))
    image.thumbnail((SIDE, SIDE))
    small = np.asarray(image)
    radiograph = _data_address(small)
    if case_map is None:
        return CaseView(path, score, radiograph, None)
    mixed = overlay(small, case_map.cam, case_map.strength)
    return CaseView(path, score, radiograph, _data_address(mixed))


def _data_address(pixels: NDArray[np.uint8]) -> str:
    """An address that holds the picture itself, as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
