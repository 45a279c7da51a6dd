"""The small network's last map: what a cell sees, and that it stands in the middle of it."""

import pytest
import torch

from mura_tune.networks.cnn import SmallCNN


@pytest.mark.parametrize("cell", [(3, 3), (2, 4)])
def test_a_cell_stands_in_the_middle_of_the_122_pixels_it_sees(cell: tuple[int, int]) -> None:
    net = SmallCNN().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(1 / 16 if parameter.ndim == 4 else 1.0)
    x = torch.ones(1, 1, 224, 224, requires_grad=True)
    features = net.forward_features(x)
    assert features.shape == (1, 128, 7, 7)
    (slope,) = torch.autograd.grad(features[0, 0, cell[0], cell[1]], x)
    seen = slope[0, 0].nonzero()
    first, last = seen.min(0).values, seen.max(0).values
    assert (last - first + 1).tolist() == [122, 122]
    assert ((first + last) / 2).tolist() == [32 * i + 15.5 for i in cell]


def test_the_smallest_image_has_a_map_of_one_cell() -> None:
    net = SmallCNN().eval()
    assert net.forward_features(torch.rand(1, 1, 32, 32)).shape == (1, 128, 1, 1)
