"""A start may not have learned from who judges a study: pictures for test, patients for dev."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mura_tune import config
from mura_tune.config import Holdout
from mura_tune.data import splits
from mura_tune.data.prepare import Prepared
from mura_tune.data.records import Digests
from mura_tune.errors import InputError
from mura_tune.networks.factory import build_network
from mura_tune.networks.starts import DIGEST_DIGITS, TRAINED_ON
from mura_tune.release.release import list_training_pictures, save_release
from mura_tune.release_format.manifest import parse_manifest
from mura_tune.search.comparable import clean_or_refuse

USUAL = Holdout(dev=0.2, seed=0, folds=0)


def prepared(area: str, split: Holdout, owner: str = "") -> Prepared:
    """A view each of 200 patients, every fifth in valid; the pictures are `owner`'s."""
    names = [f"patient{n:03d}" for n in range(200)]
    frame = pd.DataFrame(
        {
            "path": names,
            "area": area,
            "patient": names,
            "study": names,
            "label": 0,
            "published": ["valid" if n % 5 == 0 else "train" for n in range(200)],
        }
    )
    shas = [hashlib.sha256(f"{owner} {area} {name}".encode()).hexdigest() for name in names]
    assigned = splits.assign_splits(frame, split.dev, split.seed, column="published")
    frame = frame.assign(split=assigned, row=range(200))
    pixels = np.empty((0, 32, 32), np.uint8)
    return Prepared(area, pixels, Digests.of(shas), frame, (), (), "", "", Path())


def released(folder: Path, of: Prepared, split: Holdout, listed: bool = True) -> str:
    """A release that says it was trained on `of`."""
    study = config.load_config(of.area, ["arch=cnn", "size=32", "pretrained=none"])
    study = dataclasses.replace(study, split=split)
    manifest = {
        "schema": 2,
        "area": of.area,
        "arch": "cnn",
        "outputs": 1,
        "areas": list(of.areas),
        "preprocessing": {"size": 32},
        "study": {"config": config.config_to_dict(study)},
    }
    texts = {TRAINED_ON: list_training_pictures(of)} if listed else {}
    save_release(
        folder / of.area, build_network("cnn"), parse_manifest(manifest, "for a test"), texts
    )
    return str(folder / of.area)


@pytest.mark.parametrize(
    ("area", "listed", "split"),
    [
        ("XR_WRIST", True, USUAL),
        ("XR_WRIST", True, Holdout(dev=0.1, seed=0, folds=0)),  # within the start's own dev part
        ("XR_ELBOW", True, USUAL),
        ("XR_WRIST", False, USUAL),
    ],
)
def test_a_start_that_was_divided_alike_may_be_used(
    tmp_path: Path, area: str, listed: bool, split: Holdout
) -> None:
    start = released(tmp_path, prepared("XR_WRIST", USUAL), USUAL, listed)
    clean_or_refuse([start], prepared(area, split), split)


@pytest.mark.parametrize(
    "split",
    [
        Holdout(dev=0.2, seed=1, folds=0),
        Holdout(dev=0.3, seed=0, folds=0),
        Holdout(dev=0.2, seed=0, folds=3),
    ],
    ids=["seed", "larger", "folds"],
)
@pytest.mark.parametrize(
    ("area", "listed"), [("XR_WRIST", True), ("XR_ELBOW", True), ("XR_WRIST", False)]
)
def test_a_start_that_was_divided_otherwise_is_refused(
    tmp_path: Path, area: str, listed: bool, split: Holdout
) -> None:
    start = released(tmp_path, prepared("XR_WRIST", USUAL), USUAL, listed)
    own = prepared(area, split)
    judged = own.frame["split"] != "test" if split.folds else own.frame["split"] == "dev"
    trained = prepared("XR_WRIST", USUAL).frame["split"] == "train"
    told = f"trained on {int((judged & trained).sum())} of the {int(judged.sum())} patients"
    with pytest.raises(InputError, match=told):
        clean_or_refuse([start], own, split)
    with pytest.raises(
        InputError, match=r"split\.dev=0\.2 --set split\.seed=0 --set split\.folds=0"
    ):
        clean_or_refuse(["none", start], own, split)


def test_another_datasets_release_may_be_divided_anyhow(tmp_path: Path) -> None:
    start = released(tmp_path, prepared("XR_WRIST", USUAL, owner="theirs"), USUAL)
    other = Holdout(dev=0.3, seed=7, folds=3)
    clean_or_refuse([start], prepared("XR_WRIST", other), other)


def test_a_start_that_has_seen_a_test_picture_is_refused(tmp_path: Path) -> None:
    theirs, own = prepared("XR_WRIST", USUAL, owner="theirs"), prepared("XR_WRIST", USUAL)
    leaked = own.pictures[own.rows("test")[0]]
    shas = [
        leaked if split == "train" else sha
        for sha, split in zip(theirs.pictures, theirs.frame["split"], strict=True)
    ]
    theirs = dataclasses.replace(theirs, pixel_sha=Digests.of(shas))
    start = released(tmp_path, theirs, USUAL)
    with pytest.raises(InputError, match="trained on 1 of the 40 test pictures"):
        clean_or_refuse([start], own, USUAL)


def test_a_list_of_pictures_that_was_changed_is_not_believed(tmp_path: Path) -> None:
    start = released(tmp_path, prepared("XR_WRIST", USUAL), USUAL)
    (Path(start) / TRAINED_ON).write_text("0" * DIGEST_DIGITS)
    with pytest.raises(InputError, match=r"trained_on\.txt: not as released"):
        clean_or_refuse([start], prepared("XR_WRIST", USUAL), USUAL)


def test_weights_without_a_release_have_no_lineage(tmp_path: Path) -> None:
    other = Holdout(dev=0.3, seed=7, folds=3)
    clean_or_refuse(["none", "imagenet", str(tmp_path / "some.pt")], prepared("A", other), other)
