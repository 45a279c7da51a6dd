"""A checkpoint of the form that earlier projects wrote, read as if it were a release."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mura_tune.errors import InputError
from mura_tune.networks.factory import build_network, outline_network
from mura_tune.networks.network import Network
from mura_tune.networks.normalisation import MEAN, RGB_MEAN, RGB_STD, STD
from mura_tune.networks.weights import (
    check_finite_weights,
    check_tensor_names,
    read_checkpoint,
    rename_tensors,
)
from mura_tune.release.release import Release, current_preprocessing
from mura_tune.release_format.checksums import sha256
from mura_tune.release_format.entries import AGGREGATIONS, MEAN_OF_SIGMOIDS, ThresholdEntry
from mura_tune.release_format.manifest import uncalibrated
from mura_tune.text import printable

FILE_NAME = re.compile(r"(XR_[A-Za-z0-9]+)_FINAL")
# What the file itself does not say: torchvision's DenseNet-121 at 224 px with one logit.
DEFAULTS = {
    "arch": "densenet121",
    "size": 224,
    "threshold": 0.5,
    "aggregation": MEAN_OF_SIGMOIDS,
}


class GreyToRgb(nn.Module):
    """Our normalised grey channel as three, normalised as ImageNet's are."""

    scale: Tensor
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        deviations = torch.tensor(RGB_STD).view(1, 3, 1, 1)
        shift = (MEAN - torch.tensor(RGB_MEAN).view(1, 3, 1, 1)) / deviations
        self.register_buffer("scale", STD / deviations, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, x_n1hw: Tensor) -> Tensor:
        return x_n1hw * self.scale + self.shift


def load_checkpoint(path: Path, device: torch.device, area: str | None = None) -> Release:
    """The network in `{AREA}_FINAL_best.pt`: nothing is run, and every tensor has to fit.

    Its stem takes three channels; it is kept as it is, and given three.

    Args:
        area: what the file is for, if neither it nor its name says so.

    Raises:
        InputError: no file of weights, or a missing, foreign or misshapen tensor, by name.
    """
    weights, beside = read_checkpoint(path)
    about: dict[str, Any] = DEFAULTS | beside
    if "areas" in about:
        raise InputError(
            f"{path}: tells areas apart, which only a release's folder can do here; "
            "ask that by --release"
        )
    for key, kind in (("arch", str), ("size", int), ("threshold", float)):
        if not isinstance(about[key], kind) or isinstance(about[key], bool):
            raise InputError(f"{path}: its {key} is {about[key]!r}; export the release again")
    threshold = about["threshold"]
    if not 0 <= threshold <= 1:
        raise InputError(f"{path}: its threshold is {threshold}, and no probability")
    if about["aggregation"] not in AGGREGATIONS:
        raise InputError(
            f"{path}: its aggregation is {printable(str(about['aggregation']))!r}; it must be one "
            f"of: {', '.join(AGGREGATIONS)}"
        )
    arch, size = about["arch"], about["size"]
    try:
        expected = outline_network(arch, size=size, channels=3)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    weights = rename_tensors(weights, expected, path)
    check_tensor_names(weights, expected, f"{path} is no checkpoint of {arch}")
    body = _restored(weights, arch, size)
    check_finite_weights(body.state_dict(), path)
    named = FILE_NAME.match(path.name)
    manifest = uncalibrated(ThresholdEntry(value=threshold, rule="the file's own, or one half"))
    manifest = manifest.changed(
        calibration=manifest.calibration.changed(aggregation=about["aggregation"]),
        area=_text(about.get("area")) or (named and named[1]) or area or "unknown",
        arch=arch,
        outputs=1,
        preprocessing=current_preprocessing(size),
        recipe_digest=_text(about.get("recipe_digest")) or sha256(path)[:12],
    )
    return Release(path, manifest, Network(body).to(device).eval())


def _text(value: object) -> str:
    """A text that stands beside the weights; "" for anything else."""
    return value if isinstance(value, str) else ""


def _restored(weights: Mapping[str, Tensor], arch: str, size: int) -> nn.Module:
    """A network that turns a grey view into three channels wherever it reads one.

    Most have one convolution there; RepVGG, FastViT and CrossViT have several side by side.
    """
    body: nn.Module = build_network(arch, size=size).body
    convolutions = [
        (name, module)
        for name, module in body.named_modules()
        if isinstance(module, nn.Conv2d)
        and module.weight.shape[1] == 1
        and weights[f"{name}.weight"].shape[1] == 3
    ]
    for _, convolution in convolutions:
        convolution.in_channels = 3
        convolution.weight = nn.Parameter(convolution.weight.detach().repeat(1, 3, 1, 1))
    body.load_state_dict(weights)
    for name, convolution in convolutions:
        body.set_submodule(name, nn.Sequential(GreyToRgb(), convolution))
    return body
