"""The DICOM objects of an answer: made for a study, and written into a folder.

An object's UIDs follow from the release, its threshold, the version of the program, and the pixels
and the patient of the study. Who answers the same study once more makes objects of the same UIDs,
which an archive takes for what it has already.
"""

from __future__ import annotations

import datetime
import io
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mura_tune import __version__, files
from mura_tune.archive.captures import build_capture
from mura_tune.archive.headers import CREATED, RefusedStudy, SourceStudy, new_uid, read_source
from mura_tune.archive.presentation import build_presentation
from mura_tune.archive.structured_report import Model, build_report, report_uid
from mura_tune.errors import InputError, UnreadableImage
from mura_tune.networks.gradcam import NoFeatureMap
from mura_tune.reading.answers import Answer, StudyAnswer, is_unfamiliar
from mura_tune.reading.explain import ViewExplanation, explain_views
from mura_tune.reading.readers import Predictor, Reader
from mura_tune.reading.routed import RoutedReader
from mura_tune.reading.studies import StudyFiles, StudyViews

if TYPE_CHECKING:
    from pydicom import Dataset

KINDS = ("GSPS", "SC", "SR")  # in the order in which they are written and sent


class NoAnswer(Exception):
    """A study gets no answer, and so no objects; the message says why."""


@dataclass(frozen=True, eq=False)
class AnswerPlan:
    """A study, what will answer it, and the name of the answer, from which its UIDs follow."""

    study: SourceStudy
    predictor: Predictor
    model: Model
    root: str

    @property
    def images(self) -> list[Path]:
        """The files of the study's views."""
        return [view.path for view in self.study.views]

    def read(self) -> Answer:
        """The answer to the study."""
        (answer,) = self.predictor.answer([_views(self.study, self.predictor.sizes)])
        return answer

    @property
    def report(self) -> str:
        """The file name of the report."""
        return _file_name("SR", report_uid(self.root))


@dataclass(frozen=True, eq=False)
class ArchiveAnswer:
    """An answer and its objects, by file name, in the order in which they are written and sent.

    The report comes last: where it is, the others are.
    """

    answer: Answer
    objects: Mapping[str, bytes]


@dataclass(frozen=True)
class ObjectsSummary:
    """The result of a call of `write_objects`: of how many studies the folder has the objects."""

    folder: Path
    written: int
    before: int
    left_out: int

    def describe(self) -> str:
        """The counts in a line for people."""
        earlier = f", {self.before} were there before" if self.before else ""
        without = f"; {self.left_out} without, see above" if self.left_out else ""
        return f"{self.folder}: DICOM objects of {self.written} studies{earlier}{without}"


def plan_answer(reader: Reader[StudyAnswer], images: Sequence[Path]) -> AnswerPlan:
    """Read a study, and choose the release that answers it.

    Raises:
        NoAnswer: the router abstains, or the release of the area is missing.
        UnreadableImage: a view that cannot be decoded, or is no DICOM file.
        RefusedStudy: files of two studies or of two patients, or more pixels than are answered.
        InputError: the extra `dicom` is not installed.
    """
    study = read_source(images)
    predictor = _predictor_for(reader, study)
    model = Model(predictor.release.manifest.area, predictor.source)
    return AnswerPlan(study, predictor, model, new_uid(model.uid, __version__, study.digest))


def make_objects(plan: AnswerPlan, kinds: Sequence[str] = KINDS) -> ArchiveAnswer:
    """Answer a study, and make the objects of the answer.

    A network without a map of features, such as a transformer, gets a report alone. So does a study
    that is not like the training radiographs, whose probability and maps say nothing.

    Args:
        kinds: of KINDS.
    """
    answer, maps = (plan.read(), ()) if {*kinds} == {"SR"} else _explain(plan)
    of_view = {"GSPS": build_presentation, "SC": build_capture}
    made: list[tuple[str, Dataset]] = [
        (f"{kind}-{number + 1}", build(plan.study, number, view, plan.model, plan.root))
        for kind, build in of_view.items()
        for number, view in enumerate(maps)
        if kind in kinds
    ]
    if "SR" in kinds:
        made.append(("SR", build_report(plan.study, answer, plan.model, plan.root)))
    now = datetime.datetime.now()
    objects = {}
    for name, dataset in made:
        plan.study.stamp(dataset, now)
        objects[_file_name(name, str(dataset.SOPInstanceUID))] = _to_bytes(dataset)
    return ArchiveAnswer(answer, objects)


