"""Solved heads: the minimum that steps would reach, found without them."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from test_fit import DEV, TRAIN, recipe
from torch import Tensor

from mura_tune.errors import InputError
from mura_tune.networks.factory import build_network
from mura_tune.recipe import Recipe
from mura_tune.training import solver
from mura_tune.training.batches import Split
from mura_tune.training.feature_cache import FeatureStore
from mura_tune.training.feeds import FeatureSource, pixel_feed
from mura_tune.training.fit import FitResult, fit
from mura_tune.training.tasks import ABNORMALITY_TASK, MULTI_TASK, ROUTER_TASK, Task

# What the networks below start with is not looked at; without a start no head is solved.
SOLVED = {"head.solver": "lbfgs", "finetune.depth": 0, "pretrained": "imagenet"}
AREAS = ("XR_ELBOW", "XR_HAND", "XR_WRIST")


def with_areas(part: Split) -> Split:
    """The split in which bright squares also tell the area."""
    return dataclasses.replace(part, areas=AREAS[:2], area_labels=part.labels.clone())


def solve(given: Recipe, task: Task = ABNORMALITY_TASK, train: Split = TRAIN) -> FitResult:
    outputs = task.outputs(len(train.areas))
    net = build_network("cnn", seed=given.seed, outputs=outputs, head=task.head)
    dev = DEV if not train.areas else with_areas(DEV)
    return fit(net, train, dev, given, task)


@pytest.mark.parametrize("weigh", ["view", "study"])
def test_a_solved_head_is_the_minimum_of_the_loss(
    weigh: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against scikit-learn's, of the same standardised features, weights and penalty."""
    monkeypatch.setattr(solver, "PENALTIES", (0.1,))
    given = recipe(class_weight=2.0, weigh=weigh, **SOLVED)
    names = [f"{label}-{i // (1 + 2 * label)}" for i, label in enumerate(TRAIN.labels.tolist())]
    train = dataclasses.replace(TRAIN, studies=np.array(names))
    result = solve(given, train=train)
    net = build_network("cnn", seed=given.seed)
    features = solver.read_features(net, pixel_feed(net, train, DEV, given, 0)).double().numpy()
    labels = TRAIN.labels.numpy()
    each = np.ones(len(labels))
    if weigh == "study":
        _, study, counts = np.unique(train.studies, return_inverse=True, return_counts=True)
        each = 1 / counts[study]
    positives = np.average(labels, weights=each)
    weights = np.where(labels, given.class_weight * (1 - positives) / positives, 1) * each
    weights /= each.sum()
    scale = features.std(0).clip(1e-3 * features.std(0).max())
    standard = (features - features.mean(0)) / scale
    model = LogisticRegression(C=1 / 0.1, tol=1e-10, max_iter=10_000)
    model.fit(standard, labels, sample_weight=weights)
    found = result.weights["fc.weight"][0].double().numpy() * scale
    assert np.allclose(found, model.coef_[0], atol=1e-4)


@pytest.mark.parametrize("loss", ["bce", "focal"])
def test_its_loss_is_below_that_of_many_steps(loss: str) -> None:
    """On the same features, with the penalty that the folds chose being a small one here."""
    solved = solve(recipe(loss=loss, **SOLVED))
    steps = {"augment": 0.0, "head.epochs": 15, "finetune.epochs": 0, "head.lr": 1e-3}
    stepped = solve(recipe(loss=loss, **steps))
    assert len(solved.epochs) == 1
    assert solved.epochs[0].loss < stepped.epochs[-1].loss
    assert solved.epoch.score > 0.6


def test_the_same_head_to_the_bit_from_pixels_and_from_stored_features(tmp_path: Path) -> None:
    given = recipe(**SOLVED, arch="resnet18")
    heads = []
    for source in (pixel_feed, *[FeatureSource(FeatureStore(tmp_path))] * 2):
        net = build_network("resnet18", seed=0)
        heads.append(fit(net, TRAIN, DEV, given, ABNORMALITY_TASK, source=source).weights)
    for other in heads[1:]:
        assert all(torch.equal(heads[0][name], other[name]) for name in other)


def test_flips_at_test_time_change_no_head() -> None:
    plain, flips = (solve(recipe(**SOLVED, flip_test=value)) for value in (False, True))
    assert all(torch.equal(plain.weights[name], flips.weights[name]) for name in plain.weights)
    assert not torch.equal(plain.logits, flips.logits)


def test_fine_tuning_goes_on_from_the_solution() -> None:
    result = solve(recipe(**SOLVED | {"finetune.epochs": 2, "finetune.depth": 2}))
    assert [(e.number, e.phase, e.depth) for e in result.epochs] == [
        (1, 1, 0),
        (2, 2, 2),
        (3, 2, 2),
    ]


@pytest.mark.parametrize("task", [ROUTER_TASK, MULTI_TASK])
def test_every_task_has_its_head_solved(task: Task) -> None:
    given = recipe(**SOLVED, aux_weight=0.5 if task is MULTI_TASK else 0.0)
    train = with_areas(TRAIN)
    first = solve(given, task, train)
    assert first.epochs[0].loss < float(_loss_of_nothing(task, given, train).mean())
    again = solve(given, task, train)
    assert all(torch.equal(first.weights[name], again.weights[name]) for name in first.weights)


def _loss_of_nothing(task: Task, given: Recipe, train: Split) -> Tensor:
    zeros = torch.zeros(len(train), task.outputs(len(train.areas)))
    return task.loss(train, given)(zeros, task.targets(train))


@pytest.mark.parametrize(
    ("arch", "told"),
    [("crossvit_tiny_240", "2 layers of 1 outputs")],
)
def test_a_head_that_is_no_single_layer_is_refused(arch: str, told: str) -> None:
    net = build_network(arch, size=240)
    with pytest.raises(InputError, match=told):
        solver.require_solvable(net, 240, 1)


def test_patients_are_dealt_whole_and_classes_evenly() -> None:
    patients = np.array([f"p{i // 3}" for i in range(90)])
    classes = (np.arange(90) // 3 % 3 == 0).astype(np.int64)
    folds = solver.deal_patients(patients, classes, 5)
    assert all(len(set(folds[patients == name])) == 1 for name in set(patients))
    assert {int(classes[folds == fold].sum()) for fold in range(5)} == {6}
