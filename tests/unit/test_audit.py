"""audit: MURA's own counts, and every kind of fault by name."""

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mura_tune.data import cache, scan
from mura_tune.data.audit import audit_dataset
from mura_tune.data.index import index_mura, index_table

# MURA v1.1: train then valid: studies -/+, images -/+, patients
MURA = {
    "XR_ELBOW": ((1094, 660, 2925, 2006, 1711), (92, 66, 235, 230, 152)),
    "XR_FINGER": ((1280, 655, 3138, 1968, 1865), (92, 83, 214, 247, 166)),
    "XR_FOREARM": ((590, 287, 1164, 661, 865), (69, 64, 150, 151, 129)),
    "XR_HAND": ((1497, 521, 4059, 1484, 1945), (101, 66, 271, 189, 159)),
    "XR_HUMERUS": ((321, 271, 673, 599, 587), (68, 67, 148, 140, 132)),
    "XR_SHOULDER": ((1364, 1457, 4211, 4168, 2694), (99, 95, 285, 278, 173)),
    "XR_WRIST": ((2134, 1326, 5765, 3987, 3267), (140, 97, 364, 295, 207)),
}


def write_mura_csvs(root: Path, header: bool) -> None:
    """Write four CSVs of MURA's shape: patients shared by areas, study names that collide."""
    for half, split in enumerate(("train", "valid")):
        paths, studies = ["image"] * header, ["study,label"] * header
        for area, sizes in MURA.items():
            normal, abnormal, *images, patients = sizes[half]
            for i in range(normal + abnormal):
                label, at = (0, i) if i < normal else (1, i - normal)
                word = ("negative", "positive")[label]
                visit = 1 + i // patients
                folder = f"MURA-v1.1/{split}/{area}/patient{half * 50000 + i % patients:05d}"
                study = f"{folder}/study{visit}_{word}/"
                studies.append(f"{study},{label}")
                share, rest = divmod(images[label], (normal, abnormal)[label])
                paths += [f"{study}image{n + 1}.png" for n in range(share + (at < rest))]
        (root / f"{split}_image_paths.csv").write_text("\n".join(paths) + "\n")
        (root / f"{split}_labeled_studies.csv").write_text("\n".join(studies) + "\n")


@pytest.mark.parametrize("header", [False, True])
def test_muras_csvs_alone_give_muras_table(tmp_path: Path, header: bool) -> None:
    write_mura_csvs(tmp_path, header)
    found = audit_dataset(index_mura(tmp_path, index_only=True))
    document = json.loads(json.dumps(found.to_json()))
    for area, sizes in MURA.items():
        for split, expected in zip(("train", "valid"), sizes, strict=True):
            count = document["areas"][area][split]
            got = [
                count[what][sign]
                for what in ("studies", "images")
                for sign in ("negative", "positive")
            ]
            assert (*got, count["patients"]["total"]) == expected
    assert document["images"] == 40_005
    assert document["pixels_read"] is False
    assert [finding.kind for finding in found.findings] == ["header"] * 4 * header
    assert "XR_WRIST     train  2,134/1,326  5,765/3,987  3,267" in found.summary()


def draw(root: Path, path: str, value: int) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(value).integers(0, 255, (20, 30), np.uint8)
    Image.fromarray(pixels).save(file)


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    """A dataset with every fault that only looking at the pixels and folders shows."""
    studies = {
        "train/XR_A/p1/study1_negative": (0, 1),
        "train/XR_A/p2/study1_positive": (1, 1),  # p1's pixels under the other label
        "train/XR_B/p3/study1_negative": (0, 2),
        "valid/XR_B/p4/study1_negative": (0, 2),  # p3's pixels in the other split
        "train/XR_B/p5/study1_positive": (1, 3),
    }
    for split in ("train", "valid"):
        mine = {name: cells for name, cells in studies.items() if name.startswith(split)}
        (tmp_path / f"{split}_image_paths.csv").write_text(
            "".join(f"X/{name}/image1.png\n" for name in mine)
        )
        (tmp_path / f"{split}_labeled_studies.csv").write_text(
            "".join(f"X/{name}/,{label}\n" for name, (label, _) in mine.items())
        )
    for name, (_, value) in studies.items():
        draw(tmp_path, f"{name}/image1.png", value)
    (tmp_path / "train/XR_B/p5/study1_positive/image1.png").write_bytes(b"")
    (tmp_path / "train/XR_A/.DS_Store").write_bytes(b"x")
    (tmp_path / "train/XR_A/p1/study1_negative/._image1.png").write_bytes(b"x")
    return tmp_path


def test_pixels_show_what_the_index_hides(faulty: Path) -> None:
    dataset = index_mura(faulty)
    assert audit_dataset(dataset).findings == ()
    found = audit_dataset(dataset, pixels=scan.scan_dataset(dataset, progress=False).records)
    assert [(f.kind, f.path) for f in found.findings] == [
        ("unreadable", "train/XR_B/p5/study1_positive/image1.png"),
        ("hidden", "train/XR_A/.DS_Store"),
        ("hidden", "train/XR_A/p1/study1_negative/._image1.png"),
        ("two labels", "train/XR_A/p1/study1_negative/image1.png"),
        ("two splits", "train/XR_B/p3/study1_negative/image1.png"),
    ]
    assert "train/XR_A/p2/study1_positive/image1.png" in found.findings[3].detail
    assert "valid/XR_B/p4/study1_negative/image1.png" in found.findings[4].detail
    assert found.findings[0].detail == "empty file"


