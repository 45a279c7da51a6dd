"""Groups of studies: where a column stands, and how its values are cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dicoms import SECRET, dicom_file, to_bytes

from mura_tune.errors import InputError
from mura_tune.evaluation.columns import MOST_GROUPS, read_columns
from mura_tune.imaging.dicom import parse_age


def views_of(values: list[str], per_study: int = 1) -> pd.DataFrame:
    """The views of test: image N of study N // per_study."""
    numbers = range(len(values))
    return pd.DataFrame(
        {
            "path": [f"images/{n}.dcm" for n in numbers],
            "study": [f"XR_WRIST/p{n // per_study}/s" for n in numbers],
            "area": "XR_WRIST",
        }
    )


def grouped(values: list[str], tmp_path: Path, *, name: str = "x", per_study: int = 1) -> list[str]:
    """Each study's group by a column of a table with these values, a row a view."""
    rows = [f"images/{n}.dcm,{value}" for n, value in enumerate(values)]
    table = tmp_path / "groups.csv"
    table.write_text("\n".join([f"path,{name}", *rows]) + "\n")
    views = views_of(values, per_study)
    (column,) = read_columns([name.upper()], views, tmp_path, table)
    assert set(column.groups.values()) == set(column.names)
    return [column.groups.get(study, "") for study in views["study"].unique()]


@pytest.mark.parametrize(
    ("name", "values", "groups"),
    [
        ("x", ["a", "b", "", "a"], ["a", "b", "", "a"]),
        ("x", ["0", "1", "1.0"], ["0", "1", "1.0"]),
        ("age", ["7", "045Y", "90", "101"], ["0 to 9", "40 to 49", "90 or more", "90 or more"]),
        ("age", ["006M", "012W", "30 y"], ["0 to 9", "0 to 9", "30 to 39"]),
        ("age", ["young", "45"], ["young", "45"]),
        (
            "x",
            ["1", "2", "3", "4", "5", "6", "7", "8"],
            ["2 or less"] * 2
            + ["above 2, up to 4"] * 2
            + ["above 4, up to 6"] * 2
            + ["above 6"] * 2,
        ),
        ("x", ["1", "2", "3", "4", "5", "nan"], ["1", "2", "3", "4", "5", "nan"]),
    ],
)
def test_values_are_groups_and_numbers_are_cut(
    name: str, values: list[str], groups: list[str], tmp_path: Path
) -> None:
    assert grouped(values, tmp_path, name=name) == groups


def test_the_views_of_a_study_are_of_one_group(tmp_path: Path) -> None:
    values = ["AP", "LATERAL", "LATERAL", "AP", "AP", "AP", "", "AP"]
    found = grouped(values, tmp_path, name="view", per_study=2)
    assert found == ["AP + LATERAL", "AP + LATERAL", "AP", "AP"]


