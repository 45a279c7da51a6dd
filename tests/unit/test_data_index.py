"""dataset: MURA's CSVs as they circulate, and tables, become one index."""

import os
import sys
import tracemalloc
from pathlib import Path

import pandas as pd
import pytest

from mura_tune.data.index import Dataset, Finding, dataset_name, index_mura, index_table
from mura_tune.data.listing import IMAGE_COLUMNS
from mura_tune.data.prepare import open_dataset
from mura_tune.errors import InputError

TRAIN = [
    "MURA-v1.1/train/XR_ELBOW/patient00001/study1_positive/image1.png",
    "MURA-v1.1/train/XR_ELBOW/patient00001/study1_positive/image2.png",
    "MURA-v1.1/train/XR_WRIST/patient00001/study1_negative/image1.png",
]
TRAIN_STUDIES = [
    "MURA-v1.1/train/XR_ELBOW/patient00001/study1_positive/,1",
    "MURA-v1.1/train/XR_WRIST/patient00001/study1_negative/,0",
]
VALID = ["MURA-v1.1/valid/XR_ELBOW/patient00009/study1_negative/image1.png"]
VALID_STUDIES = ["MURA-v1.1/valid/XR_ELBOW/patient00009/study1_negative/,0"]


def mura(root: Path, **lines: list[str]) -> Path:
    """Write the four CSVs under `root`, with some replaced by `lines`, and no image."""
    root.mkdir(exist_ok=True)
    files = {
        "train_image_paths": TRAIN,
        "train_labeled_studies": TRAIN_STUDIES,
        "valid_image_paths": VALID,
        "valid_labeled_studies": VALID_STUDIES,
    }
    for name, rows in {**files, **lines}.items():
        (root / f"{name}.csv").write_text("".join(f"{row}\n" for row in rows))
    return root


def kinds(dataset: Dataset) -> list[str]:
    return [note.kind for note in dataset.notes]


def test_mura_is_indexed_under_the_folder_it_lies_in(tmp_path: Path) -> None:
    dataset = index_mura(mura(tmp_path / "elsewhere"), index_only=True)
    assert dataset.name == "elsewhere"
    assert list(dataset.frame.columns) == list(IMAGE_COLUMNS)
    assert dataset.frame.to_numpy().tolist()[2] == [
        "train/XR_WRIST/patient00001/study1_negative/image1.png",
        "XR_WRIST",
        "patient00001",
        "XR_WRIST/patient00001/study1_negative",
        0,
        "train",
    ]
    assert dataset.frame["split"].tolist() == ["train"] * 3 + ["valid"]
    assert dataset.frame["label"].tolist() == [1, 1, 0, 0]
    assert dataset.notes == ()
    assert dataset.areas() == ["XR_ELBOW", "XR_WRIST"]


@pytest.mark.parametrize("header", [("path", "study,label"), ("0", "0,1"), ("image", '"s","l"')])
def test_a_header_is_noted_and_changes_nothing(tmp_path: Path, header: tuple[str, str]) -> None:
    plain = index_mura(mura(tmp_path / "a"), index_only=True)
    headed = index_mura(
        mura(
            tmp_path / "b",
            train_image_paths=[header[0], *TRAIN],
            train_labeled_studies=[header[1], *TRAIN_STUDIES],
        ),
        index_only=True,
    )
    pd.testing.assert_frame_equal(plain.frame, headed.frame)
    assert kinds(headed) == ["header", "header"]


def test_views_share_the_names_of_their_study_and_patient(tmp_path: Path) -> None:
    rows = index_mura(mura(tmp_path), index_only=True).frame
    for column in ("area", "patient", "study", "split"):
        assert rows[column][0] is rows[column][1]


def test_a_row_costs_its_names_and_little_more(tmp_path: Path) -> None:
    count = 3000
    studies = [f"M/train/XR_WRIST/patient{i:06d}/study1_negative/" for i in range(count)]
    images, labelled = ([f"{study}{end}" for study in studies] for end in ("image1.png", ",0"))
    mura(tmp_path, train_image_paths=images, train_labeled_studies=labelled)
    tracemalloc.start()
    dataset = index_mura(tmp_path, index_only=True)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(dataset.frame) == count + 1
    names = sum(
        map(
            sys.getsizeof,
            (name for column in ("path", "patient", "study") for name in dataset.frame[column]),
        )
    )
    assert kept < names + 100 * count
    assert peak < names + 200 * count


def test_sloppy_csvs_are_read_alike(tmp_path: Path) -> None:
    plain = index_mura(mura(tmp_path / "a"), index_only=True)
    root = mura(tmp_path / "b")
    quoted = ["\ufeff" + f'"{TRAIN[0]}"', "", *TRAIN[1:], " "]
    (root / "train_image_paths.csv").write_text("\r\n".join(quoted), "utf-8", newline="")
    studies = [row.replace("/,", " , ") for row in TRAIN_STUDIES]  # no trailing slash, spaces
    (root / "train_labeled_studies.csv").write_text("\r\n".join(studies), newline="")
    sloppy = index_mura(root, index_only=True)
    pd.testing.assert_frame_equal(plain.frame, sloppy.frame)
    assert sloppy.notes == ()


