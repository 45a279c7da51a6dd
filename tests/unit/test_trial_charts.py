"""Charts and the sheet of errors: right in their numbers, and the same whoever was drawn before."""

import dataclasses

import numpy as np
import pytest
import torch

from mura_tune.dashboard import error_sheet
from mura_tune.dashboard.trial_charts import Fits, TrialCharts
from mura_tune.metrics.estimates import StudyScores
from mura_tune.metrics.operating_points import youden_threshold
from mura_tune.metrics.ranking import estimate_auc
from mura_tune.training.batches import Split
from mura_tune.training.fit import Epoch, FitResult
from mura_tune.training.tasks import study_scores


def pair(
    seed: int = 0, studies: int = 30, name: str = "s", epochs: int = 4
) -> tuple[FitResult, Split]:
    """A fit that separates somewhat, and its dev split of two views a study."""
    rng = np.random.default_rng(seed)
    n = 2 * studies
    labels = np.arange(n) // 2 % 2
    names = np.array([f"{name}{i // 2:03d}" for i in range(n)])
    paths = np.array([f"train/XR_A/p{i // 2}/study1/image{i % 2}.png" for i in range(n)])
    split = Split(
        "dev",
        torch.from_numpy(rng.integers(0, 255, (n, 32, 32), dtype=np.uint8)),
        torch.from_numpy(labels),
        names,
        names,
        paths,
    )
    logits = torch.from_numpy(rng.normal(labels * 1.2 - 0.6, 1)).float()[:, None]
    ran = tuple(
        Epoch(i + 1, 1 if i == 0 else 2, 0 if i == 0 else 3, 1 / (i + 1), 0.5 + i / 10, 1.0)
        for i in range(epochs)
    )
    return FitResult(ran, ran[-1], {}, logits), split


def pooled(fits: Fits) -> StudyScores:
    runs = [study_scores(fit.logits, dev) for fit, dev in fits]
    return StudyScores(
        *(
            np.concatenate([getattr(run, f.name) for run in runs])
            for f in dataclasses.fields(StudyScores)
        )
    )


def drawn(charts: TrialCharts, fits: Fits) -> bytes:
    studies = pooled(fits)
    return charts.draw(fits, studies, estimate_auc(studies), youden_threshold(studies)).tobytes()


def test_a_picture_does_not_depend_on_what_was_drawn_before() -> None:
    charts, one, folds = TrialCharts(), [pair()], [pair(1), pair(2, name="t", epochs=9)]
    first = drawn(charts, one)
    assert drawn(charts, folds) == drawn(TrialCharts(), folds) != first
    assert drawn(charts, one) == first


@pytest.mark.parametrize("epochs", [1, 2, 40])
def test_any_number_of_epochs_can_be_drawn(epochs: int) -> None:
    fits = [pair(epochs=epochs)]
    studies = pooled(fits)
    picture = TrialCharts().draw(fits, studies, estimate_auc(studies), youden_threshold(studies))
    assert picture.mode == "RGB"
    assert picture.width <= 1060  # what the dashboard shows of a note at 1400


def test_the_worst_are_the_most_confident_errors() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1])
    scores = np.array([0.9, 0.2, 0.6, 0.1, 0.8, 0.4])
    studies = StudyScores(np.array(list("abcdef")), np.array(list("abcdef")), labels, scores)
    assert list(error_sheet.worst_errors(studies, 0.5, 0)) == [0, 2]
    assert list(error_sheet.worst_errors(studies, 0.5, 1)) == [3, 5]


def test_the_sheet_shows_the_worst_view_of_the_worst_study_first() -> None:
    fit, dev = pair()
    fit.logits[2:4, 0] = torch.tensor([-9.0, -12.0])  # abnormal, and sure that it is normal
    dev.pixels[3] = 200
    assert isinstance(dev.pixels, torch.Tensor)
    sheet = error_sheet.draw_error_sheet([(fit, dev)], pooled([(fit, dev)]), 0.5)
    x, y = (
        error_sheet.MARGIN + error_sheet.TILE // 2,
        error_sheet.MARGIN + 32 + error_sheet.TILE // 2,
    )
    assert sheet.getpixel((x, y)) == (200, 200, 200)


def test_the_sheet_finds_a_study_in_its_fold() -> None:
    fits = [pair(1), pair(2, name="t")]
    assert error_sheet.draw_error_sheet(fits, pooled(fits), 0.5).width <= 1060


def test_a_trial_without_errors_has_a_sheet_of_two_titles() -> None:
    fit, dev = pair()
    fit.logits[:, 0] = dev.labels * 10.0 - 5
    assert (
        error_sheet.draw_error_sheet([(fit, dev)], pooled([(fit, dev)]), 0.5).height
        < error_sheet.TILE
    )


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (["a/image1.png"], "image1 (.png)"),
        (["a/image2.png", "a/image1.jpg"], "image2.png, image1.jpg"),
        ([f"a/image{i}.png" for i in range(9)], "image0, image1, image2 +6 (.png)"),
    ],
)
def test_file_names_are_shortened_by_whole_names(files: list[str], told: str) -> None:
    assert error_sheet._fit_names(files) == told


def test_a_long_name_keeps_its_end() -> None:
    font = error_sheet._font(11)
    text = error_sheet._fit_text("x" * 200 + "_0042.png", font)
    assert text.startswith("…")
    assert text.endswith("_0042.png")
    assert font.getlength(text) <= error_sheet.TILE
