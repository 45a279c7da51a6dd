"""One study in, one answer out."""

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
from mura_tune.evaluation.calibration import Chosen
from mura_tune.imaging.images import read_image, resize_to_square
from mura_tune.metrics.estimates import sigmoid
from mura_tune.release import legacy
from mura_tune.release import release as release_io
from mura_tune.training.batches import to_input
from mura_tune.training.tasks import MULTITASK, PART


@dataclass(frozen=True)
class Prediction:
    """A study's calibrated probability of *abnormal*: the mean over its views, given beside it.

    `operating_point` names the rule behind the threshold; `abstain` says that the probability
    lies in the band around it in which dev was answered wrong too often.
    """

    area: str
    probability: float
    abnormal: bool
    threshold: float
    operating_point: str
    abstain: bool
    views: tuple[tuple[str, float], ...]  # image path, probability
    release: str
    recipe: str
    part: str | None = None  # the area that a multi-task release takes it for

    def brief(self) -> str:
        """The answer alone, as short as a title."""
        word = "abstain" if self.abstain else ("abnormal" if self.abnormal else "not abnormal")
        return (
            f"{self.area}: P(abnormal) = {self.probability:.3f}, {word} "
            f"(threshold {self.threshold:.3f})"
        )

    def describe(self) -> str:
        """The answer as lines for people."""
        word = "abnormal" if self.abnormal else "not abnormal"
        doubt = "; in the band of doubt: abstain" if self.abstain else ""
        lines = [
            f"{self.area}: P(abnormal) = {self.probability:.3f}, {word} at "
            f"{self.threshold:.3f} ({self.operating_point}){doubt}"
        ]
        if self.part:
            lines.append(f"  looks like {self.part}")
        return "\n".join([*lines, *(f"  {value:.3f}  {image}" for image, value in self.views)])

    def to_json(self) -> dict[str, Any]:
        views = [{"image": image, "probability": value} for image, value in self.views]
        return asdict(self) | {"views": views}


def pixels_of(images: Sequence[Path], size: int) -> NDArray[np.uint8]:
    """A study's views (N, S, S) from their files; UnreadableImage where one cannot be decoded."""
    return np.stack([resize_to_square(read_image(path), size) for path in images])


@torch.inference_mode()
def logits_of(
    release: release_io.Bundle, pixels_nss: NDArray[np.uint8], device: torch.device
) -> NDArray[np.float32]:
    """A release's logits (N, K) of views (N, S, S).

    Raises:
        InputError: one is not finite: from here on it would be compared, and be called normal.
    """
    x_nchw = to_input(torch.from_numpy(pixels_nss), device)
    logits_nk: NDArray[np.float32] = release.net(x_nchw).float().cpu().numpy()
    if not np.isfinite(logits_nk).all():
        raise InputError(
            f"{release.folder}: its network answers {logits_nk.max()} to a picture; "
            "its weights are damaged: fetch or make the release again"
        )
    return logits_nk


class Predictor:
    """A verified release, ready to read studies.

    Args:
        folder: the release's, or a checkpoint file of the form that earlier projects wrote.
        area: what the caller expects the release to be for; None takes it as it is.

    Raises:
        InputError: a release that is not whole, or of another area.
    """

    def __init__(self, folder: Path, device: torch.device, area: str | None = None) -> None:
        checkpoint = folder.is_file()
        opened = (
            legacy.load(folder, device, area) if checkpoint else release_io.load(folder, device)
        )
        self.bundle = opened
        self.device = device
        if self.bundle.manifest.get("task") == PART.name:
            raise InputError(
                f"{folder}: a router, which says nothing about disease; ask it by "
                f"--area {ROUTER}, or through it by --area auto"
            )
        self.chosen = Chosen.from_json(self.bundle.manifest)
        both = self.bundle.manifest.get("task") == MULTITASK.name
        self.parts: tuple[str, ...] = tuple(self.bundle.manifest["areas"]) if both else ()
        self.area = str(self.bundle.manifest["area"])
        if area and area not in (self.area, *self.bundle.manifest.get("areas", ())):
            raise InputError(
                f"{folder}: a release for {self.area}, not for {area}; "
                f"name the one for {area} with --release"
            )

    def study(self, images: Sequence[Path], threshold: float | None = None) -> Prediction:
        """Read one study from the files of its views.

        Args:
            threshold: replaces the release's recommended one, and the band with it.

        Raises:
            UnreadableImage: a view that cannot be decoded; none is passed over.
        """
        size = self.bundle.manifest["preprocessing"]["size"]
        return self.answer(images, self.logits(pixels_of(images, size)), threshold)

    def evidence(self, what: str) -> tuple[int, Callable[[Tensor], Tensor]]:
        """The output that speaks for *abnormal*, and its calibrated probability (N,) from logits
        (N, K); the mean over a study's views is the study's."""
        fitted = self.chosen.calibration
        return 0, lambda logits: ((logits[:, 0] + fitted.offset) / fitted.temperature).sigmoid()

    def logits(self, pixels_nss: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The logits of each view, (N, K), uncalibrated: of *abnormal* first.

        Raises:
            InputError: one is not finite.
        """
        return logits_of(self.bundle, pixels_nss, self.device)

    def judge(self, probability: float, threshold: float | None) -> tuple[bool, bool]:
        """Whether a study of this probability is abnormal, and whether to abstain from it.

        Args:
            threshold: replaces the release's recommended one, and the band with it.
        """
        cut = self.chosen.threshold if threshold is None else threshold
        return probability >= cut, threshold is None and self.chosen.band.holds(probability)

    def answer(
        self, images: Sequence[Path], logits_nk: NDArray[np.float32], threshold: float | None
    ) -> Prediction:
        """What `study` says, from the logits of its views."""
        views = sigmoid(self.chosen.calibration.logits(logits_nk[:, 0]))
        cut = self.chosen.threshold if threshold is None else threshold
        probability = float(views.mean())
        abnormal, abstain = self.judge(probability, threshold)
        return Prediction(
            area=self.area,
            probability=probability,
            abnormal=abnormal,
            threshold=cut,
            operating_point=self.chosen.recommended if threshold is None else "given",
            abstain=abstain,
            views=tuple((str(i), float(v)) for i, v in zip(images, views, strict=True)),
            release=str(self.bundle.folder),
            recipe=str(self.bundle.manifest["recipe_digest"]),
            part=self.parts[int(logits_nk[:, 1:].mean(0).argmax())] if self.parts else None,
        )
