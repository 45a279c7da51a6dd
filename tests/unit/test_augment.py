"""Augmentation: untouched at 0, bounded, and drawn per image whatever the batch."""

import numpy as np
import pytest
import torch

from mura_tune.learning.augment import DRAWS, augment, draws


def batch(n: int = 6, side: int = 33) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).random((n, 1, side, side), dtype=np.float32))


def test_strength_zero_changes_nothing() -> None:
    x = batch()
    assert torch.equal(augment(x, torch.from_numpy(draws(0, 1, 6)), 0.0), x)


@pytest.mark.parametrize("strength", [0.25, 0.5, 1.0])
def test_images_change_and_stay_in_range(strength: float) -> None:
    x = batch()
    out = augment(x.clone(), torch.from_numpy(draws(0, 1, 6)), strength)
    assert out.shape == x.shape
    assert (out >= 0).all()
    assert (out <= 1).all()
    assert (out - x).abs().mean() > 0.02


def test_draws_neutral_but_for_the_flip_give_the_mirror_image() -> None:
    x = batch()
    neutral = torch.full((6, DRAWS), 0.5)
    assert torch.allclose(augment(x.clone(), neutral, 1.0), x, atol=1e-5)
    neutral[:, 0] = 0.1
    assert torch.allclose(augment(x.clone(), neutral, 1.0), x.flip(-1), atol=1e-5)


def test_a_quarter_of_the_strength_moves_less() -> None:
    yy, xx = torch.meshgrid(torch.arange(33.0), torch.arange(33.0), indexing="ij")
    blob = torch.exp(-((yy - 16) ** 2 + (xx - 22) ** 2) / 20).expand(40, 1, 33, 33)
    u = torch.from_numpy(draws(0, 1, 40))
    u[:, 0] = 0.9
    moved = [(augment(blob.clone(), u, s) - blob).abs().mean() for s in (0.25, 1.0)]
    assert moved[0] < moved[1] / 2


def test_an_image_is_drawn_by_seed_epoch_and_index_alone() -> None:
    assert (draws(3, 2, 5) == draws(3, 2, 50)[:5]).all()
    assert (draws(3, 2, 5) != draws(3, 3, 5)).any()
    assert (draws(3, 2, 5) != draws(4, 2, 5)).any()
    x, u = batch(), torch.from_numpy(draws(0, 1, 6))
    together = augment(x.clone(), u, 1.0)
    alone = torch.cat([augment(x[i : i + 1].clone(), u[i : i + 1], 1.0) for i in range(6)])
    assert torch.allclose(together, alone, atol=1e-6)
