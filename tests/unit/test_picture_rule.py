"""The rule of the picture refuses what is no radiograph before any network has seen it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from untrained import CPU

from mura_tune.evaluation import picture_rule
from mura_tune.evaluation.familiarity import SHARE
from mura_tune.evaluation.picture_rule import PictureRule, choose_picture_rule, sample_studies
from mura_tune.metrics.distances import largest_by_study
from mura_tune.training.batches import Split, to_input


def test_pictures_that_are_none_of_radiographs_lie_beyond_the_bound(
    pictures_rule: PictureRule,
) -> None:
    rng = np.random.default_rng(0)
    frames = [np.full((32, 32), level) for level in (0, 40, 128, 255)]
    noise = [rng.integers(0, 256, (32, 32)), np.clip(rng.normal(128, 30, (32, 32)), 0, 255)]
    squares = torch.from_numpy(np.stack([*frames, *noise]).astype(np.uint8))
    assert (pictures_rule.measure(to_input(squares, CPU)) > 1).all()


def test_the_bound_is_of_patients_that_the_distribution_does_not_know(
    pictures_rule: PictureRule, everyone: Split
) -> None:
    _, inverse = np.unique(everyone.studies, return_inverse=True)
    known = largest_by_study(pictures_rule.measure(to_input(everyone.pixels[:], CPU)), inverse)
    assert pictures_rule.studies == len(known)
    assert pictures_rule.share == pytest.approx(1 / (pictures_rule.studies + 1))
    assert known.max() < 1  # by a distribution that knows them they lie nearer
    swapped = replace(everyone, patients=np.array([str(n) for n in range(len(everyone))], object))
    other = choose_picture_rule(swapped, SHARE)
    assert other is not None
    assert other.bound != pictures_rule.bound  # whose views are dealt apart


def test_a_rule_is_read_as_it_was_stored(pictures_rule: PictureRule, everyone: Split) -> None:
    read = PictureRule.from_arrays(pictures_rule.to_arrays())
    assert read is not None
    assert (read.bound, read.share, read.studies) == (
        pictures_rule.bound,
        pictures_rule.share,
        pictures_rule.studies,
    )
    x_nchw = to_input(everyone.pixels[:5], CPU)
    np.testing.assert_array_equal(read.measure(x_nchw), pictures_rule.measure(x_nchw))
    assert PictureRule.from_arrays({"scales": np.ones(2)}) is None
    with pytest.raises(ValueError, match="bound 0"):
        PictureRule.from_arrays({**pictures_rule.to_arrays(), "pictures.bound": np.array(0.0)})


def test_few_views_give_no_rule(everyone: Split) -> None:
    assert choose_picture_rule(everyone.take(np.arange(8)), SHARE) is None


def test_whole_studies_are_sampled(everyone: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(sample_studies(everyone)) == len(everyone)
    monkeypatch.setattr(picture_rule, "MOST_VIEWS", len(everyone) // 3)
    rows = sample_studies(everyone)
    assert 0 < len(rows) < len(everyone) / 2
    assert not set(everyone.studies[rows]) & set(np.delete(everyone.studies, rows))