def _explain(plan: AnswerPlan) -> tuple[Answer, Sequence[ViewExplanation]]:
    """The answer, and the evidence in each view: none where there is no map, or it says nothing."""
    grey = [view.grey for view in plan.study.views]
    try:
        explanation = explain_views(plan.predictor, plan.images, grey)
    except NoFeatureMap:
        return plan.read(), ()
    answer = explanation.answer
    assert isinstance(answer, Answer)
    return answer, () if is_unfamiliar(answer.familiarity) else explanation.views


def write_objects(
    reader: Reader[StudyAnswer],
    studies: Sequence[StudyFiles],
    folder: Path,
    say: Callable[[str], None],
) -> ObjectsSummary:
    """Write the objects of each study's answer into FOLDER/StudyInstanceUID.

    A study whose report is there is not answered again. The report is written last, so that a call
    that was stopped is finished by the next.

    Args:
        say: is given a line on each study that gets no objects.

    Raises:
        InputError: a file there that holds something else.
    """
    from tqdm import tqdm

    written = before = left_out = 0
    quiet = len(studies) == 1 or not sys.stderr.isatty()
    for study in tqdm(studies, unit="study", desc=folder.name, disable=quiet):
        try:
            plan = plan_answer(reader, study.images)
            place = files.path_within(folder, plan.study.uid)
            if (place / plan.report).exists():
                before += 1
                continue
            for name, content in make_objects(plan).objects.items():
                save_object(place / name, content)
            written += 1
        except (NoAnswer, UnreadableImage, RefusedStudy) as error:
            say(f"{study.name or study.images[0]}: no DICOM objects: {error}")
            left_out += 1
    return ObjectsSummary(folder, written, before, left_out)


def save_object(path: Path, content: bytes) -> None:
    """Write an object as a file, whole or not at all; one that is there already stays.

    Raises:
        InputError: the file that is there holds something else.
    """
    if not path.exists():
        files.replace_file(path, content)
    elif not has_same_content(path.read_bytes(), content):
        raise InputError(f"{path}: holds something else; name another folder")


def has_same_content(one: bytes, other: bytes) -> bool:
    """Whether two objects differ at most in the times at which they were made."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        first, second = (pydicom.dcmread(io.BytesIO(data)) for data in (one, other))
    except InvalidDicomError:
        return False
    for dataset in (first, second):
        for name in (f"{prefix}{part}" for prefix in CREATED for part in ("Date", "Time")):
            if name in dataset:
                del dataset[name]
    return bool(first == second)


def _views(study: SourceStudy, sizes: Iterable[int]) -> StudyViews:
    """The views as networks of these sizes read them."""
    files = StudyFiles("", tuple(view.path for view in study.views))
    return StudyViews.of(files, [view.grey for view in study.views], sizes)


def _predictor_for(reader: Reader[StudyAnswer], study: SourceStudy) -> Predictor:
    """The reader itself, or that of the area that its router names."""
    if isinstance(reader, RoutedReader):
        (route,) = reader.router.answer([_views(study, reader.router.sizes)])
        if route.abstain:
            raise NoAnswer(f"the router abstains ({route.brief()})")
        try:
            return reader.release_of(route.area)[0]
        except InputError as error:
            raise NoAnswer(str(error)) from None
    if isinstance(reader, Predictor):
        return reader
    raise InputError("a router gives no probability of abnormal to put into DICOM objects")


def _file_name(kind: str, uid: str) -> str:
    return f"{kind}-{uid}.dcm"


def _to_bytes(dataset: Dataset) -> bytes:
    import pydicom

    content = io.BytesIO()
    pydicom.dcmwrite(content, dataset, enforce_file_format=True)
    return content.getvalue()
