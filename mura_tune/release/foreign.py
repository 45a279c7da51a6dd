"""A checkpoint of the form that earlier projects wrote, read as if it were a release."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mura_tune.errors import InputError
from mura_tune.learning.batches import MEAN, STD
from mura_tune.learning.models import Network, build
from mura_tune.learning.weights import check_keys, read_checkpoint
from mura_tune.release.bundle import Bundle, preprocessing, uncalibrated
from mura_tune.release.exports import RGB_MEAN, RGB_STD, stem_of
from mura_tune.release.sums import sha256

NAME = re.compile(r"(XR_[A-Za-z0-9]+)_FINAL")
# What the file itself does not say: torchvision's DenseNet-121 at 224 px with one logit.
FORM = {"arch": "densenet121", "size": 224, "threshold": 0.5}


class Rgb(nn.Module):
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


def load(path: Path, device: torch.device, area: str | None = None) -> Bundle:
    """The network in `{AREA}_FINAL_best.pt`: nothing is run, and every tensor has to fit.

    Its stem takes three channels; it is kept as it is, and given three.

    Args:
        area: what the file is for, if neither it nor its name says so.

    Raises:
        InputError: no file of weights, or a missing, foreign or misshapen tensor, by name.
    """
    weights, beside = read_checkpoint(path)
    about: dict[str, Any] = FORM | beside
    if "areas" in about:
        raise InputError(f"{path}: tells areas apart, which only a release's folder can do here; "
                         "ask that by --release")  # fmt: skip
    for key, kind in (("arch", str), ("size", int), ("threshold", float)):
        if not isinstance(about[key], kind):
            raise InputError(f"{path}: its {key} is {about[key]!r}; export the release again")
    body = build(about["arch"], size=about["size"]).body
    name = stem_of(body)
    stem = body.get_submodule(name)
    assert isinstance(stem, nn.Conv2d)  # it is what stem_of looks for
    stem.in_channels = 3
    stem.weight = nn.Parameter(stem.weight.detach().repeat(1, 3, 1, 1))
    check_keys(weights, body.state_dict(), f"{path} is no checkpoint of {about['arch']}")
    body.load_state_dict(weights)
    body.set_submodule(name, nn.Sequential(Rgb(), stem))
    named = NAME.match(path.name)
    manifest = {
        "area": about.get("area") or (named and named[1]) or area or "unknown",
        "arch": about["arch"],
        "outputs": 1,
        "preprocessing": preprocessing(about["size"]),
        "recipe_digest": about.get("recipe_digest") or sha256(path)[:12],
    }
    cut = {"value": about["threshold"], "chosen": "the file's own, or one half"}
    manifest |= {"threshold": cut, **uncalibrated(cut)}
    return Bundle(path, manifest, Network(body).to(device).eval())
