"""A release or a router opened, and what it answers about studies: `mura infer`, `mura explain`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mura_tune import console, files
from mura_tune.api import RELEASES
from mura_tune.archive.answer_objects import write_objects
from mura_tune.archive.headers import check_extra
from mura_tune.areas import ALL, NO_AREA, POOLED, ROUTER
from mura_tune.errors import InputError, UnreadableImage
from mura_tune.imaging.dicom import Identity, read_identity
from mura_tune.networks.device import choose_device
from mura_tune.reading.answer_studies import BatchSummary, answer_all
from mura_tune.reading.answers import AreaAnswer, StudyAnswer
from mura_tune.reading.explain import Explanation, check_drawable, explain_study
from mura_tune.reading.locate import locate_release, release_finder
from mura_tune.reading.readers import Predictor, Reader, Router, load_reader
from mura_tune.reading.routed import RoutedReader
from mura_tune.reading.studies import StudyFiles, find_studies
from mura_tune.release.release import Release, describe_decoding_changes

_AUTO = "auto"  # the area of a study that the router tells


def find_release(release: str | Path, base_url: str | None = None) -> Path:
    """The folder of a release by its folder, URL or name, fetched into the user's cache if needed.

    Raises:
        InputError: a fetched release that is not whole.
        MuraError: its server is out of reach.
    """
    return locate_release(str(release), None, Path(), base_url, console.print_note)


def load_release(
    release: str | Path,
    *,
    base_url: str | None = None,
    device: str = "auto",
    threshold: float | None = None,
) -> Predictor | Router:
    """Open a release, to `predict` with: a `Router` where the release is one, else a `Predictor`.

    Args:
        release: its folder, its URL, or its name under `base_url`; or a checkpoint file.
        device: cpu, cuda, cuda:1, … or auto.
        threshold: of P(abnormal), in place of the release's own operating point.

    Returns:
        A reader. `Predictor.predict` gives an `Answer`, `Router.predict` an `AreaAnswer`.

    Raises:
        InputError: a release that is not whole, a device that is not there, or a threshold for a
            router.

    Example:
        `print(load_release("releases/XR_WRIST").predict(["view1.png", "view2.png"]))`
    """
    reader = load_reader(find_release(release, base_url), choose_device(device), threshold)
    note_decoding_changes(reader.release)
    return reader


def note_decoding_changes(release: Release) -> None:
    """Print which pictures are read otherwise since a release was made; nothing for a new one."""
    if changes := describe_decoding_changes(release.manifest):
        console.print_note(f"{release.folder}: {changes}")


@dataclass(frozen=True)
class ReaderChoice:
    """Which release answers.

    Attributes:
        area: what the studies show; `auto` asks the router, `router` answers the area alone. None
            without a `release` takes what the headers of DICOM files say, see `of_headers`.
        release: a folder, a URL or a checkpoint file; None stands for RELEASES/AREA.
        base_url: where releases that are not on this disk are fetched from, by name.
        threshold: of P(abnormal), in place of the release's own.
    """

    area: str | None = None
    release: str | None = None
    releases: Path = Path(RELEASES)
    base_url: str | None = None
    device: str = "auto"
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.area == _AUTO and self.release:
            raise InputError("--area auto chooses the release: leave --release out")
        if self.area == ROUTER and self.threshold is not None:
            raise InputError("--threshold is of a probability of abnormal: a router has none")

    def of_headers(self, images: Iterable[Path]) -> ReaderChoice:
        """The same, with the area that BodyPartExamined of DICOM files names, where it has neither
        area nor release and some of the images are DICOM files.

        Raises:
            InputError: the headers name several areas, or none.
        """
        if self.area or self.release:
            return self
        from mura_tune.data.dicom_folders import area_of  # pandas is slow to import

        areas = {area_of(identity) for image in images if (identity := _identity(image))}
        if not areas:
            return self
        if len(areas) > 1 or NO_AREA in areas:
            named = ", ".join(sorted(areas - {NO_AREA})) or "none"
            raise InputError(
                f"the headers do not name one area for all (there is {named}); name it by --area, "
                "or let the router tell: --area auto"
            )
        (area,) = areas
        console.print_note(f"{area}, by BodyPartExamined")
        return replace(self, area=area)

    def locate(self) -> Path | None:
        """The folder of the release; None for the router with every area's release."""
        if self.area == _AUTO:
            return None
        # A release that was made under the other word.
        other = {POOLED: ALL, ALL: POOLED}.get(self.area or "")
        named = self.area and (self.releases / self.area).exists()
        area = other if other and not named and (self.releases / other).is_dir() else self.area
        return locate_release(self.release, area, self.releases, self.base_url, console.print_note)

    def open_release(self, folder: Path) -> Predictor | Router:
        """The reader of a release's folder.

        Raises:
            InputError: a release that is not whole, or of another area.
        """
        device = choose_device(self.device)
        reader: Predictor | Router
        if self.area == ROUTER:
            reader = Router(folder, device)
        else:
            reader = Predictor(folder, device, self.area, self.threshold)
        note_decoding_changes(reader.release)
        return reader

    def open_routed(self) -> RoutedReader:
        """The router with every area's release."""
        find = release_finder(self.releases, self.base_url, console.print_note)
        return RoutedReader(find, choose_device(self.device), self.threshold)

    def open(self, folder: Path | None) -> Reader[StudyAnswer]:
        """The reader of what `locate` gave."""
        if folder is not None:
            return self.open_release(folder)
        reader = self.open_routed()
        note_decoding_changes(reader.router.release)
        return reader


