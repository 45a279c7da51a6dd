"""A reader with a router and the releases of its areas."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from mura_tune.areas import ROUTER
from mura_tune.errors import InputError
from mura_tune.reading.answer_table import AnswerRow
from mura_tune.reading.answers import RoutedAnswer, is_unfamiliar
from mura_tune.reading.locate import FindRelease, release_for
from mura_tune.reading.readers import CPU, Predictor, Reader, Router, confirms_familiarity
from mura_tune.reading.studies import StudyViews


class RoutedReader(Reader[RoutedAnswer]):
    """Reads studies with a router, then with the release of the area that the router names.

    A release is opened when the first study of its area comes, or all are by `open_all`. Where
    the router is not sure, its best guess is the answer, without a probability.

    Args:
        find: gives the folder of a release by its name; see `locate.release_for`.
        threshold: replaces the operating point of every release, and its band of doubt.

    Raises:
        InputError: no router, or one that is not whole.
    """

    def __init__(
        self, find: FindRelease, device: torch.device = CPU, threshold: float | None = None
    ) -> None:
        self.router = Router(find(ROUTER), device)
        self._find, self._device, self._threshold = find, device, threshold
        self._opened: dict[Path, Predictor] = {}
        self._by_area: dict[str, Predictor] = {}
        self._fallbacks: dict[str, str] = {}
        self._missing: dict[str, str] = {}

    @property
    def columns(self) -> tuple[str, ...]:
        releases = [self.router.release, *(one.release for one in self._opened.values())]
        tells = any(release.familiarity is not None for release in releases)
        return (
            *("study", "views", "area", "confidence", "probability", "abnormal", "abstain"),
            *(("router_distance", "distance", "like_training") if tells else ()),
            *("error", "release", "router"),
        )

    def open_all(self) -> list[str]:
        for area in self.router.areas:
            self._open(area)
        return [*self._fallbacks.values(), *self._missing.values()]

    def release_of(self, area: str) -> tuple[Predictor, str | None]:
        """What answers for an area, and a line where that is the release for all areas.

        Raises:
            InputError: neither is there, or one that is not whole.
        """
        self._open(area)
        if area in self._missing:
            raise InputError(self._missing[area])
        return self._by_area[area], self._fallbacks.get(area)

    def _open(self, area: str) -> None:
        if area in self._by_area or area in self._missing:
            return
        try:
            folder, fallback = release_for(self._find, area)
        except InputError as error:
            self._missing[area] = str(error)
            return
        if fallback:
            self._fallbacks[area] = fallback
        if folder not in self._opened:
            expected = None if fallback else area
            self._opened[folder] = Predictor(folder, self._device, expected, self._threshold)
        self._by_area[area] = self._opened[folder]

    @property
    def sizes(self) -> frozenset[int]:
        return self.router.sizes.union(*(reader.sizes for reader in self._opened.values()))

    def answer(self, studies: Sequence[StudyViews]) -> list[RoutedAnswer]:
        routes = self.router.answer(studies)
        answers: list[RoutedAnswer] = [RoutedAnswer(route) for route in routes]
        rows_of: dict[Predictor, list[int]] = {}
        for row, route in enumerate(routes):
            if route.abstain:
                continue
            self._open(route.area)
            if route.area in self._missing:
                answers[row] = RoutedAnswer(route, error=self._missing[route.area])
            else:
                rows_of.setdefault(self._by_area[route.area], []).append(row)
        for predictor, rows in rows_of.items():
            for row, answer in zip(rows, predictor.answer([studies[r] for r in rows]), strict=True):
                fallback = self._fallbacks.get(routes[row].area)
                answers[row] = RoutedAnswer(routes[row], answer, fallback)
        return answers

    def predict(self, images: str | Path | Sequence[str | Path]) -> RoutedAnswer:
        """The answer about one study.

        Raises:
            InputError: no image, or no release for the area nor one for all areas.
            UnreadableImage: a view that cannot be decoded; no view is left out.
        """
        answer = super().predict(images)
        if answer.error:
            raise InputError(answer.error)
        return answer

    def sources(self, row: AnswerRow) -> dict[str, str]:
        release = ""
        if row["probability"] is not None and (predictor := self._predictor_of(row["area"])):
            release = f"{predictor.release.manifest.area} {predictor.source}"
        return {"router": self.router.source, "release": release}

    def confirms(self, row: AnswerRow) -> bool:
        if row["confidence"] is None or row["area"] not in self.router.areas:
            return False
        if not self.router.tells_distance(row, "router_distance"):
            return False
        route = self.router.judge(row.get("router_distance"))
        if row["confidence"] < self.router.threshold or is_unfamiliar(route):
            alone = row["abstain"] is True and row["probability"] is None
            return alone and confirms_familiarity(row, route)
        predictor = self._predictor_of(row["area"])
        return predictor is not None and predictor.confirms(row)

    def _predictor_of(self, area: str) -> Predictor | None:
        """The release that answers for an area; None where it is missing or not of the router."""
        if area in self.router.areas:
            self._open(area)
        return self._by_area.get(area)
