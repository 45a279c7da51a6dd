"""A hospital's folder of DICOM files through every command: what a header holds stays in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import TINY, Ran
from dicoms import write_folder

Run = Callable[..., Ran]
MARK = "Zyxwvq"  # begins each value of a header that nobody asked for
FIELDS = (
    *("PatientName", "PatientComments", "OtherPatientNames", "AccessionNumber", "StudyID"),
    *("InstitutionName", "StationName", "ReferringPhysicianName", "OperatorsName"),
    *("StudyDescription", "SeriesDescription", "ImageComments", "DeviceSerialNumber"),
)


def headers(number: int) -> dict[str, object]:
    secret: dict[str, object] = {name: f"{MARK}{name}"[:16] for name in FIELDS}
    asked = {
        "PatientSex": "FM"[number % 2],
        "PatientAge": f"{30 + number % 40:03}Y",
        "Manufacturer": "Acme Imaging",
        "ManufacturerModelName": f"{MARK}Model",
        "PatientBirthDate": "19470211",
    }
    return secret | asked


@pytest.fixture(scope="module")
def hospital(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dicom") / "hospital"
    write_folder(root, phantoms, "XR_WRIST", headers)
    return root


def written(folder: Path) -> Iterator[tuple[str, bytes]]:
    """All files that commands wrote, each by its name and its content."""
    for file in folder.rglob("*"):
        name = str(file.relative_to(folder))
        yield name, name.encode() + (file.read_bytes() if file.is_file() else b"")


def test_no_value_of_a_header_goes_anywhere_unless_it_is_asked_for(
    run: Run, hospital: Path, tmp_path: Path
) -> None:
    data = f"--data={hospital}"
    image = next(hospital.rglob("*.dcm"))
    said = []
    for words in (
        ["check", data],
        ["tune", "XR_WRIST", data, "--trials=1", *TINY],
        ["finalize", "XR_WRIST", data],
        ["evaluate", f"--release={tmp_path / 'releases' / 'XR_WRIST'}", data],
        ["infer", hospital, f"--out={tmp_path / 'answers.csv'}"],
        ["infer", f"--image={image}"],
        ["explain", f"--image={image}", f"--out={tmp_path / 'map.png'}"],
    ):
        ran = run(*words)
        assert ran.code == 0, ran.err
        said.append(ran.out + ran.err)
    assert sum("XR_WRIST, by BodyPartExamined" in text for text in said) == 3
    # None that pictures in base64 may hold by chance; the last begins a PatientID.
    secrets = [MARK, "19470211", "Acme Imaging", "ACME IMAGING", "patient0"]
    for name, content in (*written(tmp_path), *((text[:20], text.encode()) for text in said)):
        assert [secret for secret in secrets if secret.encode() in content] == [], name
    asked = ["--by=sex", "--by=age", "--by=manufacturer", "--json"]
    ran = run("evaluate", f"--release={tmp_path / 'releases' / 'XR_WRIST'}", data, *asked)
    assert ran.code == 0, ran.err
    groups = {column["column"]: column for column in json.loads(ran.out)["subgroups"]}
    assert {group["name"] for group in groups["sex"]["groups"]} <= {"F", "M", "F + M"}
    assert [group["name"] for group in groups["manufacturer"]["groups"]] == ["ACME IMAGING"]
    assert all("to" in group["name"] for group in groups["age"]["groups"])
    assert groups["age"]["source"] == "DICOM headers"
    assert MARK not in ran.out + ran.err
    assert "PatientID" not in ran.out


@pytest.mark.parametrize("parts", [("HAND", "WRIST"), ("WRIST", None)])
def test_headers_that_do_not_name_one_area_are_asked_about(
    parts: tuple[str, str | None], run: Run, hospital: Path, tmp_path: Path
) -> None:
    import pydicom

    images = []
    for number, part in enumerate(parts):
        file = pydicom.dcmread(next(hospital.rglob("*.dcm")))
        file.BodyPartExamined = part
        file.save_as(tmp_path / f"{number}.dcm")
        images.append(f"--image={tmp_path / f'{number}.dcm'}")
    ran = run("infer", *images)
    assert ran.code == 2
    assert "do not name one area for all" in ran.err
    assert len(ran.err.splitlines()) == 1