def test_a_blank_picture_is_a_finding_of_its_own(faulty: Path, tmp_path: Path) -> None:
    """`check` names it, and what is trained on leaves it out by that name."""
    blank = "train/XR_B/p5/study1_positive/image1.png"
    Image.new("L", (20, 30), 7).save(faulty / blank)
    dataset = index_mura(faulty)
    found = audit_dataset(
        dataset, pixels=scan.scan_dataset(dataset, progress=False).records
    ).findings[0]
    assert (found.kind, found.path) == ("blank", blank)
    built = cache.open_cache(dataset, 8, tmp_path / "cache", progress=False, limit=0.5)
    assert built.left_out == (found,)
    again = cache.open_cache(dataset, 8, tmp_path / "cache", progress=False, limit=0.5)  # as stored
    assert again.left_out == (found,)


def test_pictures_under_two_patients_are_named(faulty: Path) -> None:
    picture = np.kron(
        np.random.default_rng(7).integers(0, 255, (8, 8), np.uint8), np.ones((9, 12), np.uint8)
    )
    names = [f"train/XR_A/p{n}/study1_{word}" for n, word in ((1, "negative"), (2, "positive"))]
    names.append("valid/XR_B/p4/study1_negative")
    files = [f"{name}/image1.png" for name in names]
    Image.fromarray(picture).save(faulty / files[0])
    Image.fromarray(picture).save(faulty / files[1])
    Image.fromarray(picture.T).save(faulty / files[2], format="JPEG", quality=70)
    dataset = index_mura(faulty)
    scanned = scan.scan_dataset(dataset, progress=False)
    found = audit_dataset(dataset, pixels=scanned.records, near=scanned.near).findings
    named = [f for f in found if f.kind in ("two labels", "two patients")]
    assert [(f.kind, f.path) for f in named] == [
        ("two labels", files[0]),
        ("two patients", files[0]),
    ]
    assert f"in train, a near-copy of {files[2]} in valid (correlation " in named[1].detail
    csv = faulty / "train_labeled_studies.csv"
    csv.write_text(csv.read_text().replace("p2/study1_positive/,1", "p2/study1_positive/,0"))
    dataset = index_mura(faulty)
    relabelled = audit_dataset(dataset, pixels=scanned.records).findings
    assert [f.detail for f in relabelled if f.kind == "two patients"] == [
        f"of p1 in train, with the same pixels as {files[1]}"
    ]


def test_the_cache_and_a_scan_tell_an_audit_the_same(faulty: Path, tmp_path: Path) -> None:
    dataset = index_mura(faulty)
    built = cache.open_cache(dataset, 8, tmp_path / "cache", progress=False, limit=0.5)
    scanned = audit_dataset(dataset, pixels=scan.scan_dataset(dataset, progress=False).records)
    assert audit_dataset(dataset, pixels=built.records).findings == scanned.findings


def test_a_table_makes_nobody_list_folders_that_are_not_its_own(tmp_path: Path) -> None:
    for folder in ("mine/inner", "other"):
        draw(tmp_path, f"{folder}/a.png", len(folder))
        (tmp_path / folder / ".secret").write_bytes(b"x")
    (tmp_path / ".secret").write_bytes(b"x")
    table = tmp_path / "mine" / "t.csv"
    table.write_text(
        f"path,patient,label\ninner/a.png,p1,0\n../other/a.png,p2,1\n{tmp_path}/other/b.png,p3,1\n"
    )
    dataset = index_table(table)
    found = audit_dataset(dataset, pixels=scan.scan_dataset(dataset, progress=False).records)
    assert [f.path for f in found.findings if f.kind == "hidden"] == ["inner/.secret"]


def test_a_folder_that_cannot_be_listed_is_named(
    faulty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shut, iterdir = faulty / "train/XR_A/p1", Path.iterdir

    def denied(folder: Path) -> Iterator[Path]:
        if folder == shut:
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return iterdir(folder)

    monkeypatch.setattr(Path, "iterdir", denied)
    dataset = index_mura(faulty)
    found = audit_dataset(
        dataset, pixels=scan.scan_dataset(dataset, progress=False).records
    ).findings
    (one,) = (f for f in found if f.path == "train/XR_A/p1")
    assert one.detail == "its hidden files cannot be listed: permission denied"


def test_names_of_any_bytes_are_shown_in_a_line_each(faulty: Path) -> None:
    folder = faulty / "train/XR_A/p1/study1_negative"
    for name in (b".R\xf6ntgen", b".two\nlines", b".\x1b[2J"):
        (folder / os.fsdecode(name)).write_bytes(b"x")
    dataset = index_mura(faulty)
    found = audit_dataset(dataset, pixels=scan.scan_dataset(dataset, progress=False).records)
    text = found.summary()
    assert ".R\\xf6ntgen: a hidden file" in text
    assert ".two lines: a hidden file" in text
    assert "\x1b" not in text
    assert json.dumps(found.to_json()).isascii()


def test_a_summary_names_five_of_a_kind(faulty: Path) -> None:
    folder = faulty / "train/XR_A/p1/study1_negative"
    for number in range(7):
        (folder / f"._x{number}").write_bytes(b"x")
    dataset = index_mura(faulty)
    text = audit_dataset(
        dataset, pixels=scan.scan_dataset(dataset, progress=False).records
    ).summary()
    assert "hidden: 9" in text
    assert "and 4 more" in text
    assert text.count("a hidden file") == 5
