"""The evidence for an answer in each view of a study: Grad-CAM, and how true the map is."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mura_tune import files
from mura_tune.errors import InputError
from mura_tune.imaging.images import read_image
from mura_tune.networks.gradcam import (
    Faithfulness,
    FaithfulnessCurves,
    compute_gradcam,
    scale_maps,
    trace_faithfulness,
)
from mura_tune.networks.network import Model
from mura_tune.reading.answers import Answer, AreaAnswer
from mura_tune.reading.readers import Predictor, Router
from mura_tune.reading.studies import StudyFiles, StudyViews
from mura_tune.report.heatmap import COLOURS, overlay
from mura_tune.text import visible
from mura_tune.training.batches import to_input

_PIECE = 16  # views that a network maps at a time: a study of many would fill the memory
_CAPTION = (
    "Bright: where the network's last feature map speaks for {subject}. It outlines nothing, and "
    "may be wrong.\nNot a medical device. For research; not for any decision about a patient."
)


@dataclass(frozen=True, eq=False)
class ViewExplanation:
    """The evidence in one view.

    Attributes:
        path: the image file.
        pixels: its grey pixels (H, W).
        probability: of the explanation's subject, calibrated.
        cam: the map (S, S) in [0, 1], as a share of the largest value in any view of the study.
        faithfulness: how far the probability follows the map's pixels; None if not measured.
    """

    path: Path
    pixels: NDArray[np.uint8]
    probability: float
    cam: NDArray[np.float32]
    faithfulness: Faithfulness | None


@dataclass(frozen=True, eq=False)
class Explanation:
    """The answer about a study, and the evidence for `subject` in each of its views."""

    answer: Answer | AreaAnswer
    subject: str
    views: tuple[ViewExplanation, ...]

    def __str__(self) -> str:
        lines = [str(self.answer)]
        for view in self.views:
            if view.faithfulness is None:
                continue
            areas = view.faithfulness
            lines.append(
                f"  {view.path.name}: deletion {areas.deletion:.3f} "
                f"(random {areas.random_deletion:.3f}), insertion {areas.insertion:.3f} "
                f"(random {areas.random_insertion:.3f})"
            )
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The answer; with each view its deletion and insertion areas, if they were measured."""
        document = self.answer.to_json()
        for view_document, view in zip(document["views"], self.views, strict=True):
            if view.faithfulness is not None:
                view_document |= asdict(view.faithfulness)
        return document

    def save(self, out: Path) -> None:
        """Draw each view beside its overlay, a row a view, with a bar of the map's colours."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.cm import ScalarMappable
        from matplotlib.figure import Figure

        rows = len(self.views)
        heights = [min(v.pixels.shape[0] / v.pixels.shape[1], 1.6) * 4.2 + 0.45 for v in self.views]
        figure = Figure(figsize=(9.6, sum(heights) + 0.7), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, 2, squeeze=False, gridspec_kw={"height_ratios": heights})
        text: Any = {"parse_math": False}  # a $ in a name is a dollar, and no formula
        figure.suptitle(self.answer.brief(), fontsize=12, **text)
        caption = _CAPTION.format(subject=self.subject)
        figure.supxlabel(caption, fontsize=8.5, color="#555555", **text)
        for (left, right), view in zip(axes, self.views, strict=True):
            left.imshow(view.pixels, cmap="gray", vmin=0, vmax=255)
            right.imshow(overlay(view.pixels, view.cam))
            left.set_title(_shorten(view.path), fontsize=9, loc="left", **text)
            label = f"P({self.subject}) = {view.probability:.3f}"
            right.set_title(label, fontsize=9, loc="left", **text)
            for axis in (left, right):
                axis.axis("off")
        bar = figure.colorbar(ScalarMappable(cmap=COLOURS), ax=axes[:, 1], shrink=0.7, aspect=30)
        bar.set_label(f"evidence for {self.subject}, share of the study's maximum", fontsize=9)
        _save_figure(figure, out)


@dataclass(frozen=True, eq=False)
class EvidenceMaps:
    """Where each view of a study speaks for a subject, and what measures how true that is.

    Attributes:
        x_nchw: the views as the network reads them.
        cams_nss: maps in [0, 1], as a share of the largest value in any view of the study.
        to_probability: of the subject, calibrated, (N,) from logits (N, K).
    """

    net: Model
    x_nchw: Tensor
    cams_nss: Tensor
    to_probability: Callable[[Tensor], Tensor]

    def cam(self, view: int) -> NDArray[np.float32]:
        """The map (S, S) of a view."""
        cam: NDArray[np.float32] = self.cams_nss[view].cpu().numpy()
        return cam

    @torch.inference_mode()
    def probabilities(self) -> list[float]:
        """Of the subject in each view."""
        pieces = torch.split(self.x_nchw, _PIECE)
        logits = torch.cat([self.net(piece).float() for piece in pieces])
        probabilities: list[float] = self.to_probability(logits).tolist()
        return probabilities

    def trace(self, view: int) -> FaithfulnessCurves:
        """How the probability of a view follows its map's pixels."""
        x_1chw = self.x_nchw[view : view + 1]
        return trace_faithfulness(self.net, x_1chw, self.cams_nss[view], self.to_probability)


