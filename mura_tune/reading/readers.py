"""What answers the studies of a table: one release, a router, or a router and what it names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from mura_tune.areas import ROUTER
from mura_tune.errors import InputError
from mura_tune.imaging.images import decode_image, resize_to_square
from mura_tune.reading.answers import Row
from mura_tune.reading.predictor import Prediction, Predictor
from mura_tune.reading.router import Route, Router
from mura_tune.reading.studies import Asked
from mura_tune.release.release import Bundle
from mura_tune.release.two_stage import release_for

Views = Mapping[int, NDArray[np.uint8]]  # a study's views (V, S, S), by their side S
Read = tuple[Asked, Views]


class Reader(Protocol):
    """Answers studies a batch at a time, a row each.

    Attributes:
        columns: of a row, in order; `study`, `error` and those of `sources` are among them.
    """

    columns: tuple[str, ...]

    def decode(self, one: Asked, contents: Sequence[bytes]) -> Views:
        """A study's views as `rows` wants them, from the bytes of its files, in order.

        Raises:
            UnreadableImage: a view that cannot be decoded.
        """

    def rows(self, studies: Sequence[Read]) -> Iterator[Row]:
        """The answers, in order."""

    def failed(self, one: Asked, why: str) -> Row:
        """The row of a study without an answer."""

    def sources(self, row: Row) -> dict[str, str]:
        """What would answer the study of a row now, as its columns name it."""

    def agrees(self, row: Row) -> bool:
        """Whether a row's verdicts follow from its numbers, as this reader draws them."""


class Single:
    """One release for every study; `area` is a column where it also names the body part."""

    def __init__(self, predictor: Predictor, threshold: float | None = None) -> None:
        self.predictor, self.threshold = predictor, threshold
        part = ("area",) if predictor.parts else ()
        self.columns = (
            "study",
            "views",
            *part,
            "probability",
            "abnormal",
            "abstain",
            "error",
            "release",
        )
        self.source = _of_release(predictor, threshold)

    def decode(self, one: Asked, contents: Sequence[bytes]) -> Views:
        return _decode(one, contents, [_size(self.predictor.bundle)])

    def rows(self, studies: Sequence[Read]) -> Iterator[Row]:
        told = _answers(self.predictor, studies, self.threshold)
        for (one, _), answer in zip(studies, told, strict=True):
            yield _row(self.columns, one, release=self.source, **_told(answer), area=answer.part)

    def failed(self, one: Asked, why: str) -> Row:
        return _row(self.columns, one, error=why, release=self.source)

    def sources(self, row: Row) -> dict[str, str]:
        return {"release": self.source}

    def agrees(self, row: Row) -> bool:
        return _agrees(self.predictor, row, self.threshold)


class Parts:
    """A router alone: the area of every study."""

    columns: tuple[str, ...] = (
        "study",
        "views",
        "area",
        "confidence",
        "abstain",
        "error",
        "release",
    )

    def __init__(self, router: Router) -> None:
        self.router = router
        self.source = _of_router(router)

    def decode(self, one: Asked, contents: Sequence[bytes]) -> Views:
        return _decode(one, contents, [_size(self.router.bundle)])

    def rows(self, studies: Sequence[Read]) -> Iterator[Row]:
        for (one, _), found in zip(studies, _routes(self.router, studies), strict=True):
            yield _row(
                self.columns,
                one,
                area=found.area,
                confidence=found.confidence,
                abstain=found.abstain,
                release=self.source,
            )

    def failed(self, one: Asked, why: str) -> Row:
        return _row(self.columns, one, error=why, release=self.source)

    def sources(self, row: Row) -> dict[str, str]:
        return {"release": self.source}

    def agrees(self, row: Row) -> bool:
        sure, area = row["confidence"], row["area"]
        if sure is None or area not in self.router.areas:
            return False
        return bool(row["abstain"] == (sure < self.router.routing.confidence))


