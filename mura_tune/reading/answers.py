"""What a reader answers about one study: for people, for programs, and for a row of a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from mura_tune.evaluation.familiarity import UNFAMILIAR


class StudyAnswer(Protocol):
    """An answer about one study, from any reader; `str` gives it as lines for people."""

    def brief(self) -> str:
        """The answer as one short line, such as a title."""

    def to_json(self) -> dict[str, Any]:
        """The answer as `--json` prints it."""

    def cells(self) -> Mapping[str, object]:
        """The answer by the columns of a table of answers."""


@dataclass(frozen=True)
class Familiarity:
    """How like the radiographs that a release was trained on a study is.

    Attributes:
        distance: of the least familiar view; see `evaluation.familiarity`.
        threshold: the largest distance of a study that is answered, chosen on dev.
    """

    distance: float
    threshold: float

    @property
    def like_training(self) -> bool:
        """Whether the study is like the radiographs that the release was trained on."""
        return self.distance <= self.threshold

    def __str__(self) -> str:
        return f"{UNFAMILIAR} (distance {self.distance:.2f}, at most {self.threshold:.2f})"

    def to_json(self) -> dict[str, Any]:
        """The fields by name, and `like_training`."""
        return asdict(self) | {"like_training": self.like_training}


def is_unfamiliar(familiarity: Familiarity | None) -> bool:
    """Whether a study is known to be unlike the radiographs that a release was trained on."""
    return familiarity is not None and not familiarity.like_training


def _describe_view(distance: float | None, familiarity: Familiarity | None) -> str:
    """What stands beside a view that is not like the training radiographs; "" beside others."""
    if distance is None or familiarity is None or distance <= familiarity.threshold:
        return ""
    return f"  {UNFAMILIAR}"


def _to_json(answer: Answer | AreaAnswer) -> dict[str, Any]:
    """The fields by name; without those on familiarity where a release does not tell it."""
    document = asdict(answer)
    if answer.familiarity is not None:
        document["familiarity"] = answer.familiarity.to_json()
        return document
    del document["familiarity"]
    for view in document["views"]:
        del view["distance"]
    return document


@dataclass(frozen=True)
class ViewProbability:
    """The calibrated probability of *abnormal* of one view.

    Attributes:
        distance: see `Familiarity`; None from an older release.
    """

    image: str
    probability: float
    distance: float | None = None


@dataclass(frozen=True)
class Answer:
    """The calibrated probability that a study is abnormal, and the decision that follows.

    Attributes:
        area: the area of the release that answers.
        probability: of *abnormal*, by the mean logit of the views; a release of schema 1 or 2 gives
            the mean of their probabilities.
        abnormal: whether the probability reaches the threshold.
        threshold: where the operating point lies.
        operating_point: the rule behind the threshold; "given" where the caller chose it.
        abstain: whether the release abstains: the probability lies in the band around the threshold
            in which it answered too many studies of dev wrong, or the study is not like the
            radiographs that it was trained on.
        views: the probability of each view, in the order of the images.
        release: the folder of the release.
        recipe: the digest of the release's recipe.
        recognised_area: the area that a multi-task release sees; None from other releases.
        familiarity: how like these radiographs the study is; None from an older release.
    """

    area: str
    probability: float
    abnormal: bool
    threshold: float
    operating_point: str
    abstain: bool
    views: tuple[ViewProbability, ...]
    release: str
    recipe: str
    recognised_area: str | None = None
    familiarity: Familiarity | None = None

    def brief(self) -> str:
        """The area, the probability and the decision in one line."""
        if is_unfamiliar(self.familiarity):
            return f"{self.area}: {self.familiarity}, abstain"
        word = "abstain" if self.abstain else ("abnormal" if self.abnormal else "not abnormal")
        return (
            f"{self.area}: P(abnormal) = {self.probability:.3f}, {word} "
            f"(threshold {self.threshold:.3f})"
        )

    def __str__(self) -> str:
        word = "abnormal" if self.abnormal else "not abnormal"
        doubt = "; in the band of doubt: abstain" if self.abstain else ""
        lines = [
            f"{self.area}: P(abnormal) = {self.probability:.3f}, {word} at "
            f"{self.threshold:.3f} ({self.operating_point}){doubt}"
        ]
        if is_unfamiliar(self.familiarity):
            lines = [
                f"{self.area}: abstain: {self.familiarity}",
                f"  its P(abnormal) of {self.probability:.3f} says nothing about such a picture",
            ]
        if self.recognised_area:
            lines.append(f"  looks like {self.recognised_area}")
        views = (
            f"  {v.probability:.3f}  {v.image}{_describe_view(v.distance, self.familiarity)}"
            for v in self.views
        )
        return "\n".join([*lines, *views])

    def to_json(self) -> dict[str, Any]:
        """The fields by name; the recognised area stands under `part`, as in earlier versions."""
        document = _to_json(self)
        document["part"] = document.pop("recognised_area")
        return document

    def cells(self) -> Mapping[str, object]:
        """The decision; `area` is the recognised one, for the tables that have that column."""
        return {
            "area": self.recognised_area,
            "probability": self.probability,
            "abnormal": self.abnormal,
            "abstain": self.abstain,
            "distance": None if self.familiarity is None else self.familiarity.distance,
            "like_training": None if self.familiarity is None else self.familiarity.like_training,
        }


@dataclass(frozen=True)
class ViewArea:
    """The area that one view shows, and the calibrated probability of that area.

    Attributes:
        distance: see `Familiarity`; None from an older router.
    """

    image: str
    area: str
    confidence: float
    distance: float | None = None


@dataclass(frozen=True)
class AreaAnswer:
    """The area that a study shows, according to a router.

    Attributes:
        area: the one of the largest logit, averaged over the views.
        confidence: the calibrated probability of the area.
        least: the confidence, chosen on dev, below which the router abstains.
        views: the area of each view alone, in the order of the images.
        release: the folder of the router.
        familiarity: how like the radiographs that the router was trained on the study is; None from
            an older router.
    """

    area: str
    confidence: float
    least: float
    views: tuple[ViewArea, ...]
    release: str
    familiarity: Familiarity | None = None

    @property
    def abstain(self) -> bool:
        """Whether the router is not sure enough, or was trained on nothing like the study."""
        return self.confidence < self.least or is_unfamiliar(self.familiarity)

    def brief(self) -> str:
        """The area and the confidence in one line."""
        if is_unfamiliar(self.familiarity):
            return f"{self.familiarity}, abstain"
        doubt = f", abstain below {self.least:.3f}" if self.abstain else ""
        return f"{self.area}: confidence {self.confidence:.3f}{doubt}"

    def __str__(self) -> str:
        head = f"{self.area}: confidence {self.confidence:.3f}"
        if is_unfamiliar(self.familiarity):
            head = f"abstain: {self.familiarity}; {self.area} would be the area"
        elif self.abstain:
            head = (
                f"abstain: {self.area} has a confidence of {self.confidence:.3f}, below "
                f"{self.least:.3f}, which was chosen on dev; name the --area"
            )
        views = (
            f"  {view.confidence:.3f}  {view.area}  {view.image}"
            f"{_describe_view(view.distance, self.familiarity)}"
            for view in self.views
        )
        return "\n".join([head, *views])

    def to_json(self) -> dict[str, Any]:
        """The fields by name, and `abstain`."""
        return _to_json(self) | {"abstain": self.abstain}

    def cells(self) -> Mapping[str, object]:
        """The area, the confidence, and whether the router abstains."""
        cells = {"area": self.area, "confidence": self.confidence, "abstain": self.abstain}
        if self.familiarity is None:
            return cells
        like = self.familiarity.like_training
        return {**cells, "distance": self.familiarity.distance, "like_training": like}


@dataclass(frozen=True)
class RoutedAnswer:
    """The area that a study shows, and what the release of that area answers.

    Attributes:
        route: the answer of the router.
        answer: the answer of the area's release; None where the router abstains or the release is
            missing.
        fallback: a line that says which release answers in the place of a missing one.
        error: a line that says which release is missing; "" where none is.
    """

    route: AreaAnswer
    answer: Answer | None = None
    fallback: str | None = None
    error: str = ""

    @property
    def familiarity(self) -> Familiarity | None:
        """The router's where that refuses the study or no release answers, else the release's."""
        if self.answer is None or is_unfamiliar(self.route.familiarity):
            return self.route.familiarity
        return self.answer.familiarity

    def brief(self) -> str:
        """The answer of the area's release in one line, or the area without one."""
        return self.answer.brief() if self.answer else self.route.brief()

    def __str__(self) -> str:
        lines = [self.route, self.fallback, self.answer]
        return "\n".join(str(line) for line in lines if line)

    def to_json(self) -> dict[str, Any]:
        """Both answers, and the fallback."""
        answer = self.answer.to_json() if self.answer else None
        return {"route": self.route.to_json(), "answer": answer, "fallback": self.fallback}

    def cells(self) -> Mapping[str, object]:
        """The router's area and confidence, and the decision of the area's release."""
        route = dict(self.route.cells())
        route["router_distance"] = route.pop("distance", None)
        decision = dict(self.answer.cells()) if self.answer else {}
        decision.pop("area", None)
        like = None if self.familiarity is None else self.familiarity.like_training
        return {**route, "error": self.error, **decision, "like_training": like}
