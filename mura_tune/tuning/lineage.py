"""A start may not have learned from the patients that a study is judged by."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mura_tune.config import Holdout
from mura_tune.data import splits
from mura_tune.data.prepare import Prepared
from mura_tune.errors import InputError
from mura_tune.learning.starts import DIGITS, Origin, origin


def clean_or_refuse(sources: Iterable[str], prepared: Prepared, split: Holdout) -> None:
    """Refuse starts that know the studies they would be judged by; see `_judge`."""
    for source in sources:
        if found := origin(source):
            _judge(source, found, prepared, split)


def _judge(source: str, start: Origin, prepared: Prepared, split: Holdout) -> None:
    """Compare what a release learned from with dev (of every fold) and test.

    A picture of test in its list is a leak, whatever divided the data. Dev is a matter of
    patients, who may be in areas that are not looked at here: since a patient's part is a function
    of the split and the patient alone, it is asked again with the start's split. A start of the
    same areas that lists none of these pictures is of another dataset, and may be divided anyhow.

    Raises:
        InputError: with the number of pictures or patients.
    """
    frame = prepared.frame
    test = frame["part"] == "test"
    if start.pictures is not None:
        known = np.array([sha[:DIGITS] in start.pictures for sha in prepared.pictures])
        if leaked := int((known & test).sum()):
            raise InputError(
                f"pretrained: {source}: it was trained on {leaked} of the {int(test.sum())} test "
                "pictures; take a start that has not seen them"
            )
        if start.areas & set(prepared.areas) and not known.any():
            return
    judged = ~test if split.folds else frame["part"] == "dev"
    learned = splits.assign(frame, start.split.dev, start.split.seed) == "train"
    patients = frame["patient"]
    if leaked := patients[judged & learned].nunique():
        same = start.split.dev, start.split.seed
        raise InputError(
            f"pretrained: {source}: it was trained on {leaked} of the {patients[judged].nunique()} "
            f"patients that would judge it ({'in turn, by folds' if split.folds else 'dev'}); "
            f"divide them as it was: --set split.dev={same[0]} --set split.seed={same[1]} "
            "--set split.folds=0"
        )
