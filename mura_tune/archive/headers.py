"""What an answer's DICOM objects take over from the headers of the study that they answer.

The patient and the study are copied as they stand, since an archive files an object by them. They
go into the objects of the answer and nowhere else: no log line, no name of a file, no message.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mura_tune.errors import InputError, UnreadableImage
from mura_tune.imaging import dicom
from mura_tune.imaging.grey_levels import UnclearGreyLevels
from mura_tune.imaging.images import (
    MAX_BYTES,
    MAX_PIXELS,
    MAX_STUDY_PIXELS,
    decode_image,
    read_file,
)

if TYPE_CHECKING:
    from pydicom import Dataset

MANUFACTURER = "mura-tune"
NOT_A_DEVICE = "Not a medical device. For research; not for any decision about a patient."
# The modules Patient and General Study (DICOM PS3.3, C.7.1.1 and C.7.2.1), as far as archives file
# by them. The first ones stand in every object, empty where the radiograph has no value.
_REQUIRED = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyInstanceUID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
    *("StudyID", "AccessionNumber"),
)
_OPTIONAL = (
    *("SpecificCharacterSet", "TimezoneOffsetFromUTC", "StudyDescription"),
    *("IssuerOfPatientID", "IssuerOfPatientIDQualifiersSequence", "TypeOfPatientID"),
    *("OtherPatientIDsSequence", "PatientBirthTime", "IssuerOfAccessionNumberSequence"),
    *("PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence"),
)
CREATED = ("InstanceCreation", "Content", "PresentationCreation")  # Date and Time of an object
_UID = re.compile(r"[0-9][0-9.]{0,63}")
_NAMES = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")


class RefusedStudy(InputError):
    """Views that are not those of one study of one patient, each once, or have too many pixels."""


@dataclass(frozen=True, eq=False)
class SourceView:
    """A view as its file has it.

    Attributes:
        header: the header, without pixels.
        grey: the grey pixels (H, W).
    """

    path: Path
    header: Dataset
    grey: NDArray[np.uint8]

    @property
    def digest(self) -> str:
        """64 hex digits that name the view by its pixels and by what objects take over from it.

        They stay when a program on the way stores the view with another encoding or lossless
        compression.
        """
        taken = {name: str(self.header.get(name, "")) for name in (*_NAMES, *_REQUIRED, *_OPTIONAL)}
        digest = hashlib.sha256(f"{taken} {self.grey.shape}".encode())
        digest.update(np.ascontiguousarray(self.grey).data)
        return digest.hexdigest()

    @property
    def laterality(self) -> str:
        """L or R; "" where the header says neither."""
        sides = (self.header.get(name) for name in ("Laterality", "ImageLaterality"))
        return next((side for side in sides if side in ("L", "R")), "")

    def reference(self) -> Dataset:
        """A data set that names the view, for objects that refer to it: nothing of the patient."""
        from pydicom import Dataset

        reference = Dataset()
        for name in ("SOPClassUID", *_NAMES, "Modality", "Rows", "Columns", "SamplesPerPixel"):
            setattr(reference, name, self.header.get(name, ""))
        for name in _REQUIRED:
            if name not in reference:
                setattr(reference, name, "")
        return reference


@dataclass(frozen=True, eq=False)
class SourceStudy:
    """A study whose views came as DICOM files, in the order of their SOPInstanceUIDs."""

    views: tuple[SourceView, ...]

    @property
    def uid(self) -> str:
        """The StudyInstanceUID."""
        return str(self.views[0].header.StudyInstanceUID)

    @property
    def digest(self) -> str:
        """64 hex digits that name the study's views by what is in them, in their order."""
        return hashlib.sha256("".join(view.digest for view in self.views).encode()).hexdigest()

    def stamp(self, made: Dataset, when: datetime.datetime) -> None:
        """Give an object the study's patient and study, and the time at which it was made."""
        header = self.views[0].header
        made.pop("ContributingEquipmentSequence", None)  # the library's own, with its own time
        for name in _REQUIRED:
            setattr(made, name, header[name].value if name in header else "")
        for name in _OPTIONAL:
            if name in header:
                made[name] = header[name]
        for prefix in CREATED:
            if f"{prefix}Date" in made or prefix == "InstanceCreation":
                setattr(made, f"{prefix}Date", when.strftime("%Y%m%d"))
                setattr(made, f"{prefix}Time", when.strftime("%H%M%S.%f"))


def read_source(images: Sequence[Path]) -> SourceStudy:
    """Read a study's image files.

    Raises:
        UnreadableImage: a file that is no DICOM radiograph or cannot be decoded, or whose header
            does not name its instance, series or study by a UID.
        RefusedStudy: files of two studies or of two patients, an instance twice, or more than
            MAX_STUDY_PIXELS together.
        InputError: the extra `dicom` is not installed.
    """
    check_extra()
    views: list[SourceView] = []
    left = MAX_STUDY_PIXELS
    for path in images:
        views.append(_read_view(path, left))
        left -= views[-1].grey.size
    views.sort(key=lambda view: str(view.header.SOPInstanceUID))
    for name in ("StudyInstanceUID", "PatientID"):
        if len({str(view.header.get(name, "")) for view in views}) > 1:
            raise RefusedStudy(
                f"{views[0].path.parent}: views with more than one {name} are not one study; "
                "answer them apart"
            )
    if len({str(view.header.SOPInstanceUID) for view in views}) < len(views):
        raise RefusedStudy(
            f"{views[0].path.parent}: two files of one SOPInstanceUID; leave one of them out"
        )
    return SourceStudy(tuple(views))


def check_extra() -> None:
    """Raise InputError where the extra `dicom` is not installed, and keep what it says to itself.

    Libraries that write DICOM warn about odd values of a header, and quote them.
    """
    try:
        importlib.import_module("highdicom")
        import pydicom
    except ImportError:
        raise InputError(
            "DICOM objects need the extra 'dicom': pip install 'mura-tune[dicom]'"
        ) from None
    pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE


def is_uid(text: str) -> bool:
    """Whether a text names something as DICOM does, and may be the name of a file."""
    return _UID.fullmatch(text) is not None


def new_uid(*parts: str) -> str:
    """The UID that belongs to these words: 2.25. and the number of a UUID (DICOM PS3.5, B.2)."""
    digest = hashlib.sha256("\n".join(parts).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


def _read_view(path: Path, most_pixels: int) -> SourceView:
    """Read a view; `most_pixels` are left of those that a study may have."""
    data = read_file(path)
    if not dicom.is_dicom(data):
        raise UnreadableImage(path, "no DICOM file")
    try:
        header: Any = dicom.read_header(data, MAX_BYTES)
        rows, columns = dicom.picture_size(header)
    except UnclearGreyLevels as error:
        raise UnreadableImage(path, str(error)) from None
    for name in _NAMES:
        if not is_uid(str(header.get(name, ""))):
            raise UnreadableImage(path, f"its header has no valid {name}: export it again")
    if most_pixels < rows * columns <= MAX_PIXELS:  # one of more is refused for itself
        raise RefusedStudy(
            f"{path.parent}: its views have more than {MAX_STUDY_PIXELS:,} pixels together; answer "
            "some of them apart"
        )
    grey = decode_image(data, path)
    if "PixelData" in header:
        del header.PixelData
    return SourceView(path, header, grey)
