"""splits: patients never cross, additions move nobody, unlucky draws are refused."""

import os

import numpy as np
import pandas as pd
import pytest

from mura_tune.data import splits
from mura_tune.data.duplicates import NearCopy
from mura_tune.data.records import Digests
from mura_tune.errors import InputError

AREAS = ("XR_ELBOW", "XR_HAND", "XR_WRIST")


def people(count: int, published: int = 0, first: int = 0) -> pd.DataFrame:
    """Make patients with a study of either label in one to three areas; the last are valid."""
    rng = np.random.default_rng(count + first)
    rows = []
    for number in range(first, first + count):
        patient, split = (
            f"patient{number:05d}",
            "valid" if number >= first + count - published else "train",
        )
        for area in rng.permutation(AREAS)[: rng.integers(1, 4)]:
            for label in rng.permutation([0, 1])[: rng.integers(1, 3)]:
                study = f"{area}/{patient}/study{label}"
                rows.append(
                    (f"{split}/{study}/image1.png", area, patient, study, int(label), split)
                )
    return pd.DataFrame(rows, columns=["path", "area", "patient", "study", "label", "split"])


@pytest.mark.parametrize("published", [0, 60])
@pytest.mark.parametrize("seed", range(8))
def test_no_patient_is_in_two_splits_in_any_area(seed: int, published: int) -> None:
    frame = people(400, published)
    assert frame.groupby("patient")["area"].nunique().max() == 3
    assert frame.groupby("patient")["label"].nunique().max() == 2
    parts = splits.assign_splits(frame, 0.2, seed)
    assert frame.groupby("patient")["area"].count().gt(1).any()
    assert parts.groupby(frame["patient"]).nunique().eq(1).all()
    assert set(parts) == {"train", "dev", "test"}
    for area in AREAS:  # one area alone is divided as it is among the others
        rows = frame["area"] == area
        pd.testing.assert_series_equal(splits.assign_splits(frame[rows], 0.2, seed), parts[rows])


@pytest.mark.parametrize("published", [0, 60])
def test_adding_patients_moves_nobody(published: int) -> None:
    frame = people(300, published)
    more = pd.concat([people(200, first=1000), frame], ignore_index=True)
    before = dict(zip(frame["patient"], splits.assign_splits(frame, 0.2, 3), strict=True))
    after = dict(zip(more["patient"], splits.assign_splits(more, 0.2, 3), strict=True))
    assert {patient: after[patient] for patient in before} == before


def test_the_published_valid_split_is_exactly_the_test_split() -> None:
    frame = people(300, 50)
    parts = splits.assign_splits(frame, 0.2, 0)
    assert ((parts == "test") == (frame["split"] == "valid")).all()


@pytest.mark.parametrize("dev", [0.1, 0.3])
def test_shares_are_near_the_ones_asked_for(dev: float) -> None:
    frame = people(3000)
    parts = splits.assign_splits(frame, dev, 5).groupby(frame["patient"]).first()
    assert (parts == "test").mean() == pytest.approx(0.2, abs=0.03)
    assert (parts[parts != "test"] == "dev").mean() == pytest.approx(dev, abs=0.03)


def test_the_seed_moves_dev_but_never_the_test_patients() -> None:
    frame = people(300)
    one, two = splits.assign_splits(frame, 0.2, 1), splits.assign_splits(frame, 0.2, 2)
    assert ((one == "test") == (two == "test")).all()
    assert (one != two).any()


@pytest.mark.parametrize("dev", [0, 1, 1.5, -0.1, float("nan")])
def test_a_share_outside_zero_and_one_is_refused(dev: float) -> None:
    with pytest.raises(InputError, match=r"split\.dev: .* is not between 0 and 1"):
        splits.assign_splits(people(5), dev, 0)


def test_folds_are_even_keep_patients_whole_and_stay() -> None:
    frame = people(2000)
    folds = splits.assign_folds(frame, 5, 0)
    assert folds.groupby(frame["patient"]).nunique().eq(1).all()
    shares = folds.groupby(frame["patient"]).first().value_counts(normalize=True)
    assert sorted(shares.index) == [0, 1, 2, 3, 4]
    assert shares.to_numpy() == pytest.approx(0.2, abs=0.03)
    more = pd.concat([frame, people(50, first=9000)], ignore_index=True)
    assert splits.assign_folds(more, 5, 0)[: len(frame)].equals(folds)
    with pytest.raises(InputError, match="too few"):
        splits.assign_folds(frame, 1, 0)


