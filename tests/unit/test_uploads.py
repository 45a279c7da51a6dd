"""Which files that were dropped together are one study."""

import numpy as np
import pytest
from dicoms import SECRET, dicom_file, to_bytes
from pydicom.uid import DeflatedExplicitVRLittleEndian
from rooms import png

from mura_tune.errors import UnreadableImage
from mura_tune.imaging.dicom import parse_identity
from mura_tune.room.requests import Upload
from mura_tune.room.uploads import group_uploads

PIXELS = np.arange(64 * 48, dtype=np.uint16).reshape(64, 48)


def dicom(study: str, **fields: object) -> bytes:
    return to_bytes(dicom_file(PIXELS, StudyInstanceUID=study, **fields))


def group(*files: tuple[str, bytes], one: bool = False) -> dict[str, list[str]]:
    studies, left_out = group_uploads([Upload(*file) for file in files], loose_are_one=one)
    found = {study.name: [upload.name for upload in study.uploads] for study in studies}
    assert len(found) == len(studies)
    return found | ({"left out": [upload.name for upload in left_out]} if left_out else {})


def test_a_folder_is_a_study() -> None:
    assert group(("p/a/1.png", png()), ("p/b/1.png", png()), ("p/a/2.png", png())) == {
        "p/a": ["p/a/1.png", "p/a/2.png"],
        "p/b": ["p/b/1.png"],
    }


def test_loose_files_are_one_study_only_where_a_person_says_so() -> None:
    files = ("left.png", png()), ("right.jpg", png())
    assert group(*files) == {"left": ["left.png"], "right": ["right.jpg"]}
    assert group(*files, one=True) == {"left": ["left.png", "right.jpg"]}


def test_two_dicom_studies_are_never_one() -> None:
    files = ("x/1", dicom("1.2")), ("x/2", dicom("1.3")), ("y/3.dcm", dicom("1.2"))
    expected = {"x": ["x/1", "y/3.dcm"], "x (2)": ["x/2"]}
    assert group(*files) == group(*files, one=True) == expected


def test_nothing_of_a_header_names_a_study() -> None:
    studies, _ = group_uploads(
        [Upload("IM0001", dicom("1.2.3", StudyDescription="SECRET"))], loose_are_one=False
    )
    (study,) = studies
    assert (study.name, study.areas) == ("IM0001", {"XR_WRIST"})
    assert SECRET not in repr(study)
    assert "1.2.3" not in repr(study)


def test_headers_may_name_no_area_and_several() -> None:
    def areas(*parts: str | None) -> frozenset[str]:
        uploads = [Upload("a", dicom("1", BodyPartExamined=part)) for part in parts]
        (study,), _ = group_uploads(uploads, loose_are_one=False)
        return study.areas

    assert areas(None) == frozenset()
    assert areas(None, "hand") == {"XR_HAND"}
    assert areas("hand", "WRIST", "HAND") == {"XR_HAND", "XR_WRIST"}


def test_a_dicom_file_of_no_study_and_a_damaged_one_are_as_other_files() -> None:
    cut = dicom("1.2")[:200]
    nameless = to_bytes(dicom_file(PIXELS, StudyInstanceUID=None))
    assert group(("a.dcm", cut), ("b.dcm", nameless)) == {"a": ["a.dcm"], "b": ["b.dcm"]}
    assert group(("f/a.dcm", cut), ("f/b.png", png())) == {"f": ["f/a.dcm", "f/b.png"]}


def test_what_is_no_image_is_left_out() -> None:
    names = ["f/.DS_Store", "f/Thumbs.db", "f/notes.txt", ".git/a.png", "f/readme", "f/DICOMDIR"]
    found = group(("f/a.png", png()), *((name, b"plain text\n") for name in names))
    assert found == {"f": ["f/a.png"], "left out": names}


def test_a_deflated_bomb_is_not_inflated_for_its_name() -> None:
    pixels = np.zeros((3000, 3000), np.uint16)
    data = to_bytes(dicom_file(pixels, syntax=DeflatedExplicitVRLittleEndian))
    assert len(data) < pixels.nbytes // 100
    assert parse_identity(data, "a", 2 * pixels.nbytes).study == "1.2.3.4"
    with pytest.raises(UnreadableImage, match="inflates to more than"):
        parse_identity(data, "a", pixels.nbytes // 2)