def test_hidden_files_in_the_csvs_are_left_out_and_noted(tmp_path: Path) -> None:
    folder = TRAIN[0].rsplit("/", 1)[0]
    rows = [*TRAIN, f"{folder}/.DS_Store", f"{folder}/._image1.png"]
    dataset = index_mura(mura(tmp_path, train_image_paths=rows), index_only=True)
    assert len(dataset.frame) == 4
    assert kinds(dataset) == ["hidden", "hidden"]
    assert dataset.notes[0].path.endswith("study1_positive/.DS_Store")


def test_the_csvs_label_wins_over_the_folders_name(tmp_path: Path) -> None:
    rows = [TRAIN_STUDIES[0].replace(",1", ",0"), TRAIN_STUDIES[1]]
    dataset = index_mura(mura(tmp_path, train_labeled_studies=rows), index_only=True)
    assert dataset.frame["label"].tolist() == [0, 0, 0, 0]
    assert kinds(dataset) == ["label conflict"]
    assert dataset.notes[0].path == "train/XR_ELBOW/patient00001/study1_positive"


def test_images_without_label_and_labels_without_images_are_noted(tmp_path: Path) -> None:
    rows = [TRAIN_STUDIES[1], "M/train/XR_ELBOW/patient00002/study1_negative/,0"]
    dataset = index_mura(mura(tmp_path, train_labeled_studies=rows), index_only=True)
    assert len(dataset.frame) == 2
    assert kinds(dataset) == ["unlabelled", "no images"]
    assert dataset.notes[0].detail.endswith("images left out: 2")


@pytest.mark.parametrize(
    ("file", "rows", "told"),
    [
        ("train_image_paths", [*TRAIN, "MURA-v1.1/train/XR_ELBOW/x.png"], "paths.csv:4: "),
        ("train_image_paths", [*TRAIN, "M/train/XR_A/p/../image1.png"], "paths.csv:4: "),
        ("train_image_paths", ["", VALID[0]], "paths.csv:2: "),  # in the other split's file
        ("train_image_paths", [TRAIN[0] + ",1"], "paths.csv:1: 2 cells"),
        ("train_image_paths", [TRAIN[0], '"' + TRAIN[1]], "paths.csv:2: not readable"),
        ("train_labeled_studies", [TRAIN_STUDIES[0], "a/b"], "studies.csv:2: 1 cells"),
        ("train_labeled_studies", [TRAIN_STUDIES[0][:-1] + "2"], "label '2' is neither"),
        ("train_labeled_studies", [TRAIN_STUDIES[0], TRAIN_STUDIES[0][:-1] + "0"], ":2: .*above"),
        ("train_image_paths", [*TRAIN, TRAIN[0]], "listed twice"),
    ],
)
def test_a_malformed_row_is_told_with_file_and_line(
    tmp_path: Path, file: str, rows: list[str], told: str
) -> None:
    with pytest.raises(InputError, match=told) as error:
        index_mura(mura(tmp_path, **{file: rows}), index_only=True)
    assert "\n" not in str(error.value)


