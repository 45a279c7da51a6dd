"""Augmentation: untouched at 0, bounded, and drawn per image whatever the batch."""

import numpy as np
import pytest
import torch

from mura_tune.training.augment import DRAWS_PER_VIEW, augment, draw_uniform


def batch(n: int = 11, side: int = 33) -> torch.Tensor:
    """More images than are warped at once."""
    drawn = np.random.default_rng(0).integers(0, 256, (n, side, side), dtype=np.uint8)
    return torch.from_numpy(drawn)


def unit(pixels: torch.Tensor) -> torch.Tensor:
    return pixels[:, None] / 255


def test_strength_zero_changes_nothing() -> None:
    x = batch()
    assert torch.equal(augment(x, torch.from_numpy(draw_uniform(0, 1, 11)), 0.0), unit(x))


@pytest.mark.parametrize("strength", [0.25, 0.5, 1.0])
def test_images_change_and_stay_in_range(strength: float) -> None:
    x = batch()
    out = augment(x, torch.from_numpy(draw_uniform(0, 1, 11)), strength)
    assert out.shape == (11, 1, 33, 33)
    assert (out >= 0).all()
    assert (out <= 1).all()
    assert (out - unit(x)).abs().mean() > 0.02


def test_draws_neutral_but_for_the_flip_give_the_mirror_image() -> None:
    x = batch()
    neutral = torch.full((11, DRAWS_PER_VIEW), 0.5)
    assert torch.allclose(augment(x, neutral, 1.0), unit(x), atol=1e-4)
    neutral[:, 0] = 0.1
    assert torch.allclose(augment(x, neutral, 1.0), unit(x).flip(-1), atol=1e-4)


def test_a_quarter_of_the_strength_moves_less() -> None:
    yy, xx = torch.meshgrid(torch.arange(33.0), torch.arange(33.0), indexing="ij")
    blob = (torch.exp(-((yy - 16) ** 2 + (xx - 22) ** 2) / 20) * 255).byte().expand(40, 33, 33)
    u = torch.from_numpy(draw_uniform(0, 1, 40))
    u[:, 0] = 0.9
    moved = [(augment(blob, u, s) - unit(blob)).abs().mean() for s in (0.25, 1.0)]
    assert moved[0] < moved[1] / 2


def test_an_image_is_drawn_by_seed_epoch_and_index_alone() -> None:
    assert (draw_uniform(3, 2, 5) == draw_uniform(3, 2, 50)[:5]).all()
    assert (draw_uniform(3, 2, 5) != draw_uniform(3, 3, 5)).any()
    assert (draw_uniform(3, 2, 5) != draw_uniform(4, 2, 5)).any()
    x, u = batch(), torch.from_numpy(draw_uniform(0, 1, 11))
    together = augment(x, u, 1.0)
    alone = torch.cat([augment(x[i : i + 1], u[i : i + 1], 1.0) for i in range(11)])
    assert torch.equal(together, alone)


def test_exposure_is_what_its_formula_says() -> None:
    """(x ^ gamma - 1/2) x contrast + 1/2 + brightness, in [0, 1]; beyond the edge, of black."""
    x, u = batch(), torch.full((11, DRAWS_PER_VIEW), 0.5)
    u[:, 6:] = torch.from_numpy(draw_uniform(1, 1, 11))[:, 6:]
    v = 2 * u - 1
    gamma, contrast = 1.5 ** v[:, 8].view(-1, 1, 1, 1), 1.6 ** v[:, 6].view(-1, 1, 1, 1)
    bright = 0.2 * v[:, 7].view(-1, 1, 1, 1)
    expected = ((unit(x) ** gamma - 0.5) * contrast + 0.5 + bright).clamp(0, 1)
    assert torch.allclose(augment(x, u, 1.0), expected, atol=1e-4)
    u[:, 3] = 1.0  # 0.12 of half a side to the left: two columns come from outside
    black = (0.5 - 0.5 * contrast + bright).clamp(0, 1)
    assert torch.allclose(augment(x, u, 1.0)[..., -1:], black.expand(-1, 1, 33, 1), atol=1e-4)
