"""The readers of one release: of one that tells normal from abnormal, or of a router.

Every reader answers a batch of studies in one way; a single study is a batch of one.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mura_tune.areas import ROUTER, stored_area
from mura_tune.errors import InputError
from mura_tune.evaluation.decision import Decision
from mura_tune.evaluation.routing import RouterDecision
from mura_tune.metrics.areas import softmax
from mura_tune.metrics.estimates import Floats, sigmoid
from mura_tune.networks.features import answer_with_features
from mura_tune.reading.answer_table import AnswerRow
from mura_tune.reading.answers import (
    Answer,
    AreaAnswer,
    Familiarity,
    StudyAnswer,
    ViewArea,
    ViewProbability,
    is_unfamiliar,
)
from mura_tune.reading.studies import StudyFiles, StudyViews
from mura_tune.release.legacy import load_checkpoint
from mura_tune.release.release import Release, load_release
from mura_tune.release_format.folder import recover_release
from mura_tune.release_format.manifest import (
    MANIFEST,
    AbnormalityManifest,
    MultitaskManifest,
    RouterManifest,
    read_manifest,
)
from mura_tune.training.batches import to_input

AnswerT = TypeVar("AnswerT", bound=StudyAnswer, covariant=True)
CPU = torch.device("cpu")


class Reader(ABC, Generic[AnswerT]):
    """Reads studies: the views of a study in, one answer out."""

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """The columns of a table of answers, in order, without its provenance.

        `study`, `views`, `error` and those of `sources` are among them, and those on familiarity
        where a release tells it.
        """

    @property
    @abstractmethod
    def sizes(self) -> frozenset[int]:
        """The sides S of the squares (V, S, S) that `answer` reads of a study's V views."""

    @abstractmethod
    def answer(self, studies: Sequence[StudyViews]) -> list[AnswerT]:
        """The answer about each study of a batch, in order.

        Raises:
            InputError: a network that answers with a number that is not finite.
        """

    @abstractmethod
    def sources(self, row: AnswerRow) -> dict[str, str]:
        """The releases that answer the study of a row, with their thresholds, by their columns."""

    @abstractmethod
    def confirms(self, row: AnswerRow) -> bool:
        """Whether the decisions of a row follow from the row's own numbers."""

    def open_all(self) -> list[str]:
        """Open every release that may answer; returns lines on the releases that are missing.

        Raises:
            InputError: a release that is not whole.
        """
        return []

    def predict(self, images: str | Path | Sequence[str | Path]) -> AnswerT:
        """The answer about one study.

        Args:
            images: the files of the study's views.

        Returns:
            An `Answer`; from a `Router` an `AreaAnswer`.

        Raises:
            InputError: no image.
            UnreadableImage: a view that cannot be decoded; no view is left out.
        """
        views = [images] if isinstance(images, str | Path) else images
        if not views:
            raise InputError("a study has at least one view; name its image files")
        study = StudyFiles("", tuple(Path(view) for view in views))
        (answer,) = self.answer([StudyViews(study)])
        return answer


