"""Two releases are paired study by study, or refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mura_tune.errors import InputError
from mura_tune.evaluation import routing
from mura_tune.evaluation.compare import compare_releases, compare_routers
from mura_tune.evaluation.decision import average_split, choose_decision
from mura_tune.evaluation.evaluate import Evaluation, evaluate_logits
from mura_tune.evaluation.routing import RouterEvaluation
from mura_tune.metrics.comparison import compare_by_delong
from mura_tune.training.batches import Split

NAMES = ("one", "two")


def model(noise: float, n: int = 120, first: int = 0) -> Evaluation:
    rng = np.random.default_rng(7)
    labels, hard = rng.integers(0, 2, n), rng.normal(size=n)
    logits = 2 * labels - 1 + hard + noise * np.random.default_rng(3).normal(size=n)
    names = np.array([f"s{i + first:04}" for i in range(n)])
    split = Split(
        name="test",
        pixels=torch.zeros(n, 1, 1, dtype=torch.uint8),
        labels=torch.from_numpy(labels),
        studies=names,
        patients=np.array([f"p{i // 2}" for i in range(n)]),
        paths=names,
    )
    logits_nk = torch.from_numpy(logits)[:, None]
    return evaluate_logits(logits_nk, split, choose_decision(average_split(logits_nk, split)))


def test_differences_are_ours_minus_theirs_with_paired_intervals() -> None:
    good, bad = model(0.0), model(3.0)
    found = compare_releases("XR_TEST", NAMES, good, bad)
    for name, difference in found.differences.items():
        expected = good.by_study[name].value - bad.by_study[name].value
        assert difference.value == pytest.approx(expected), name
        assert difference.low <= difference.value <= difference.high
    assert found.differences["auc"].low > 0
    assert found.delong == compare_by_delong(good.studies, bad.studies)
    assert found.delong.p < 0.01
    told = found.describe()
    assert "one minus two, test (published valid), 120 studies of 60 patients" in told
    assert "as if every study were a patient's only one" in told
    assert found.to_json()["delong"]["p"] == found.delong.p


def test_a_release_does_not_differ_from_itself() -> None:
    found = compare_releases("XR_TEST", NAMES, model(1.0), model(1.0))
    assert all((d.value, d.low, d.high) == (0, 0, 0) for d in found.differences.values())
    assert found.delong.p == 1


def test_other_studies_are_refused() -> None:
    with pytest.raises(InputError, match="measured on other studies"):
        compare_releases("XR_TEST", NAMES, model(1.0), model(1.0, first=5))


def router(sure: float, seed: int, studies: int = 90) -> RouterEvaluation:
    rng = np.random.default_rng(seed)
    parts = np.arange(studies) % 3
    names = np.array([f"s{i:03}" for i in range(studies)])
    split = Split(
        name="test",
        pixels=torch.zeros(studies, 1, 1, dtype=torch.uint8),
        labels=torch.zeros(studies, dtype=torch.int64),
        studies=names,
        patients=np.array([f"p{i // 2}" for i in range(studies)]),
        paths=names,
        areas=("XR_A", "XR_B", "XR_C"),
        area_labels=torch.from_numpy(parts),
    )
    logits = rng.normal(size=(studies, 3))
    logits[np.arange(studies), parts] += sure
    logits_nk = torch.from_numpy(logits)
    return routing.evaluate_router(
        logits_nk, split, routing.choose_router_decision(logits_nk, split)
    )


def test_routers_are_paired_by_what_they_recognise() -> None:
    good, bad = router(4.0, 1), router(0.5, 2)
    found = compare_routers("router", NAMES, good, bad)
    gap = good.recognition.scores["accuracy"].value - bad.recognition.scores["accuracy"].value
    assert found.differences["accuracy"].value == pytest.approx(gap)
    assert found.differences["accuracy"].low > 0
    recall = [one.recognition.recall["XR_B"].value for one in (good, bad)]
    assert found.differences["recall 1"].value == pytest.approx(recall[0] - recall[1])
    told = found.describe()
    assert "one minus two, test (published valid), 90 studies of 45 patients" in told
    assert f"{recall[0]:.3f} and {recall[1]:.3f}" in told
    assert "XR_B recognised" in told
    assert found.to_json()["delong"] is None
    with pytest.raises(InputError, match="measured on other studies"):
        compare_routers("router", NAMES, good, router(4.0, 1, studies=60))


def test_one_measure_is_primary_and_what_cannot_be_seen_is_said() -> None:
    found = compare_releases("XR_TEST", NAMES, model(0.0), model(0.3))
    told = found.describe()
    assert "AUC is the primary measure; the other 9 intervals are not adjusted" in told
    assert found.smallest_difference is not None
    auc = found.differences["auc"]
    assert (auc.high - auc.low) / 2 < found.smallest_difference < 0.2
    assert f"a difference of {found.smallest_difference:.3f} in AUC is found" in told
    assert "test of this area" not in told
    logged = replace(found, ours=replace(found.ours, uses_before=3))
    assert "  test of this area was read 3 times before" in logged.describe()


def test_a_measure_that_a_release_does_not_have_is_undefined() -> None:
    good = model(0.0)
    none = replace(good.by_study["ppv"], value=np.nan, low=np.nan, high=np.nan)
    none_abnormal = replace(
        good,
        decision=replace(good.decision, points={"prevalence": 1.0}),
        by_study=good.by_study | {"ppv": none},
    )
    found = compare_releases("XR_TEST", NAMES, good, none_abnormal)
    (row,) = [line.split() for line in found.describe().splitlines() if "PPV" in line]
    assert row == ["PPV", "undefined", f"{good.by_study['ppv'].value:.3f}", "and", "undefined"]


def test_with_few_patients_of_a_class_nothing_is_claimed() -> None:
    good, bad = (model(noise, n=14) for noise in (0.0, 3.0))
    assert good.studies.rarer_patients < 10
    found = compare_releases("XR_TEST", NAMES, good, bad)
    told = found.describe()
    assert f"no claim: the rarer class has {found.few} patients" in told
    assert "(too few patients)" in told
    assert "[" not in told
    assert "DeLong" not in told
    assert found.smallest_difference is found.to_json()["smallest_difference"] is None
    assert (found.differences["auc"].low, found.differences["auc"].high) == (-1, 1)