def test_decades_are_in_the_order_of_years(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("path,age\nimages/0.dcm,100\nimages/1.dcm,9\nimages/2.dcm,20\n")
    (column,) = read_columns(["age"], views_of(["", "", ""]), tmp_path, table)
    assert column.names == ("0 to 9", "20 to 29", "90 or more")
    assert column.source == "t.csv"


@pytest.mark.parametrize("written", ["XR_WRIST/p1/s", "p1/s", "MURA-v1.1/valid/XR_WRIST/p1/s/"])
def test_a_table_may_name_studies(written: str, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text(f"study,hardware\n{written},yes\nXR_HAND/p9/s,no\n")
    (column,) = read_columns(["hardware"], views_of(["", ""]), tmp_path, table)
    assert column.groups == {"XR_WRIST/p1/s": "yes"}


def test_a_dataset_has_its_own_table_and_the_area(tmp_path: Path) -> None:
    data = tmp_path / "images.csv"
    data.write_text("path,patient,label,Sex\nimages/0.dcm,p0,0,F\nimages/1.dcm,p1,1,M\n")
    views = views_of(["", ""])
    sex, area = read_columns(["sex", "area"], views, data)
    assert (sex.source, list(sex.groups.values())) == ("images.csv", ["F", "M"])
    assert area.names == ("XR_WRIST",)


def test_headers_of_dicom_files_are_read_where_no_table_has_the_column(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    headers = (
        {
            "PatientSex": "F",
            "PatientAge": "045Y",
            "Manufacturer": "Acme  Inc",
            "ViewPosition": "AP",
        },
        {"PatientSex": "M", "PatientAge": "011M", "Manufacturer": "ACME INC"},
        {"PatientAge": "099Y", "Manufacturer": None},
    )
    for number, fields in enumerate(headers):
        content = to_bytes(dicom_file(pixels, **fields)).replace(b"099Y", b"oldY")
        (tmp_path / f"images/{number}.dcm").write_bytes(content)
    views = views_of(["", "", "", ""])
    columns = read_columns(["sex", "age", "manufacturer", "view"], views, tmp_path)
    assert [column.names for column in columns] == [
        ("F", "M"),
        ("0 to 9", "40 to 49"),
        ("ACME INC",),
        ("AP",),
    ]
    assert columns[0].source == "DICOM headers"
    assert set(columns[1].groups) == {"XR_WRIST/p0/s", "XR_WRIST/p1/s"}
    for name in ("PatientName", "patientid", "patientsex"):
        with pytest.raises(InputError, match="no column") as refused:
            read_columns([name], views, tmp_path)
        assert SECRET not in str(refused.value)


HEADERS = (  # PatientSex, PatientAge, ViewPosition, Manufacturer
    ("F", "006M", "AP", "ACME"),
    ("M", "045Y", "LATERAL", "ACME"),
    ("O", "012W", "AP", "OTHER"),
)


@pytest.mark.parametrize("source", ["groups.csv", "images.csv", "labels.csv", "DICOM headers"])
def test_each_source_gives_the_same_groups(source: str, tmp_path: Path) -> None:
    views = views_of([""] * len(HEADERS))
    rows = [
        f"{path},{study},p{n},0,{','.join(values)}"
        for n, (path, study, values) in enumerate(
            zip(views["path"], views["study"], HEADERS, strict=True)
        )
    ]
    (tmp_path / "images").mkdir()
    columns = "sex,age,view,manufacturer"
    data, table = tmp_path, None
    if source == "DICOM headers":
        pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
        keywords = ("PatientSex", "PatientAge", "ViewPosition", "Manufacturer")
        for path, values in zip(views["path"], HEADERS, strict=True):
            fields = dict(zip(keywords, values, strict=True))
            (tmp_path / path).write_bytes(to_bytes(dicom_file(pixels, **fields)))
    else:
        (tmp_path / source).write_text("\n".join([f"path,study,patient,label,{columns}", *rows]))
    if source == "groups.csv":
        table = tmp_path / source
    if source == "images.csv":
        data = tmp_path / source
    found = read_columns(columns.split(","), views, data, table)
    assert {column.source for column in found} == {source}
    assert [column.names for column in found] == [
        ("F", "M", "O"),
        ("0 to 9", "40 to 49"),
        ("AP", "LATERAL"),
        ("ACME", "OTHER"),
    ]
    studies = views["study"].tolist()
    assert [found[1].groups[study] for study in studies] == ["0 to 9", "40 to 49", "0 to 9"]


@pytest.mark.parametrize(
    ("written", "years"),
    [
        *[("006M", 0), ("023M", 1), ("012W", 0), ("104W", 1), ("400D", 1), ("030Y", 30)],
        *[("45", 45), ("45 y", 45), ("45.9", 45), ("18 Months", 1), ("2 years", 2), (" 7 ", 7)],
        *[("", None), ("old", None), ("-1", None), ("1e3", None), ("45 x", None), ("Y", None)],
    ],
)
def test_an_age_is_read_with_its_unit(written: str, years: int | None) -> None:
    assert parse_age(written) == years


@pytest.mark.parametrize(
    ("table", "name", "said"),
    [
        ("path,a\nimages/0.dcm,1\n", "b", r"no column 'b' to group by; there is a, area"),
        ("path,a\nimages/0.dcm,1\n", "path", "no column 'path'"),
        ("path,a,a\nimages/0.dcm,1,2\n", "a", "t.csv: column a stands twice"),
        ("path,a,path\nimages/0.dcm,1,images/1.dcm\n", "a", "t.csv: column path stands twice"),
        ("path,a\nimages/0.dcm\n", "a", r"t.csv:2: 1 cells under 2"),
        ("file,a\nimages/0.dcm,1\n", "a", "no column path or study"),
        ("study,a\np0/s,1\np0/s,2\n", "a", r"t.csv:3: study 'p0/s' has another a"),
        ("path,a\nimages/99.dcm,1\n", "a", "no value for any study of test"),
        ("", "a", "no column 'a'"),
    ],
)
def test_a_column_that_says_nothing_clear_is_refused(
    table: str, name: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_text(table)
    with pytest.raises(InputError, match=said):
        read_columns([name], views_of(["", ""]), tmp_path, tmp_path / "t.csv")


def test_a_column_of_names_is_refused_and_none_is_said(tmp_path: Path) -> None:
    names = [f"secret{n}" for n in range(MOST_GROUPS + 1)]
    with pytest.raises(InputError, match=rf"has {MOST_GROUPS + 1} groups") as refused:
        grouped(names, tmp_path)
    assert "secret" not in str(refused.value)
    assert len(set(grouped(names[1:], tmp_path))) == MOST_GROUPS
