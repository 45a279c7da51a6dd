"""Which area a study shows, and the answer of that area's release."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mura_tune.areas import ROUTER
from mura_tune.errors import InputError
from mura_tune.evaluation.routing import Routing
from mura_tune.reading.predictor import Prediction, Predictor, logits_of, pixels_of
from mura_tune.release import release as release_io
from mura_tune.release.two_stage import release_for
from mura_tune.training.recognition import softmax
from mura_tune.training.tasks import PART


@dataclass(frozen=True)
class Route:
    """The area of a study: that of the largest logit, averaged over its views.

    `confidence` is its calibrated probability; below `least`, chosen on dev, it abstains. `views`
    have the area of each alone, with its probability.
    """

    area: str
    confidence: float
    least: float
    views: tuple[tuple[str, str, float], ...]
    release: str

    @property
    def abstain(self) -> bool:
        return self.confidence < self.least

    def brief(self) -> str:
        """The answer alone, as short as a title."""
        doubt = f", abstain below {self.least:.3f}" if self.abstain else ""
        return f"{self.area}: confidence {self.confidence:.3f}{doubt}"

    def describe(self) -> str:
        """The area as lines for people."""
        head = f"{self.area}: confidence {self.confidence:.3f}"
        if self.abstain:
            head = (
                f"abstain: {self.area} has a confidence of {self.confidence:.3f}, below "
                f"{self.least:.3f}, which was chosen on dev; name the --area"
            )
        return "\n".join([head, *(f"  {p:.3f}  {area}  {image}" for image, area, p in self.views)])

    def to_json(self) -> dict[str, Any]:
        views = [{"image": i, "area": area, "confidence": p} for i, area, p in self.views]
        return asdict(self) | {"views": views, "abstain": self.abstain}


class Router:
    """A verified release that tells areas apart.

    Raises:
        InputError: a release that is not whole, or of another task.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        if not folder.exists():
            raise InputError(
                f"{folder}: no router to ask for the area; name the --area, or make "
                f"one: mura tune {ROUTER} && mura finalize {ROUTER}"
            )
        self.bundle = release_io.load(folder, device)
        if self.bundle.manifest.get("task") != PART.name:
            area = self.bundle.manifest["area"]
            raise InputError(
                f"{folder}: no router, but a release for {area}; make one: mura tune {ROUTER}"
            )
        self.routing = Routing.from_json(self.bundle.manifest)
        self.areas: tuple[str, ...] = tuple(self.bundle.manifest["areas"])
        self.device = device

    def study(self, images: Sequence[Path]) -> Route:
        """The area of one study from the files of its views; UnreadableImage as `Predictor`."""
        pixels = pixels_of(images, self.bundle.manifest["preprocessing"]["size"])
        return self.route(images, self.logits(pixels))

    def evidence(self, what: str) -> tuple[int, Callable[[Tensor], Tensor]]:
        """The output that speaks for an area, and a view's probability of it from logits (N, K)."""
        number, temperature = self.areas.index(what), self.routing.temperature
        return number, lambda logits: (logits / temperature).softmax(1)[:, number]

    def logits(self, pixels_nss: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The logits of each view, (N, K), in the order of `areas`; raises as `logits_of`."""
        return logits_of(self.bundle, pixels_nss, self.device)

    def route(self, images: Sequence[Path], logits_nk: NDArray[np.float32]) -> Route:
        """What `study` says, from the logits of its views."""
        wide_nk = logits_nk.astype(np.float64)
        areas, temperature = self.areas, self.routing.temperature
        (mean_k,) = softmax(wide_nk.mean(0, keepdims=True), temperature)
        each = softmax(wide_nk, temperature)
        return Route(
            area=areas[int(np.argmax(mean_k))],
            confidence=float(mean_k.max()),
            least=self.routing.confidence,
            views=tuple(
                (str(image), areas[int(np.argmax(view))], float(view.max()))
                for image, view in zip(images, each, strict=True)
            ),
            release=str(self.bundle.folder),
        )


@dataclass(frozen=True)
class Chained:
    """A study's area and, unless that is in doubt, the answer of the release for it.

    `fallback` says which release answered for one that is missing.
    """

    route: Route
    answer: Prediction | None
    fallback: str | None

    def describe(self) -> str:
        """Both as lines for people."""
        lines = [self.route.describe()]
        if self.fallback:
            lines.append(self.fallback)
        return "\n".join([*lines, self.answer.describe()] if self.answer else lines)

    def to_json(self) -> dict[str, Any]:
        answer = self.answer.to_json() if self.answer else None
        return {"route": self.route.to_json(), "answer": answer, "fallback": self.fallback}


def routed(
    find: Callable[[str], Path], images: Sequence[Path], device: torch.device
) -> tuple[Route, Path | None, str | None]:
    """A study's area, the folder of what answers for it, and a line if that is another's.

    No folder where the router abstains. `find` and what is raised: as for `chained`.
    """
    route = Router(find(ROUTER), device).study(images)
    if route.abstain:
        return route, None, None
    return route, *release_for(find, route.area)


def chained(
    find: Callable[[str], Path],
    images: Sequence[Path],
    device: torch.device,
    threshold: float | None = None,
) -> Chained:
    """Route a study by the router, then ask the release of its area.

    Args:
        find: the folder of a release by its name, as for `release_for`.

    Raises:
        InputError: no router, or no release for the area nor one for all areas.
        UnreadableImage: a view that cannot be decoded.
    """
    route, folder, fallback = routed(find, images, device)
    if folder is None:
        return Chained(route, None, None)
    return Chained(route, Predictor(folder, device, route.area).study(images, threshold), fallback)