def test_a_missing_folder_says_where_mura_is(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such folder; get MURA from https://.*make demo"):
        index_mura(tmp_path / "none")


def test_a_missing_csv_is_named(tmp_path: Path) -> None:
    (mura(tmp_path) / "valid_labeled_studies.csv").unlink()
    with pytest.raises(InputError, match=r"valid_labeled_studies\.csv: no such file"):
        index_mura(tmp_path)


def test_a_folder_in_a_folder_of_its_name_is_one_level_deeper(tmp_path: Path) -> None:
    inner = tmp_path / "MURA-v1.1" / "MURA-v1.1"
    inner.mkdir(parents=True)
    mura(inner)
    with pytest.raises(InputError, match=r"lies one level deeper; name .*MURA-v1\.1/MURA-v1\.1$"):
        index_mura(inner.parent, index_only=True)


def test_a_version_is_part_of_a_folders_name_and_csv_of_no_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert dataset_name(tmp_path / "MURA-v1.1") == "MURA-v1.1"
    assert dataset_name(tmp_path / "ward.v2.csv") == "ward.v2"
    assert dataset_name(tmp_path / os.fsdecode(b"R\xf6ntgen")) == r"R\xf6ntgen"  # not UTF-8
    monkeypatch.chdir(tmp_path)
    assert dataset_name(Path()) == tmp_path.name


@pytest.mark.parametrize("folder", ["XR_..", "XR_A.confirm", "XR_$(id)", "XR_\x1b[2J"])
def test_an_area_that_may_not_be_one_is_refused(tmp_path: Path, folder: str) -> None:
    rows = [*TRAIN_STUDIES, f"M/train/{folder}/patient00002/study1_negative/,0"]
    with pytest.raises(InputError, match=r"studies\.csv:3: the area"):
        index_mura(mura(tmp_path, train_labeled_studies=rows), index_only=True)


def test_csvs_without_any_image_folder_need_index_only(tmp_path: Path) -> None:
    mura(tmp_path)
    assert len(index_mura(tmp_path, index_only=True).frame) == 4
    with pytest.raises(InputError, match="--index-only"):
        index_mura(tmp_path)
    (tmp_path / "train" / "XR_ELBOW").mkdir(parents=True)  # one area is enough to work on it
    assert len(index_mura(tmp_path).frame) == 4


def test_an_absent_area_lists_those_there(tmp_path: Path) -> None:
    dataset = index_mura(mura(tmp_path), index_only=True)
    with pytest.raises(InputError, match=r"XR_ELBOW, XR_WRIST; did you mean XR_ELBOW\?"):
        dataset.for_area("xr_elbo")


def test_one_area_keeps_its_own_rows_and_notes(tmp_path: Path) -> None:
    rows = [row[:-1] + str(1 - int(row[-1])) for row in TRAIN_STUDIES]  # both contradict
    dataset = index_mura(mura(tmp_path, train_labeled_studies=rows), index_only=True)
    wrist = dataset.for_area("XR_WRIST")
    assert (wrist.name, len(wrist.frame), wrist.root) == ("XR_WRIST", 1, dataset.root)
    assert [note.path for note in wrist.notes] == ["train/XR_WRIST/patient00001/study1_negative"]


def test_drop_leaves_paths_out_and_keeps_the_rest(tmp_path: Path) -> None:
    dataset = index_mura(mura(tmp_path), index_only=True)
    less = dataset.drop([dataset.frame["path"][0], "nowhere.png"])
    assert less.frame["path"].tolist() == dataset.frame["path"].tolist()[1:]
    assert less.frame.index.tolist() == [0, 1, 2]


def frame(**changes: list[object]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "path": ["a.png", "b.png"],
            "area": ["XR_A", "XR_A"],
            "patient": ["p1", "p2"],
            "study": ["XR_A/p1/s", "XR_A/p2/s"],
            "label": [0, 1],
            "split": ["train", "valid"],
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (frame(patient=["p1", "p1"]), r"in both train and valid: p1 \(1 in all\); move"),
        (frame(path=["a.png", "a.png"]), "listed twice: a.png"),
        (frame(study=["s", "s"], split=["train", "train"]), "both normal and abnormal: s"),
        (
            frame(study=["s", "s"], label=[0, 0], split=["train", "train"]),
            "of two patients or areas",
        ),
        (frame(label=[0, 2]), "column label"),
        (frame(label=["0", "1"]), "column label"),
        (frame(area=["XR_A", None]), "column area"),
        (frame(split=["train", "test"]), "column split"),
        (frame().drop(columns="study"), "no column study"),
        (frame().iloc[:0], "no image is left"),
    ],
)
def test_an_inconsistent_index_is_refused(bad: pd.DataFrame, told: str) -> None:
    with pytest.raises(InputError, match=told):
        Dataset(Path(), bad, "x")


def test_a_finding_has_a_known_kind() -> None:
    with pytest.raises(ValueError, match="no kind of finding"):
        Finding("typo", "a.png", "")


def test_a_table_needs_only_path_patient_and_label(tmp_path: Path) -> None:
    table = tmp_path / "ward.csv"
    table.write_text(
        "Note,path,label,PATIENT\nx,one/a.png,1,p1\n,one/b.png,1,p1\n,two/c.png,0,p2\n"
    )
    dataset = open_dataset(table)
    assert (dataset.root, dataset.name) == (tmp_path, "ward")
    assert dataset.frame["area"].unique().tolist() == ["XR_ALL"]
    assert dataset.frame["study"].tolist() == ["XR_ALL/p1/one"] * 2 + ["XR_ALL/p2/two"]
    assert dataset.frame["label"].tolist() == [1, 1, 0]
    assert set(dataset.frame["split"]) == {"train"}


def test_a_table_may_name_area_study_and_split(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text(
        "path,patient,label,area,study,split\n"
        "a.png,p1,0,XR_HAND,s1,train\nb.png,p2,1,XR_HAND,XR_HAND/p2/s1,valid\n"
    )
    got = index_table(table).frame
    assert got["study"].tolist() == ["XR_HAND/p1/s1", "XR_HAND/p2/s1"]
    assert got["split"].tolist() == ["train", "valid"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("path,label\na.png,1\n", r"no column patient in its header row \(path, label\)"),
        ("path,patient,label\na.png,p,yes\n", r"t\.csv:2: label 'yes'"),
        ("path,patient,label\na.png,,1\n", r"t\.csv:2: the patient is empty"),
        ("path,patient,label\na.png,p\n", r"t\.csv:2: 2 cells under 3 column names"),
        ("path,patient,label,split\na.png,p,1,dev\n", r"t\.csv:2: split 'dev'"),
        ("path,patient,label\n", "lists no image"),
        ("", "no column path, patient, label"),
    ],
)
def test_a_bad_table_is_told_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=told):
        index_table(tmp_path / "t.csv")
