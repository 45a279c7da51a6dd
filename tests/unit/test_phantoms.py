"""Phantoms: MURA's layout, the same pixels each time, and a label that only the lesion tells."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
from collections import defaultdict
from functools import cache, partial
from io import BytesIO
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from mura_tune.areas import AREAS
from mura_tune.data.index import index_mura
from mura_tune.errors import InputError
from mura_tune.phantoms.anatomy import WINDOWS
from mura_tune.phantoms.dataset import (
    ABNORMAL_SHARES,
    LOOK_VERSION,
    draw_contact_sheet,
    plan_studies,
    write_phantoms,
)
from mura_tune.phantoms.lesions import LESION_KINDS
from mura_tune.phantoms.rendering import PhantomStudy, draw_view

TABLES = [
    f"{s}_{k}.csv" for s, k in product(("train", "valid"), ("image_paths", "labeled_studies"))
]
small = partial(write_phantoms, areas=("XR_HAND", "XR_WRIST"), patients=4, size=64)
tiny = partial(write_phantoms, areas=("XR_WRIST",), patients=1, size=64)


def rows(path: Path) -> list[list[str]]:
    with path.open() as file:
        return list(csv.reader(file))


def content(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@cache
def harmed(area: str) -> dict[str, PhantomStudy]:
    """An abnormal study of each kind."""
    abnormal = [study for study in plan_studies("train", area, 60, 0) if study.abnormal]
    found: dict[str, PhantomStudy] = {}
    while len(found) < len(LESION_KINDS):
        study = abnormal.pop(0)
        found.setdefault(draw_view(study, 1, size=64)[1], study)
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("phantom") / "MURA-v1.1"
    small(root)
    return root


def test_layout_is_muras(root: Path) -> None:
    listed = {
        row[0] for split in ("train", "valid") for row in rows(root / f"{split}_image_paths.csv")
    }
    drawn = {f"MURA-v1.1/{p.relative_to(root).as_posix()}" for p in root.rglob("*.png")}
    assert listed == drawn
    for split in ("train", "valid"):
        labels = dict(rows(root / f"{split}_labeled_studies.csv"))
        paths = [row[0] for row in rows(root / f"{split}_image_paths.csv")]
        assert {path.rsplit("/", 1)[0] + "/" for path in paths} == set(labels)
        for study, label in labels.items():
            name, where, area, patient, folder, end = study.split("/")
            assert (name, where, end) == ("MURA-v1.1", split, "")
            assert area in AREAS
            assert patient.removeprefix("patient").isdigit()
            assert len(patient) == 12
            assert folder.endswith({"1": "_positive", "0": "_negative"}[label])


def test_same_arguments_give_the_same_bytes(root: Path, tmp_path: Path) -> None:
    first, again = tmp_path / "1" / "p", tmp_path / "2" / "p"
    tiny(first)
    tiny(again)
    assert content(first) == content(again)
    few, many = content(first), content(root)
    images = [name for name in few if name.endswith(".png")]
    assert len(images) > 10
    assert all(few[name] == many[name] for name in images)  # whatever else is drawn


def test_another_seed_gives_other_images() -> None:
    study = next(plan_studies("train", "XR_WRIST", 1, 0))
    assert not np.array_equal(
        draw_view(study, 1, size=64)[0], draw_view(study, 1, size=64, seed=1)[0]
    )


@pytest.mark.parametrize("split", ["train", "valid"])
@pytest.mark.parametrize("area", AREAS)
def test_more_patients_leave_the_others_as_they_were(area: str, split: str) -> None:
    few, many = (list(plan_studies(split, area, n, 3)) for n in (13, 57))
    assert many[: len(few)] == few


@pytest.mark.parametrize("split", ["train", "valid"])
@pytest.mark.parametrize("area", AREAS)
def test_class_balance_is_muras(area: str, split: str) -> None:
    for patients in (10, 60, 300):
        labels = [study.abnormal for study in plan_studies(split, area, patients, 0)]
        assert abs(sum(labels) - ABNORMAL_SHARES[area][split] * len(labels)) <= 1


def test_patients_share_areas_but_never_a_split() -> None:
    areas: dict[str, dict[int, set[str]]] = {"train": defaultdict(set), "valid": defaultdict(set)}
    labels = defaultdict(set)
    for split, area in product(("train", "valid"), AREAS):
        for study in plan_studies(split, area, 200, 0):
            areas[split][study.patient].add(area)
            labels[study.patient].add(study.abnormal)
    assert not areas["train"].keys() & areas["valid"].keys()
    for people in areas.values():
        assert 0.05 < np.mean([len(seen) > 1 for seen in people.values()]) < 0.15
    assert sum(len(both) == 2 for both in labels.values()) > 50


def test_label_is_not_told_by_study_number_or_views() -> None:
    plan = [study for area in AREAS for study in plan_studies("train", area, 400, 0)]
    label = [study.abnormal for study in plan]
    for clue in ("number", "views", "patient"):
        assert 0.46 < roc_auc_score(label, [getattr(study, clue) for study in plan]) < 0.54, clue


@pytest.mark.parametrize("area", AREAS)
def test_size_is_a_radiographs(area: str) -> None:
    for study in plan_studies("train", area, 1, 0):
        image = draw_view(study, 1)[0]
        assert image.dtype == np.uint8
        assert max(image.shape) == 512
        assert image.shape[0] >= 132
        assert image.shape[1] >= 89
        saved = BytesIO()
        Image.fromarray(image).save(saved, "PNG", compress_level=1)
        assert 40_000 < saved.tell() < 200_000


@pytest.mark.parametrize("kind", LESION_KINDS)
@pytest.mark.parametrize("area", AREAS)
def test_every_view_has_its_box_and_the_image_differs_there(area: str, kind: str) -> None:
    study = harmed(area)[kind]
    for view in range(1, study.views + 1):
        image, drawn, box = draw_view(study, view, size=192)
        assert drawn == kind
        assert box is not None
        x0, y0, x1, y1 = box
        assert 0 <= x0 < x1 <= image.shape[1]
        assert 0 <= y0 < y1 <= image.shape[0]
        change = difference(study, view, image)
        inside = change[y0:y1, x0:x1].copy()
        change[y0:y1, x0:x1] = 0
        assert inside.max() > 20
        # a displaced fragment and what hangs on it differ all along
        assert kind == "displacement" or inside.mean() > 4 * change.mean()
        assert kind != "hardware" or change.max() == 0


def difference(study: PhantomStudy, view: int, image: NDArray[np.uint8]) -> NDArray[np.float64]:
    whole, kind, box = draw_view(study, view, size=192, lesion=False)
    assert (kind, box) == ("", None)
    return np.abs(image.astype(float) - whole)


def test_lesions_lists_every_abnormal_image_and_no_other(root: Path) -> None:
    header, *lesions = rows(root / "lesions.csv")
    assert header == ["path", "kind", "x0", "y0", "x1", "y1"]
    images = [
        row[0] for split in ("train", "valid") for row in rows(root / f"{split}_image_paths.csv")
    ]
    assert [row[0] for row in lesions] == [path for path in images if "_positive" in path]


def test_nothing_trivial_tells_the_label() -> None:
    plan = [(s, 1) for a in ("XR_WRIST", "XR_SHOULDER") for s in plan_studies("train", a, 50, 0)]
    images = [draw_view(study, view, size=64)[0] for study, view in plan]
    label = np.array([study.abnormal for study, _ in plan])
    for clue in (np.mean, np.std, np.max, lambda image: image.shape[0] / image.shape[1]):
        assert 0.38 < roc_auc_score(label, [clue(image) for image in images]) < 0.62
    eighths = [Image.fromarray(image).resize((8, 8), Image.Resampling.BOX) for image in images]
    pixels = np.stack([np.asarray(image).ravel() / 255 for image in eighths])
    half = np.arange(len(plan)) % 2 == 0
    model = LogisticRegression(C=1.0, max_iter=1000).fit(pixels[half], label[half])
    assert roc_auc_score(label[~half], model.decision_function(pixels[~half])) < 0.65


def test_a_second_call_returns_at_once(root: Path) -> None:
    def never(plan: object) -> list[PhantomStudy]:
        raise AssertionError("drew again")

    small(root, progress=never)


def test_an_interrupted_call_is_taken_up(tmp_path: Path) -> None:
    def stop(plan: object) -> list[PhantomStudy]:
        raise KeyboardInterrupt

    root = tmp_path / "p"
    with pytest.raises(KeyboardInterrupt):
        tiny(root, progress=stop)
    assert not any((root / table).exists() for table in TABLES)
    tiny(root)
    assert all((root / table).exists() for table in TABLES)


def test_other_arguments_are_refused(root: Path) -> None:
    before = content(root)
    with pytest.raises(InputError, match="choose another folder"):
        small(root, seed=1)
    assert content(root) == before


@pytest.mark.parametrize("table", TABLES)
def test_another_dataset_is_never_written_over(table: str, tmp_path: Path) -> None:
    (tmp_path / table).write_text("MURA-v1.1/train/XR_WRIST/patient00001/study1_positive/,1\n")
    with pytest.raises(InputError, match="not made by the phantom"):
        small(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [table]


def test_an_edited_table_is_refused(root: Path, tmp_path: Path) -> None:
    edited = shutil.copytree(root, tmp_path / root.name)
    with (edited / "train_image_paths.csv").open("a") as file:
        file.write("MURA-v1.1/train/XR_WRIST/other.png\n")
    with pytest.raises(InputError, match="changed since it was made"):
        small(edited)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"areas": ("XR_KNEE",)}, "XR_KNEE"),
        ({"areas": ()}, "areas"),
        ({"patients": 0}, "patients=0"),
        ({"size": 8}, "size=8"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_bad_arguments_are_named(
    arguments: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        small(tmp_path / "p", **arguments)
    assert not (tmp_path / "p").exists()


def test_contact_sheet_has_a_row_for_each_area(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "docs" / "sheet.png"
    draw_contact_sheet(root, out)
    with Image.open(out) as sheet:
        assert sheet.width == 1200
        assert sheet.height > 2 * 176


@pytest.mark.parametrize("name", ["a,b", 'a"b', "a\nb", os.fsdecode(b"R\xf6ntgen"), "My Drive"])
def test_it_can_be_read_in_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    tiny(tmp_path / name)
    before = content(tmp_path / name)
    tiny(tmp_path / name)
    assert content(tmp_path / name) == before
    assert index_mura(tmp_path / name).areas() == ["XR_WRIST"]


def test_a_disk_that_fills_up_is_told_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", full)
        with pytest.raises(OSError, match=r"No space left on device: '.*train/XR_WRIST/.*\.png'"):
            tiny(tmp_path / "out")
    tiny(tmp_path / "out")  # the same line goes on
    assert index_mura(tmp_path / "out").areas() == ["XR_WRIST"]


def test_arguments_are_noted(root: Path) -> None:
    noted = json.loads((root / "phantom.json").read_text())
    assert noted == {
        "areas": ["XR_HAND", "XR_WRIST"],
        "patients": 4,
        "seed": 0,
        "size": 64,
        "look": LOOK_VERSION,
    }


def test_there_is_a_window_for_each_area() -> None:
    assert tuple(WINDOWS) == AREAS
