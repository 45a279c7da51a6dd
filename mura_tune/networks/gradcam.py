"""Grad-CAM on the last feature map, and how faithfully the map explains the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mura_tune.errors import InputError
from mura_tune.networks.network import Model, Network, is_map, members_of, shape_of

PORTIONS = 20  # pixels are taken in this many equal portions
BLUR = 0.1  # standard deviation of the blur that replaces pixels, as a share of the side


@dataclass(frozen=True)
class Faithfulness:
    """Mean probability of one view while pixels go, or come, in the order of its map.

    A faithful map has a low `deletion` and a high `insertion`. The other two are the same in a
    random order of patches.
    """

    deletion: float
    insertion: float
    random_deletion: float
    random_insertion: float


class NoFeatureMap(InputError):
    """A network whose last features are no map, so that nothing can be drawn on a picture."""


def compute_gradcam(net: Model, x_nchw: Tensor, output: int = 0) -> Tensor:
    """Return the evidence for one output at each place of each view, (N, S, S).

    It is in logits, none below 0. The first output is *abnormal*, where a network has it.

    The last feature map times the gradient of that logit, summed over channels, negative sums
    cut off, enlarged bilinearly. Where the head averages the map (DenseNet, ResNet, …) this is
    Grad-CAM (Selvaraju et al. 2017); where it also takes maxima, as our small network, the
    gradient counts where it arises instead of being spread over the map (HiResCAM, Draelos and
    Carin 2020), and before they are cut off a view's sums add up to its logit, less the bias. An
    ensemble's map is the mean of its members', as its logit is. A map of zeros means that no place
    speaks for the output. The network is left in evaluation mode, its gradients as they were.

    Raises:
        InputError: a network whose last features are no map.
    """
    net.eval()
    each = [_evidence(member, x_nchw, output) for member in members_of(net)]
    cam = F.relu(torch.stack(each).mean(0)).float()
    return F.interpolate(cam, size=x_nchw.shape[-2:], mode="bilinear", align_corners=False)[:, 0]


def scale_maps(cams_nss: Tensor) -> Tensor:
    """Scale maps to [0, 1] by their common maximum: a weak map stays dark beside a strong one."""
    return cams_nss / cams_nss.amax().clamp_min(1e-12)


def _evidence(net: Network, x_nchw: Tensor, output: int) -> Tensor:
    """Return the last feature map times one logit's gradient, (N, 1, H, W)."""
    with torch.no_grad():
        features = net.body.forward_features(x_nchw)
    if not is_map(features):
        raise NoFeatureMap(
            f"{type(net.body).__name__} has no feature map to explain (its features are "
            f"{shape_of(features)}); explain needs a convolutional network"
        )
    with torch.enable_grad():
        features.requires_grad_()
        logits = net.body.forward_head(features)
        (slope,) = torch.autograd.grad(logits[:, output].sum(), features)
    if getattr(net.body, "output_fmt", "NCHW") == "NHWC":  # Swin and its like
        features, slope = features.permute(0, 3, 1, 2), slope.permute(0, 3, 1, 2)
    evidence: Tensor = (slope * features.detach()).sum(1, keepdim=True)
    return evidence


@dataclass(frozen=True)
class FaithfulnessCurves:
    """The probability of one view after each of PORTIONS equal portions of its pixels, and before
    the first: PORTIONS + 1 numbers a curve. `Faithfulness` has the areas below them."""

    deletion: tuple[float, ...]
    insertion: tuple[float, ...]
    random_deletion: tuple[float, ...]
    random_insertion: tuple[float, ...]

    @property
    def shares(self) -> tuple[float, ...]:
        """The share of the pixels that have gone, or come, at each number of a curve."""
        return tuple(portion / PORTIONS for portion in range(PORTIONS + 1))

    def areas(self) -> Faithfulness:
        """The area under each curve, by trapezoids."""
        return Faithfulness(
            *(
                float(torch.trapezoid(torch.tensor(curve), dx=1 / PORTIONS))
                for curve in (
                    self.deletion,
                    self.insertion,
                    self.random_deletion,
                    self.random_insertion,
                )
            )
        )


@torch.inference_mode()
def trace_faithfulness(
    net: Model,
    x_1chw: Tensor,
    cam_hw: Tensor,
    probability: Callable[[Tensor], Tensor] = lambda logits: logits[:, 0].sigmoid(),
) -> FaithfulnessCurves:
    """Measure deletion and insertion of one view (Petsiuk et al. 2018, with another background).

    Deletion replaces pixels by a strong blur of the view, the most important first; insertion
    starts from the blur and brings them back.

    Args:
        probability: of the output that the map explains, (N,) from logits (N, K).
    """
    blurred = _blur(x_1chw)
    side = cam_hw.shape[-1]
    generator = torch.Generator().manual_seed(0)
    patches = torch.rand((1, 1, 7, 7), generator=generator)
    noise = F.interpolate(patches, size=cam_hw.shape, mode="bilinear", align_corners=False)
    curves = []
    for importance in (cam_hw.cpu(), noise[0, 0]):
        order = importance.flatten().argsort(descending=True, stable=True)
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order))
        share = rank.view(side, -1).to(x_1chw.device) / len(order)
        cuts = torch.linspace(0, 1, PORTIONS + 1, device=x_1chw.device).view(-1, 1, 1, 1)
        chosen = (share < cuts).to(x_1chw.dtype)  # (PORTIONS + 1, 1, S, S)
        for first, then in ((x_1chw, blurred), (blurred, x_1chw)):
            p = probability(net.eval()(first + chosen * (then - first)).float())
            curves.append(tuple(p.tolist()))
    return FaithfulnessCurves(*curves)


def _blur(x_1chw: Tensor) -> Tensor:
    sigma = BLUR * x_1chw.shape[-1]
    reach = int(2.5 * sigma)
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=x_1chw.device) / sigma) ** 2)
    line = (line / line.sum()).to(x_1chw.dtype)
    padded = F.pad(x_1chw, [reach] * 4, mode="replicate")
    rows = F.conv2d(padded, line.view(1, 1, 1, -1))
    return F.conv2d(rows, line.view(1, 1, -1, 1))
