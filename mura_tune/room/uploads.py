"""Which of the files that were dropped together are the views of one study."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from mura_tune.areas import NO_AREA
from mura_tune.data.dicom_folders import area_of
from mura_tune.data.listing import IMAGE_SUFFIXES, PLAIN_SUFFIXES, is_no_image
from mura_tune.errors import InputError
from mura_tune.imaging import dicom
from mura_tune.imaging.images import MAX_BYTES
from mura_tune.room.requests import Upload


@dataclass(frozen=True, eq=False)
class StudyUploads:
    """The files of one study.

    Attributes:
        name: its folder, or its first file's name: what a person typed, and nothing of a header.
        areas: that its DICOM headers name.
    """

    name: str
    uploads: tuple[Upload, ...]
    areas: frozenset[str] = frozenset()


def group_uploads(
    uploads: Sequence[Upload], *, loose_are_one: bool
) -> tuple[list[StudyUploads], list[Upload]]:
    """The studies of files that were dropped together, in order, and the files that are no images.

    DICOM files are of one study by their StudyInstanceUID, wherever they lay. Other files of a
    folder are one study. Other files without a folder are a study each, or one study altogether
    where `loose_are_one`: only a person can know.
    """
    groups: dict[tuple[str, str], list[Upload]] = {}
    areas: dict[tuple[str, str], frozenset[str]] = {}
    left_out = []
    for number, upload in enumerate(uploads):
        path = PurePosixPath(upload.name)
        if is_no_image(path, upload.content[:1024]):
            left_out.append(upload)
            continue
        identity = _identity(upload, path)
        folder = posixpath.dirname(upload.name)
        if identity is not None:
            key = ("dicom", identity.study)
            if (area := area_of(identity)) != NO_AREA:
                areas[key] = areas.get(key, frozenset()) | {area}
        elif folder:
            key = ("folder", folder)
        else:
            key = ("loose", "" if loose_are_one else str(number))
        groups.setdefault(key, []).append(upload)
    names = _distinct(_name(group) for group in groups.values())
    studies = [
        StudyUploads(name, tuple(group), areas.get(key, frozenset()))
        for name, (key, group) in zip(names, groups.items(), strict=True)
    ]
    return studies, left_out


def _identity(upload: Upload, path: PurePosixPath) -> dicom.Identity | None:
    """The study of a DICOM file; None for another file, or a header that names none."""
    if path.suffix.lower() in PLAIN_SUFFIXES or not dicom.is_dicom(upload.content):
        return None
    try:
        return dicom.parse_identity(upload.content, upload.name, MAX_BYTES)
    except InputError:  # as a view it is answered by what is wrong with it
        return None


def _name(group: Sequence[Upload]) -> str:
    folder = posixpath.dirname(group[0].name)
    if folder:
        return folder
    first = PurePosixPath(group[0].name)
    return first.stem if first.suffix.lower() in IMAGE_SUFFIXES else first.name


def _distinct(names: Iterable[str]) -> list[str]:
    """The names, with numbers behind those that came before."""
    seen: dict[str, int] = {}
    distinct = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        distinct.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return distinct
