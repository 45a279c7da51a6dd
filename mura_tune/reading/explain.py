"""The evidence for an answer in each view of a study: Grad-CAM, and how true the map is."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mura_tune import files
from mura_tune.errors import InputError
from mura_tune.imaging.images import read_image, resize_to_square
from mura_tune.lines import visible
from mura_tune.networks.gradcam import (
    Faithfulness,
    compute_gradcam,
    measure_faithfulness,
    scale_maps,
)
from mura_tune.reading.answers import Answer, AreaAnswer
from mura_tune.reading.readers import Predictor, Router
from mura_tune.report.heatmap import COLOURS, overlay
from mura_tune.training.batches import to_input

_CAPTION = (
    "Bright: where the network's last feature map speaks for {subject}. It outlines nothing, and "
    "may be wrong.\nNot a medical device. For research; not for any decision about a patient."
)


@dataclass(frozen=True, eq=False)
class View:
    """One image, the probability of what is explained, and what speaks for it.

    `cam` is the map (S, S) in [0, 1], a share of the largest value in any view of the study;
    `faithfulness` says how true it is.
    """

    path: Path
    pixels: NDArray[np.uint8]
    probability: float
    cam: NDArray[np.float32]
    faithfulness: Faithfulness | None


@dataclass(frozen=True, eq=False)
class Explanation:
    """A study's answer and its views, explained; the maps show evidence for `subject`."""

    answer: Answer | AreaAnswer
    subject: str
    views: tuple[View, ...]

    def describe(self) -> str:
        """The answer, and for each view its deletion and insertion area if it was asked for."""
        lines = [str(self.answer)]
        for view in self.views:
            if view.faithfulness is None:
                continue
            f = view.faithfulness
            lines.append(
                f"  {view.path.name}: deletion {f.deletion:.3f} (random {f.random_deletion:.3f}), "
                f"insertion {f.insertion:.3f} (random {f.random_insertion:.3f})"
            )
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
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
            left.set_title(_short(view.path), fontsize=9, loc="left", **text)
            chance = f"P({self.subject}) = {view.probability:.3f}"
            right.set_title(chance, fontsize=9, loc="left", **text)
            for axis in (left, right):
                axis.axis("off")
        bar = figure.colorbar(ScalarMappable(cmap=COLOURS), ax=axes[:, 1], shrink=0.7, aspect=30)
        bar.set_label(f"evidence for {self.subject}, share of the study's maximum", fontsize=9)
        _write(figure, out)


def explain_study(
    reader: Predictor | Router, images: Sequence[Path], *, deletion: bool = False
) -> Explanation:
    """Answer for a study, and show where each view speaks for *abnormal*, or for the area that a
    router takes it for.

    Args:
        deletion: also measure how much of the probability goes and comes with the map's pixels.

    Raises:
        UnreadableImage: a view that cannot be decoded.
        InputError: a network whose last features are no map.
    """
    answer = reader.predict(images)
    size, net = reader.size, reader.release.net
    subject = answer.area if isinstance(answer, AreaAnswer) else "abnormal"
    output, probability = reader.evidence(subject)
    pictures = [read_image(path) for path in images]
    small = torch.from_numpy(np.stack([resize_to_square(picture, size) for picture in pictures]))
    x_nchw = to_input(small, reader.device)
    with torch.inference_mode():
        chances = probability(net(x_nchw).float()).tolist()
    cams_nss = scale_maps(compute_gradcam(net, x_nchw, output))
    views = []
    for i, path in enumerate(images):
        doubt = (
            measure_faithfulness(net, x_nchw[i : i + 1], cams_nss[i], probability)
            if deletion
            else None
        )
        views.append(View(path, pictures[i], chances[i], cams_nss[i].cpu().numpy(), doubt))
    return Explanation(answer, subject, tuple(views))


def drawable(out: Path) -> None:
    """Raise InputError, before any work, if an explanation could not be drawn as `out`."""
    if out.suffix.lower() != ".png":
        raise InputError(f"{out}: an explanation is a .png")
    files.check_writable(out)


def _short(path: Path) -> str:
    """The end of a path, as long as a title may be."""
    text = visible("/".join(path.parts[-4:]))
    return text if len(text) <= 52 else f"…{text[-51:]}"


def _write(figure: Any, out: Path) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, dpi=110, format="png")
    files.replace_file(out, picture.getvalue())