class _ReleaseReader(Reader[AnswerT]):
    """A reader with one release; a subclass says what the logits mean."""

    release: Release
    device: torch.device

    @property
    def size(self) -> int:
        """The side of the network's input in pixels."""
        return self.release.manifest.preprocessing.size

    @property
    def sizes(self) -> frozenset[int]:
        return frozenset([self.size])

    @torch.inference_mode()
    def read(self, pixels_nss: NDArray[np.uint8]) -> tuple[NDArray[np.float32], Floats | None]:
        """The uncalibrated logits (N, K) of N views, grey pixels (N, S, S), and the views'
        distances (N,) from the training radiographs; None from an older release.

        Raises:
            InputError: a logit is not finite: it would be compared, and be called normal.
        """
        x_nchw, rule = to_input(torch.from_numpy(pixels_nss), self.device), self.release.familiarity
        if rule is None:
            logits, distances_n = self.release.net(x_nchw), None
        else:
            logits, features = answer_with_features(self.release.net, x_nchw)
            distances_n = rule.measure(x_nchw, features)
        logits_nk: NDArray[np.float32] = logits.float().cpu().numpy()
        if not np.isfinite(logits_nk).all():
            raise InputError(
                f"{self.release.folder}: its network answers {logits_nk.max()} to a picture; "
                "its weights are damaged: fetch or make the release again"
            )
        return logits_nk, distances_n

    def answer(self, studies: Sequence[StudyViews]) -> list[AnswerT]:
        logits_nk, distances_n = self.read(
            np.concatenate([study.at(self.size) for study in studies])
        )
        counts = [len(study.files.images) for study in studies]
        ends = np.cumsum(counts)
        logits_of_study = np.split(logits_nk, ends[:-1])
        distances_of_study: list[list[float | None]] = (
            [[None] * count for count in counts]
            if distances_n is None
            else [part.tolist() for part in np.split(distances_n, ends[:-1])]
        )
        return [
            self.interpret(study.files.images, logits_vk, distances_v)
            for study, logits_vk, distances_v in zip(
                studies, logits_of_study, distances_of_study, strict=True
            )
        ]

    @abstractmethod
    def interpret(
        self,
        images: Sequence[Path],
        logits_vk: NDArray[np.float32],
        distances_v: Sequence[float | None],
    ) -> AnswerT:
        """The answer about a study, from the logits (V, K) of its V views and their distances."""

    def judge(self, distance: float | None) -> Familiarity | None:
        """How like the training radiographs a study of this distance is; None where that is not
        known."""
        rule = self.release.familiarity
        if rule is None or distance is None:
            return None
        return Familiarity(distance, rule.threshold)

    def judge_views(self, distances_v: Sequence[float | None]) -> Familiarity | None:
        """The same of a study, by its least familiar view."""
        return self.judge(max((one for one in distances_v if one is not None), default=None))

    def tells_distance(self, row: AnswerRow, column: str = "distance") -> bool:
        """Whether a row has a distance if the release tells it, and none if not."""
        return (row.get(column) is not None) == (self.release.familiarity is not None)

    @property
    def familiarity_columns(self) -> tuple[str, ...]:
        """The columns of a table on familiarity, where the release tells it."""
        return () if self.release.familiarity is None else ("distance", "like_training")

    @abstractmethod
    def evidence(self, subject: str) -> tuple[int, Callable[[Tensor], Tensor]]:
        """The number of the output that speaks for `subject`, and its probability in each view.

        The probability is a function from the logits (V, K) of V views to the calibrated
        probabilities (V,). `subject` is "abnormal", or one of a router's areas.
        """

    @property
    @abstractmethod
    def threshold(self) -> float:
        """The number that the reader's decisions depend on."""

    @cached_property
    def source(self) -> str:
        """Twelve hex digits of the release, and the threshold, as tables of answers store them.

        Releases of one recipe, such as a second seed, have other digits.
        """
        stored = self.release.manifest.to_json()
        identity = [stored["recipe_digest"], stored["calibration"], stored.get("golden")]
        digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
        return f"{digest} at {self.threshold:.6g}"

    def sources(self, row: AnswerRow) -> dict[str, str]:
        return {"release": self.source}


class Predictor(_ReleaseReader[Answer]):
    """Reads studies with one verified release: is the study abnormal?

    Args:
        folder: the folder of the release, or a checkpoint file that an earlier project wrote.
        area: the area that the caller expects; None accepts the release's own.
        threshold: replaces the release's recommended operating point, and the band of doubt.

    Attributes:
        areas: the areas that a multi-task release tells apart; empty for other releases.

    Raises:
        InputError: a release that is not whole, of another area, or a router.
    """

    def __init__(
        self,
        folder: str | Path,
        device: torch.device = CPU,
        area: str | None = None,
        threshold: float | None = None,
    ) -> None:
        folder = Path(folder)
        self.release = (
            load_checkpoint(folder, device, area)
            if folder.is_file()
            else load_release(folder, device)
        )
        self.device = device
        manifest = self.release.manifest
        if not isinstance(manifest, AbnormalityManifest):
            raise InputError(
                f"{folder}: a router, which says nothing about disease; ask it by "
                f"--area {ROUTER}, or through it by --area auto"
            )
        self.decision = Decision.from_manifest(manifest)
        self.threshold_override = threshold
        multitask = isinstance(manifest, MultitaskManifest)
        self.areas: tuple[str, ...] = manifest.areas if multitask else ()
        self.area = manifest.area
        if area and stored_area(area) not in (self.area, *manifest.areas):
            raise InputError(
                f"{folder}: a release for {self.area}, not for {area}; "
                f"name the one for {area} with --release"
            )

    @property
    def columns(self) -> tuple[str, ...]:
        recognised = ("area",) if self.areas else ()
        return (
            *("study", "views", *recognised, "probability", "abnormal", "abstain"),
            *(*self.familiarity_columns, "error", "release"),
        )

    @property
    def threshold(self) -> float:
        return (
            self.decision.threshold if self.threshold_override is None else self.threshold_override
        )

    def decide(self, probability: float, familiarity: Familiarity | None) -> tuple[bool, bool]:
        """Whether a study of this probability is abnormal, and whether to abstain from it."""
        doubtful = self.threshold_override is None and self.decision.band.holds(probability)
        return probability >= self.threshold, doubtful or is_unfamiliar(familiarity)

    def interpret(
        self,
        images: Sequence[Path],
        logits_vk: NDArray[np.float32],
        distances_v: Sequence[float | None],
    ) -> Answer:
        calibration = self.decision.calibration
        probabilities = sigmoid(calibration.logits(logits_vk[:, 0]))
        probability = calibration.probability(logits_vk[:, 0])
        familiarity = self.judge_views(distances_v)
        abnormal, abstain = self.decide(probability, familiarity)
        recognised = int(logits_vk[:, 1:].mean(0).argmax()) if self.areas else None
        return Answer(
            area=self.area,
            probability=probability,
            abnormal=abnormal,
            threshold=self.threshold,
            operating_point=self.decision.recommended
            if self.threshold_override is None
            else "given",
            abstain=abstain,
            views=tuple(
                ViewProbability(str(image), float(value), distance)
                for image, value, distance in zip(images, probabilities, distances_v, strict=True)
            ),
            release=str(self.release.folder),
            recipe=self.release.manifest.recipe_digest,
            recognised_area=None if recognised is None else self.areas[recognised],
            familiarity=familiarity,
        )

    def evidence(self, subject: str) -> tuple[int, Callable[[Tensor], Tensor]]:
        calibration = self.decision.calibration
        return 0, lambda logits: (
            (logits[:, 0] + calibration.offset) / calibration.temperature
        ).sigmoid()

    def confirms(self, row: AnswerRow) -> bool:
        if row["probability"] is None or not self.tells_distance(row):
            return False
        familiarity = self.judge(row.get("distance"))
        decided = self.decide(row["probability"], familiarity)
        return decided == (row["abnormal"], row["abstain"]) and confirms_familiarity(
            row, familiarity
        )