class Chain:
    """A router, then the release of the area that it names; `find` gives each by its name.

    Every release is opened before the first study is read. Where the router is not sure the row
    has its best guess, and no probability. A study of an area without a release, and without one
    for all areas in its place, is marked.

    Attributes:
        told: lines on areas whose release is missing.
    """

    columns: tuple[str, ...] = (
        "study",
        "views",
        "area",
        "confidence",
        "probability",
        "abnormal",
        "abstain",
        "error",
        "release",
        "router",
    )

    def __init__(
        self, find: Callable[[str], Path], device: torch.device, threshold: float | None = None
    ) -> None:
        self.router, self.threshold = Router(find(ROUTER), device), threshold
        opened: dict[Path, Predictor] = {}
        self.predictors: dict[str, Predictor] = {}
        self.missing: dict[str, str] = {}
        self.told: list[str] = []
        for area in self.router.areas:
            try:
                folder, fallback = release_for(find, area)
            except InputError as error:
                self.missing[area] = str(error)
                continue
            if folder not in opened:
                opened[folder] = Predictor(folder, device, area)
            self.predictors[area] = opened[folder]
            self.told += [fallback] if fallback else []
        self.told += self.missing.values()
        bundles = [self.router.bundle, *(one.bundle for one in opened.values())]
        self.sizes = {_size(one) for one in bundles}
        self.source = _of_router(self.router)
        self.releases = {  # by area, as the column names them
            area: f"{one.bundle.manifest['area']} {_of_release(one, threshold)}"
            for area, one in self.predictors.items()
        }

    def decode(self, one: Asked, contents: Sequence[bytes]) -> Views:
        return _decode(one, contents, self.sizes)

    def rows(self, studies: Sequence[Read]) -> Iterator[Row]:
        found = list(_routes(self.router, studies))
        told: dict[str, Prediction] = {}
        asked = [None if one.abstain else self.predictors.get(one.area) for one in found]
        for predictor in {id(one): one for one in asked if one}.values():
            mine = [one for one, who in zip(studies, asked, strict=True) if who is predictor]
            answers = _answers(predictor, mine, self.threshold)
            told |= {one.name: a for (one, _), a in zip(mine, answers, strict=True)}
        for (one, _), at, who in zip(studies, found, asked, strict=True):
            row = _row(
                self.columns,
                one,
                area=at.area,
                confidence=at.confidence,
                abstain=at.abstain,
                router=self.source,
                release="",
                error="" if at.abstain else self.missing.get(at.area, ""),
            )
            if who:
                row = {**row, **_told(told[one.name]), "release": self.releases[at.area]}
            yield row

    def failed(self, one: Asked, why: str) -> Row:
        return _row(self.columns, one, error=why, release="", router=self.source)

    def sources(self, row: Row) -> dict[str, str]:
        answered = row["probability"] is not None
        release = self.releases.get(row["area"], "") if answered else ""
        return {"router": self.source, "release": release}

    def agrees(self, row: Row) -> bool:
        if row["confidence"] is None or row["area"] not in self.router.areas:
            return False
        if row["confidence"] < self.router.routing.confidence:
            return row["abstain"] is True and row["probability"] is None
        predictor = self.predictors.get(row["area"])
        return predictor is not None and _agrees(predictor, row, self.threshold)


def _agrees(predictor: Predictor, row: Row, threshold: float | None) -> bool:
    if row["probability"] is None:
        return False
    return predictor.judge(row["probability"], threshold) == (row["abnormal"], row["abstain"])


def _decode(one: Asked, contents: Sequence[bytes], sizes: Sequence[int] | set[int]) -> Views:
    """A study's views at each size, every file decoded once."""
    whole = [decode_image(data, path) for data, path in zip(contents, one.images, strict=True)]
    return {size: np.stack([resize_to_square(image, size) for image in whole]) for size in sizes}


def _routes(router: Router, studies: Sequence[Read]) -> Iterator[Route]:
    size = _size(router.bundle)
    logits = router.logits(np.concatenate([views[size] for _, views in studies]))
    for one, own in _shares(studies, logits):
        yield router.route(one.images, own)


def _answers(
    predictor: Predictor, studies: Sequence[Read], threshold: float | None
) -> Iterator[Prediction]:
    size = _size(predictor.bundle)
    logits = predictor.logits(np.concatenate([views[size] for _, views in studies]))
    for one, own in _shares(studies, logits):
        yield predictor.answer(one.images, own, threshold)


def _shares(
    studies: Sequence[Read], logits_nk: NDArray[np.float32]
) -> Iterator[tuple[Asked, NDArray[np.float32]]]:
    """Each study with the rows of its views."""
    for one, _ in studies:
        own, logits_nk = logits_nk[: len(one.images)], logits_nk[len(one.images) :]
        yield one, own


def _row(columns: Sequence[str], one: Asked, **told: object) -> Row:
    """A study's row: what is told, else nothing."""
    known = {"study": one.name, "views": len(one.images), "error": "", **told}
    return {column: known.get(column) for column in columns}


def _told(answer: Prediction) -> dict[str, object]:
    return {
        "probability": answer.probability,
        "abnormal": answer.abnormal,
        "abstain": answer.abstain,
    }


def _size(bundle: Bundle) -> int:
    return int(bundle.manifest["preprocessing"]["size"])


def _of_release(predictor: Predictor, threshold: float | None) -> str:
    """Who answers: twelve digits of the release, and the threshold."""
    cut = predictor.chosen.threshold if threshold is None else threshold
    return f"{_digest(predictor.bundle)} at {cut:.6g}"


def _of_router(router: Router) -> str:
    return f"{_digest(router.bundle)} at {router.routing.confidence:.6g}"


def _digest(bundle: Bundle) -> str:
    """Twelve hex digits that tell releases apart, also those of one recipe."""
    about = [bundle.manifest[key] for key in ("recipe_digest", "calibration")]
    about.append(bundle.manifest.get("golden"))
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]
