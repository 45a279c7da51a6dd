"""A folder of DICOM files is the dataset that its pictures and a table of labels make."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicoms import SECRET, dicom_file, to_bytes, write_folder
from stored import scores_of
from test_search import study_of, tune

from mura_tune.data.index import Finding
from mura_tune.data.prepare import open_dataset, prepare
from mura_tune.errors import InputError
from mura_tune.reading.studies import find_studies


def patient_digest(patient: str) -> str:
    return hashlib.sha256(f"\0{patient}".encode()).hexdigest()[:16]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, phantoms: Path) -> tuple[Path, Path]:
    """The wrists of the phantoms as DICOM files with their labels, and as PNGs with a table."""
    root = tmp_path_factory.mktemp("dicom")
    dicom, plain = root / "hospital", root / "plain.csv"
    rows = []
    for place, path, label, split in sorted(
        write_folder(dicom, phantoms, "XR_WRIST", lambda number: {})
    ):
        header = pydicom.dcmread(place, stop_before_pixels=True)
        names = f"{patient_digest(header.PatientID)},{header.StudyInstanceUID}"
        rows.append(f"{phantoms / path},XR_WRIST,{names},{label},{split}")
    plain.write_text("\n".join(["path,area,patient,study,label,split", *rows]) + "\n")
    return dicom, plain


def test_it_trains_as_the_same_pictures_do(folders: tuple[Path, Path], tmp_path: Path) -> None:
    search = study_of("budget.trials=1")
    scores: list[list[float]] = []
    for number, source in enumerate(folders):
        cache = tmp_path / f"cache{number}"
        prepared = prepare(open_dataset(source), "XR_WRIST", 32, search.split, cache)
        trial = tune(search, prepared, f"sqlite:///{tmp_path}/{number}.db").trials[0]
        scores.append([*trial.intermediate_values.values(), *scores_of(trial)[0].tolist()])
    assert scores[0] == scores[1]


def test_studies_to_read_are_told_by_their_headers(folders: tuple[Path, Path]) -> None:
    dicom, _ = folders
    studies = {study.name: study.images for study in find_studies(dicom)}
    frame = open_dataset(dicom).frame
    assert len(studies) == frame["study"].nunique()
    for name, images in studies.items():
        rows = frame[frame["study"].str.endswith(f"/{name}")]
        assert sorted(rows["path"]) == sorted(p.relative_to(dicom).as_posix() for p in images)


def test_what_is_left_out_is_named_and_no_patient_is(tmp_path: Path) -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for name, uid, part in (("a", "1.1", "Elbow"), ("b", "1.2", "UPPER ARM"), ("c", "1.3", None)):
        file = dicom_file(pixels, StudyInstanceUID=uid, BodyPartExamined=part)
        (tmp_path / f"{name}.dcm").write_bytes(to_bytes(file))
    (tmp_path / "d.dcm").write_bytes(b"nothing")
    (tmp_path / "labels.csv").write_text("study,label\n1.1,0\n1.2,1\n1.9,1\n")
    dataset = open_dataset(tmp_path)
    assert dataset.areas() == ["XR_ELBOW", "XR_HUMERUS"]
    assert set(dataset.notes) == {
        Finding("unreadable", "d.dcm", "no DICOM file"),
        Finding("unlabelled", "1.3", "not in labels.csv; images left out: 1"),
        Finding("no images", "1.9", "in labels.csv, but no DICOM file is of it"),
    }
    assert SECRET not in dataset.frame.to_csv()
    missing = [f"1.{number}" for number in range(9, 3, -1)]
    lines = ["study,label", "1.1,0", "1.2,1", *(f"{uid},1" for uid in missing)]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    notes = open_dataset(tmp_path).notes
    assert [note.path for note in notes if note.kind == "no images"] == missing  # in their order


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("study\n1.1\n", "no column label"),
        ("study,label\n1.1,2\n", "neither 0"),
        ("study,label\n,1\n", "the study is empty"),
        ("study,label,label\n1.1,1,0\n", "column label stands twice"),
        ("study,label,split,split\n1.1,1,train,valid\n", "column split stands twice"),
        ("study,label\n1.1,1\n1.1,1\n", "keep one row"),
        ("study,label,split\n1.1,1,dev\n", "neither 'train' nor 'valid'"),
        ("study,label\n1.1\n", "1 cells under 2"),
        ("study,label\n9.9,1\n", "no DICOM file is of a study"),
    ],
)
def test_a_table_that_says_nothing_clear_is_refused(
    content: str, said: str, tmp_path: Path
) -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    (tmp_path / "a.dcm").write_bytes(to_bytes(dicom_file(pixels, StudyInstanceUID="1.1")))
    (tmp_path / "labels.csv").write_text(content)
    with pytest.raises(InputError, match=said):
        open_dataset(tmp_path)
