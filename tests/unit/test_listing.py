"""A listing: training and inference read the same studies out of the same table."""

from pathlib import Path

import pytest

from mura_tune.data.index import index_table
from mura_tune.data.listing import read_image_table
from mura_tune.errors import InputError
from mura_tune.reading.studies import find_studies


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tmp_path / "ward.csv"


def views(table: Path) -> dict[str, list[str]]:
    """The studies that inference finds, with the paths of their images below the table's folder."""
    return {
        one.name: [str(image.relative_to(table.parent)) for image in one.images]
        for one in find_studies(table)
    }


def test_two_patients_with_one_study_name_are_two_studies(table: Path) -> None:
    table.write_text(
        "path,patient,study,label\na.png,p1,study1,0\nb.png,p1,study1,0\nc.png,p2,study1,1\n"
    )
    assert views(table) == {"p1/study1": ["a.png", "b.png"], "p2/study1": ["c.png"]}
    trained = index_table(table).frame["study"].unique().tolist()
    assert trained == ["XR_ALL/p1/study1", "XR_ALL/p2/study1"]


def test_the_areas_of_one_patient_are_studies_of_their_own(table: Path) -> None:
    table.write_text(
        "path,patient,study,label,area\n"
        "a.png,p1,study1,0,XR_HAND\nb.png,p1,study1,1,XR_WRIST\nc.png,p1,XR_HAND/p1/study2,0,XR_HAND\n"
    )
    names = ["XR_HAND/p1/study1", "XR_WRIST/p1/study1", "XR_HAND/p1/study2"]
    assert list(views(table)) == names
    assert index_table(table).frame["study"].tolist() == names


def test_a_table_without_patients_names_studies_as_it_always_did(table: Path) -> None:
    table.write_text("path,study,area\na.png,s1,XR_HAND\nb.png,s1,XR_WRIST\nx/y/c.png,,\n")
    assert views(table) == {"s1": ["a.png", "b.png"], "x/y": ["x/y/c.png"]}


def test_blank_lines_and_spaces_of_a_spreadsheet_change_nothing(table: Path) -> None:
    table.write_text(
        "\ufeff Path , patient,study \n\n a.png ,p1, study1\n,,\nb.png,p1,study1 \n  \n"
    )
    assert views(table) == {"p1/study1": ["a.png", "b.png"]}


def test_folders_of_one_patient_that_end_alike_are_two_studies(table: Path) -> None:
    table.write_text(
        "path,patient,label\n2019/study1/a.png,p1,0\n2021/study1/b.png,p1,1\nx/study2/c.png,p1,0\n"
    )
    names = ["p1/2019/study1", "p1/2021/study1", "p1/study2"]
    assert list(views(table)) == names
    assert index_table(table).frame["study"].tolist() == [f"XR_ALL/{name}" for name in names]


def test_names_with_a_slash_never_join_two_patients(table: Path) -> None:
    table.write_text("path,patient,study,label\na.png,a/b,c,0\nb.png,a,b/c,0\n")
    for read in (find_studies, index_table):
        with pytest.raises(InputError, match=r"ward\.csv:3: study a/b/c of patient a is named as "):
            read(table)


@pytest.mark.parametrize("again", ["a.png", "./a.png", "x/../a.png", "{folder}/a.png"])
def test_an_image_that_is_listed_twice_is_refused_with_both_lines(
    table: Path, again: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = again.format(folder=table.parent)
    table.write_text(f"path,patient,study,label\na.png,p1,s1,0\n{path},p1,s1,0\n")
    for read in (find_studies, index_table):
        with pytest.raises(InputError, match=r"ward\.csv:3: .*a\.png is listed twice \(line 2"):
            read(table)
    monkeypatch.chdir(table.parent)
    with pytest.raises(InputError, match="listed twice"):
        find_studies(Path(table.name))


def test_a_folder_behind_a_link_is_not_taken_for_its_neighbour(table: Path) -> None:
    (table.parent / "far" / "deep").mkdir(parents=True)
    (table.parent / "link").symlink_to(table.parent / "far" / "deep")
    table.write_text("path,patient,study,label\na.png,p1,s1,0\nlink/../a.png,p1,s1,0\n")
    assert views(table) == {"p1/s1": ["a.png", "link/../a.png"]}


@pytest.mark.parametrize(
    "area",
    ["../victim", "..", "a/b", "XR_$(id)", "x" * 101, "XR_HAND.confirm", "router", "ALL", "all"],
)
def test_an_area_that_may_not_be_one_is_refused_with_its_line(table: Path, area: str) -> None:
    table.write_text(f"path,patient,label,area\na.png,p1,0,XR_HAND\nb.png,p2,1,{area}\n")
    with pytest.raises(InputError, match=r"ward\.csv:3: (the )?area") as refused:
        index_table(table)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"path,patient,study\na.png,,s\n", ":2: the patient is empty"),
        (b"path,patient,path\na.png,p,b.png\n", "column path stands twice"),
        (b"path,study\nR\xf6ntgen/a.png,s\n", r"not UTF-8 \(byte 0xf6\); save it as UTF-8"),
        ("path,study\na.png,s\n".encode("utf-16"), "not UTF-8"),
        (b"path,study\na\0.png,s\n", ":2: not readable as a CSV"),
        (b'path,study\n"a.png,s\n', "not readable as a CSV"),
    ],
)
def test_what_is_no_table_of_images_is_one_line(table: Path, content: bytes, words: str) -> None:
    table.write_bytes(content)
    with pytest.raises(InputError, match=words) as refused:
        find_studies(table)
    assert str(refused.value).startswith(str(table))
    assert "\n" not in str(refused.value)


def test_a_folder_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "x.csv").mkdir()
    with pytest.raises(InputError, match=r"x\.csv: a folder or device, not a table"):
        read_image_table(tmp_path / "x.csv", ["path"])