def answer_study(
    choice: ReaderChoice, images: Sequence[Path], dicom_out: Path | None = None
) -> StudyAnswer:
    """The answer about one study, from all of its views.

    Args:
        dicom_out: a folder for the DICOM objects of the answer, where the views are DICOM files.

    Raises:
        InputError: no such release, or one that is not whole.
        UnreadableImage: a view that cannot be decoded.
    """
    choice = choice.of_headers(images)
    _check_dicom_out(choice, dicom_out)
    reader = choice.open(choice.locate())
    answer = reader.predict(images)
    if dicom_out:
        _write_objects(reader, [StudyFiles("", tuple(images))], dicom_out)
    return answer


def answer_studies(
    choice: ReaderChoice, studies: Path, out: Path, dicom_out: Path | None = None
) -> BatchSummary:
    """Answer every study of a folder or table, a row each in `out`; the same call goes on.

    Args:
        dicom_out: a folder for the DICOM objects of the answers about studies of DICOM files.

    Raises:
        InputError: no studies, or an `out` that another release or another source wrote.
    """
    files.check_writable(out)
    _check_dicom_out(choice, dicom_out)
    study_files = find_studies(studies, console.print_note)
    choice = choice.of_headers(image for study in study_files for image in study.images)
    folder = choice.locate()
    reader = choice.open(folder)
    summary = answer_all(reader, study_files, studies, out, console.print_note)
    if dicom_out:
        without = {*summary.unreadable, *summary.unreleased}
        answered = [study for study in study_files if study.name not in without]
        _write_objects(reader, answered, dicom_out)
    return summary


def _identity(image: Path) -> Identity | None:
    """The identity of a DICOM file; None for another file, or a damaged one: readers name that."""
    try:
        return read_identity(image) if image.is_file() else None
    except UnreadableImage:
        return None


def _check_dicom_out(choice: ReaderChoice, dicom_out: Path | None) -> None:
    """Raise InputError, before any work, where DICOM objects could not be written."""
    if dicom_out is None:
        return
    check_extra()
    if choice.area == ROUTER:
        raise InputError("--dicom-out holds probabilities of abnormal: a router has none")
    files.check_writable(dicom_out / "SR.dcm")


def _write_objects(
    reader: Reader[StudyAnswer], studies: Sequence[StudyFiles], folder: Path
) -> None:
    console.print_note(write_objects(reader, studies, folder, console.print_note).describe())


@dataclass(frozen=True)
class DrawnExplanation:
    """An explanation and the picture of it."""

    explanation: Explanation
    out: Path

    def __str__(self) -> str:
        return f"{self.explanation}\n{self.out}: each view beside its map"

    def to_json(self) -> dict[str, Any]:
        return self.explanation.to_json() | {"out": str(self.out)}


def draw_explanation(
    choice: ReaderChoice, images: Sequence[Path], out: Path, *, deletion: bool = False
) -> DrawnExplanation | AreaAnswer:
    """Draw where each view of a study speaks for abnormal; the router's answer if it abstains.

    Args:
        deletion: also measure how the probability falls without the map's pixels.

    Raises:
        InputError: a place that cannot be drawn in, or as `answer_study` raises it.
    """
    check_drawable(out)
    if out.resolve() in [image.resolve() for image in images]:
        raise InputError(f"{out}: is one of the images; name another place")
    choice = choice.of_headers(images)
    folder = choice.locate()
    if folder is not None:
        reader = choice.open_release(folder)
    else:
        routed = choice.open_routed()
        route = routed.router.predict(images)
        if route.abstain:
            return route
        reader, fallback = routed.release_of(route.area)
        console.print_note(route.brief())
        if fallback:
            console.print_note(fallback)
        note_decoding_changes(reader.release)
    explanation = explain_study(reader, images, deletion=deletion)
    explanation.save(out)
    return DrawnExplanation(explanation, out)