class Router(_ReleaseReader[AreaAnswer]):
    """Reads studies with one verified router: which area does the study show?

    Attributes:
        areas: the areas, in the order of the logits.

    Raises:
        InputError: a release that is not whole, or no router.
    """

    def __init__(self, folder: str | Path, device: torch.device = CPU) -> None:
        folder = Path(folder)
        if not folder.exists():
            raise InputError(
                f"{folder}: no router to ask for the area; name the --area, or make "
                f"one: mura tune {ROUTER} && mura finalize {ROUTER}"
            )
        self.release = load_release(folder, device)
        manifest = self.release.manifest
        if not isinstance(manifest, RouterManifest):
            raise InputError(
                f"{folder}: no router, but a release for {manifest.area}; "
                f"make one: mura tune {ROUTER}"
            )
        self.decision = RouterDecision.from_manifest(manifest)
        self.areas: tuple[str, ...] = manifest.areas
        self.device = device

    @property
    def columns(self) -> tuple[str, ...]:
        return (
            *("study", "views", "area", "confidence", "abstain"),
            *(*self.familiarity_columns, "error", "release"),
        )

    @property
    def threshold(self) -> float:
        return self.decision.confidence

    def interpret(
        self,
        images: Sequence[Path],
        logits_vk: NDArray[np.float32],
        distances_v: Sequence[float | None],
    ) -> AreaAnswer:
        wide_vk = logits_vk.astype(np.float64)
        (study_k,) = softmax(wide_vk.mean(0, keepdims=True), self.decision.temperature)
        views_vk = softmax(wide_vk, self.decision.temperature)
        return AreaAnswer(
            area=self.areas[int(np.argmax(study_k))],
            confidence=float(study_k.max()),
            least=self.threshold,
            views=tuple(
                ViewArea(
                    str(image), self.areas[int(np.argmax(view_k))], float(view_k.max()), distance
                )
                for image, view_k, distance in zip(images, views_vk, distances_v, strict=True)
            ),
            release=str(self.release.folder),
            familiarity=self.judge_views(distances_v),
        )

    def evidence(self, subject: str) -> tuple[int, Callable[[Tensor], Tensor]]:
        output, temperature = self.areas.index(subject), self.decision.temperature
        return output, lambda logits: (logits / temperature).softmax(1)[:, output]

    def confirms(self, row: AnswerRow) -> bool:
        confidence, area = row["confidence"], row["area"]
        if confidence is None or area not in self.areas or not self.tells_distance(row):
            return False
        familiarity = self.judge(row.get("distance"))
        abstains = confidence < self.threshold or is_unfamiliar(familiarity)
        return bool(row["abstain"] == abstains) and confirms_familiarity(row, familiarity)


def confirms_familiarity(row: AnswerRow, familiarity: Familiarity | None) -> bool:
    """Whether a row says of a study's familiarity what follows from its distance."""
    like = None if familiarity is None else familiarity.like_training
    return bool(row.get("like_training") == like)


def load_reader(
    folder: str | Path, device: torch.device = CPU, threshold: float | None = None
) -> Predictor | Router:
    """The reader of a release: a `Router` where the release is one, else a `Predictor`.

    Args:
        folder: the folder of the release, or a checkpoint file that an earlier project wrote.
        threshold: replaces the release's recommended operating point, and the band of doubt.

    Raises:
        InputError: a release that is not whole, or a threshold for a router.
    """
    folder = Path(folder)
    recover_release(folder)
    manifest = folder / MANIFEST
    if not manifest.is_file() or not isinstance(read_manifest(manifest), RouterManifest):
        return Predictor(folder, device, threshold=threshold)
    if threshold is not None:
        raise InputError(f"{folder}: a router, which has no probability of abnormal to threshold")
    return Router(folder, device)