def map_evidence(
    reader: Predictor | Router, squares_nss: NDArray[np.uint8], subject: str
) -> EvidenceMaps:
    """Map the evidence for `subject` in each view, from the views' grey squares (N, S, S).

    Args:
        subject: "abnormal", or an area of a router.

    Raises:
        InputError: a network whose last features are no map.
    """
    net = reader.release.net
    output, to_probability = reader.evidence(subject)
    x_nchw = to_input(torch.from_numpy(squares_nss), reader.device)
    pieces = [compute_gradcam(net, piece, output) for piece in torch.split(x_nchw, _PIECE)]
    cams_nss = scale_maps(torch.cat(pieces))
    return EvidenceMaps(net, x_nchw, cams_nss, to_probability)


def explain_study(
    reader: Predictor | Router, images: Sequence[Path], *, deletion: bool = False
) -> Explanation:
    """Read a study, and map the evidence in each view: for *abnormal*, or for a router's area.

    Args:
        deletion: also measure how the probability changes without, and with only, the map's pixels.

    Raises:
        UnreadableImage: a view that cannot be decoded.
        NoFeatureMap: a network whose last features are no map.
    """
    return explain_views(reader, images, [read_image(path) for path in images], deletion=deletion)


def explain_views(
    reader: Predictor | Router,
    images: Sequence[Path],
    images_hw: Sequence[NDArray[np.uint8]],
    *,
    deletion: bool = False,
) -> Explanation:
    """The same for views that are decoded already: their grey pixels (H, W), in order.

    Raises:
        NoFeatureMap: a network whose last features are no map.
    """
    study = StudyViews.of(StudyFiles("", tuple(images)), images_hw, [reader.size])
    (answer,) = reader.answer([study])
    subject = answer.area if isinstance(answer, AreaAnswer) else "abnormal"
    maps = map_evidence(reader, study.at(reader.size), subject)
    probabilities = (
        [view.probability for view in answer.views]
        if isinstance(answer, Answer)
        else maps.probabilities()  # a view alone may show another area
    )
    views = []
    for i, path in enumerate(images):
        faithfulness = maps.trace(i).areas() if deletion else None
        views.append(
            ViewExplanation(path, images_hw[i], probabilities[i], maps.cam(i), faithfulness)
        )
    return Explanation(answer, subject, tuple(views))


def check_drawable(out: Path) -> None:
    """Raise InputError, before any work, if an explanation could not be drawn as `out`."""
    if out.suffix.lower() != ".png":
        raise InputError(f"{out}: an explanation is a .png")
    files.check_writable(out)


def _shorten(path: Path) -> str:
    """The end of a path, as long as a title may be."""
    text = visible("/".join(path.parts[-4:]))
    return text if len(text) <= 52 else f"…{text[-51:]}"


def _save_figure(figure: Any, out: Path) -> None:
    content = io.BytesIO()
    figure.savefig(content, dpi=110, format="png")
    files.replace_file(out, content.getvalue())
