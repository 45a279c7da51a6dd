"""A stepped phase: what a step's loss is, and how far it goes."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_fit import DEV, TRAIN, recipe
from torch import Tensor

from mura_tune.networks.factory import build_network
from mura_tune.recipe import Recipe
from mura_tune.training.batches import training_batches
from mura_tune.training.feature_cache import FeatureStore
from mura_tune.training.feeds import FeatureSource
from mura_tune.training.fit import fit, predict
from mura_tune.training.steps import draw_shares
from mura_tune.training.tasks import ABNORMALITY_TASK

HEAD_ALONE = {"augment": 0.0, "finetune.epochs": 0}


def moved(given: Recipe) -> Tensor:
    """How far a run moved all weights, (D,)."""
    net = build_network("cnn", seed=0)
    before = torch.cat([p.detach().flatten().clone() for p in net.parameters()])
    fit(net, TRAIN, DEV, given, ABNORMALITY_TASK)
    return torch.cat([p.detach().flatten() for p in net.parameters()]) - before


def test_a_clipped_step_has_the_gradients_direction_and_no_larger_norm() -> None:
    """One step of SGD, which is the learning rate times the gradient."""
    one_step = {"optimiser": "sgd", "weight_decay": 0.0, "schedule": "constant", "batch": 64}
    phases = {"head.epochs": 0, "finetune.epochs": 1, "finetune.lr": 0.1, "keep": "last"}
    free = moved(recipe(**one_step, **phases))
    norm = float(free.norm()) / 0.1
    short = moved(recipe(**one_step, **phases, clip=norm / 10))
    assert float(short.norm()) == pytest.approx(0.1 * norm / 10, rel=1e-3)
    assert float(F.cosine_similarity(short, free, dim=0)) == pytest.approx(1, abs=1e-5)
    assert torch.allclose(moved(recipe(**one_step, **phases, clip=norm * 10)), free, atol=1e-8)


@pytest.mark.parametrize("weigh", ["view", "study"])
def test_mixup_mixes_views_and_their_losses_alike(weigh: str) -> None:
    """Steps so small that no weight moves; every study has two views, so that `weigh` is 1."""
    given = recipe(mixup=0.4, weigh=weigh, **HEAD_ALONE, **{"head.lr": 1e-12})
    net = build_network("cnn", seed=0)
    batches = list(
        training_batches(TRAIN, size=16, seed=0, epoch=1, strength=0.0, device=torch.device("cpu"))
    )
    shares = draw_shares(0.4, 0, 1, len(batches))
    losses = []
    for (x, rows), share in zip(batches, shares.tolist(), strict=True):
        before = np.roll(np.arange(len(rows)), 1)
        with torch.no_grad():
            logits = net.eval()(share * x + (1 - share) * x[before])[:, 0].double().numpy()
        labels = TRAIN.labels[rows].numpy()
        own, other = (np.log1p(np.exp(logits * (1 - 2 * y))) for y in (labels, labels[before]))
        losses.append(np.mean(share * own + (1 - share) * other))
    found = fit(net, TRAIN, DEV, given, ABNORMALITY_TASK).epochs[0].loss
    assert found == pytest.approx(float(np.mean(losses)), rel=1e-5)


def test_shares_are_those_of_seed_and_epoch_and_lie_on_both_sides() -> None:
    shares = draw_shares(0.2, 3, 1, 1000)
    assert np.array_equal(shares, draw_shares(0.2, 3, 1, 1000))
    assert not np.array_equal(shares, draw_shares(0.2, 3, 2, 1000))
    assert shares.mean() == pytest.approx(0.5, abs=0.05)
    assert shares.var() == pytest.approx(1 / (4 * (2 * 0.2 + 1)), rel=0.1)  # of the distribution


def test_mixup_is_the_same_with_and_without_stored_features(tmp_path: Path) -> None:
    given = recipe(mixup=0.4, **HEAD_ALONE)
    source = FeatureSource(FeatureStore(tmp_path))
    plain = fit(build_network("cnn", seed=0), TRAIN, DEV, given, ABNORMALITY_TASK)
    for _ in range(2):
        stored = fit(
            build_network("cnn", seed=0), TRAIN, DEV, given, ABNORMALITY_TASK, source=source
        )
        assert torch.equal(stored.logits, plain.logits)


def test_with_flips_dev_is_judged_by_each_view_and_its_mirror_image(tmp_path: Path) -> None:
    values = {"keep": "last", "finetune.lr": 1e-2}
    given = recipe(flip_test=True, **values)
    source = FeatureSource(FeatureStore(tmp_path))
    net, other = (ABNORMALITY_TASK.start(given, TRAIN) for _ in range(2))
    result = fit(net, TRAIN, DEV, given, ABNORMALITY_TASK, source=source)
    plain = fit(other, TRAIN, DEV, recipe(**values), ABNORMALITY_TASK)
    assert isinstance(DEV.pixels, Tensor)
    mirrored = dataclasses.replace(DEV, pixels=DEV.pixels.flip(2))
    mean = (predict(other, DEV) + predict(other, mirrored)) / 2
    assert torch.allclose(result.logits, mean, atol=1e-5)
    assert torch.equal(predict(net, DEV), result.logits)
    assert not torch.allclose(result.logits, plain.logits, rtol=1e-3)