def rows(*cells: tuple[str, int, str, str]) -> pd.DataFrame:
    """Make a frame of (path, label, split, pixels)."""
    frame = pd.DataFrame(cells, columns=["path", "label", "split", "sha"])
    return frame.assign(study=frame["path"], area="XR_HAND")


BOTH = [(f"{split}{label}", label, split, "") for split in splits.SPLITS for label in (0, 1)]


def test_both_classes_everywhere_pass() -> None:
    splits.check_classes(rows(*BOTH), "split", "XR_HAND")


@pytest.mark.parametrize(
    ("without", "told"),
    [
        ("train0", "XR_HAND: split train has 0 normal and 1 abnormal studies.*split.seed"),
        ("dev1", "split dev has 1 normal and 0 abnormal studies.*split.seed"),
        ("test1", "split test has 1 normal and 0 abnormal studies.*add patients"),
    ],
)
def test_a_split_of_one_class_is_refused_with_its_counts(without: str, told: str) -> None:
    frame = rows(*(cells for cells in BOTH if cells[0] != without))
    with pytest.raises(InputError, match=told):
        splits.check_classes(frame, "split", "XR_HAND")


def test_an_empty_split_is_refused_unless_it_is_not_asked_for() -> None:
    frame = rows(*(cells for cells in BOTH if cells[2] != "test"))
    splits.check_classes(frame, "split", "XR_HAND", splits=("train", "dev"))
    with pytest.raises(InputError, match="test has 0 normal and 0 abnormal"):
        splits.check_classes(frame, "split", "XR_HAND")


def shas(frame: pd.DataFrame) -> Digests:
    """Of pictures that are named by one digit each."""
    return Digests.of([digit * 64 for digit in frame["sha"]])


def test_copies_are_left_out_of_the_split_before() -> None:
    frame = rows(
        ("a", 0, "train", "1"),
        ("b", 0, "test", "1"),
        ("c", 0, "dev", "1"),
        ("d", 0, "train", "2"),
        ("e", 0, "dev", "2"),
        ("f", 0, "train", "3"),
        ("g", 0, "train", "3"),  # copies within a split stay
    )
    found = splits.find_leaks(frame, shas(frame))
    assert [finding.path for finding in found] == ["a", "c", "d"]
    assert {finding.kind for finding in found} == {"two splits"}
    assert found[0].detail == "left out of train: same pixels as b in test"
    kept = frame[~frame["path"].isin([finding.path for finding in found])]
    assert kept.groupby("sha")["split"].nunique().eq(1).all()


def test_near_copies_are_left_out_of_the_split_before() -> None:
    frame = rows(
        ("a", 0, "train", "1"),
        ("b", 0, "test", "2"),
        ("c", 0, "dev", "3"),
        ("d", 0, "train", "4"),
        ("e", 0, "dev", "5"),
        ("f", 0, "dev", "2"),  # the pixels of b
        ("g", 0, "train", "6"),
        ("h", 0, "train", "5"),  # the pixels of e, and a near-copy of i in test: the first counts
        ("i", 0, "test", "7"),
    )
    alike = [
        ("1", "2", 0.95),
        ("3", "2", 0.97),
        ("1", "3", 0.99),
        ("5", "4", 0.96),
        ("6", "f", 0.96),
        ("7", "5", 0.94),
    ]
    near = [NearCopy(one * 64, other * 64, found) for one, other, found in alike]
    found = splits.find_leaks(frame, shas(frame), near)
    assert "".join(f.path for f in found if f.kind == "near-copy") == "acde"
    assert "".join(f.path for f in found if f.kind == "two splits") == "fh"
    assert found[0].detail == "left out of train: a near-copy of b in test (correlation 0.950)"
    kept = frame[~frame["path"].isin([finding.path for finding in found])]
    assert splits.find_leaks(kept, shas(kept), near) == ()
    hashes = {splits.hash_splits(frame, copies=copies) for copies in ((), ("a",), ("a", "c"))}
    assert len(hashes) == 3
    assert splits.hash_splits(frame) in hashes
    assert splits.hash_splits(frame, copies=[os.fsdecode(b"\xff.dcm")]) not in hashes


def test_the_split_hash_ignores_order_and_sees_a_move() -> None:
    frame = rows(*BOTH)
    assert splits.hash_splits(frame) == splits.hash_splits(frame[::-1])
    moved = frame.assign(split=frame["split"].where(frame["path"] != "train0", "dev"))
    assert splits.hash_splits(frame) != splits.hash_splits(moved)
