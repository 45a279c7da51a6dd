"""The losses: what they are by hand, how they agree, and that a step makes no tensor of its own."""

import numpy as np
import pytest
import torch
from test_fit import recipe, split

from mura_tune.training import losses

LOGITS = torch.tensor([-90.0, -2.0, -0.5, 0.0, 0.7, 3.0, 90.0]).view(-1, 1)
LABELS = torch.tensor([0, 1, 0, 1, 0, 1, 1])
TRAIN = split(20)


def value_and_slope(loss: losses.Loss) -> tuple[float, torch.Tensor]:
    logits = LOGITS.clone().requires_grad_()
    value = loss(logits, LABELS).mean()
    value.backward()
    assert logits.grad is not None
    return value.item(), logits.grad


def test_focal_is_cross_entropy_at_gamma_zero() -> None:
    given = {"class_weight": 1.7}
    bce = value_and_slope(losses.binary_loss(TRAIN, recipe(**given)))
    focal = value_and_slope(
        losses.binary_loss(TRAIN, recipe(loss="focal", focal_gamma=0.0, **given))
    )
    assert focal[0] == bce[0]
    assert torch.allclose(focal[1], bce[1], rtol=1e-6, atol=0)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_focal_is_its_formula(gamma: float) -> None:
    found = losses.binary_loss(TRAIN, recipe(loss="focal", focal_gamma=gamma, class_weight=3.0))
    p = 1 / (1 + np.exp(-LOGITS[1:-1, 0].double().numpy()))
    y = LABELS[1:-1].numpy()
    right = np.where(y == 1, p, 1 - p)
    expected = -np.where(y == 1, 3.0, 1.0) * (1 - right) ** gamma * np.log(right)
    assert found(LOGITS[1:-1], LABELS[1:-1]).tolist() == pytest.approx(expected.tolist(), rel=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 4.0])
def test_focal_has_a_slope_however_sure_the_logits_are(gamma: float) -> None:
    value, slope = value_and_slope(
        losses.binary_loss(TRAIN, recipe(loss="focal", focal_gamma=gamma))
    )
    assert np.isfinite(value)
    assert torch.isfinite(slope).all()


@pytest.mark.parametrize("loss", ["bce", "focal"])
def test_a_smoothed_label_divides_its_share_and_keeps_its_weight(loss: str) -> None:
    given = {"loss": loss, "class_weight": 3.0}
    found = losses.binary_loss(TRAIN, recipe(label_smoothing=0.2, **given))
    plain = losses.binary_loss(TRAIN, recipe(**given))
    unweighed = losses.binary_loss(TRAIN, recipe(loss=loss))
    weights = torch.where(LABELS == 1, 3.0, 1.0)
    expected = 0.9 * plain(LOGITS, LABELS) + 0.1 * weights * unweighed(LOGITS, 1 - LABELS)
    assert torch.allclose(found(LOGITS, LABELS), expected, rtol=1e-6)


def test_the_positive_weight_makes_classes_count_alike() -> None:
    part = split(40)
    part.labels[:] = 0
    part.labels[:8] = 1
    assert losses.positive_weight(part, recipe()) == 4.0
    assert losses.positive_weight(part, recipe(class_weight=0.5)) == 2.0


def test_the_weight_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    real = torch.tensor
    monkeypatch.setattr(
        losses.torch, "tensor", lambda *args, **kw: (made.append(args), real(*args, **kw))[1]
    )
    loss = losses.binary_loss(TRAIN, recipe())
    for _ in range(3):
        loss(LOGITS, LABELS)
    assert len(made) == 1
