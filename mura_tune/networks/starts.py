"""A network's first weights: from ImageNet, from a file, or from a release of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

from mura_tune.config import Holdout
from mura_tune.errors import InputError
from mura_tune.networks.hybrid import backbone_name
from mura_tune.networks.imagenet import find_packaged_weights
from mura_tune.networks.normalisation import (
    IMAGENET_NORMALISATION,
    Normalisation,
    own_normalisation,
)
from mura_tune.networks.weights import (
    check_finite_weights,
    check_tensor_names,
    read_checkpoint,
    rename_tensors,
    sum_to_one_channel,
)
from mura_tune.release_format import checksums
from mura_tune.release_format.checksums import SUMS, sha256
from mura_tune.release_format.manifest import MANIFEST, WEIGHTS, Manifest, read_manifest

IMAGENET, NONE = "imagenet", "none"
TRAINED_ON = "trained_on.txt"  # of a release: a line for each picture of its train and dev splits
FINGERPRINTS = "fingerprints.txt"  # of a release: the same pictures at 16 x 16 pixels
# What our export in three channels, and the checkpoints of earlier projects whose form it has, hold
# beside their weights: their pictures are normalised as ImageNet's are, whatever the network.
CHECKPOINT_KEYS = frozenset({"recipe_digest", "threshold"})
DIGEST_DIGITS = 16  # hex digits of a picture's sha256 that are stored there: 64 bits


Fold = Callable[[Mapping[str, Tensor], Normalisation], dict[str, Tensor]]


@dataclass(frozen=True)
class StartProvenance:
    """The data that a release, which serves as a start, was trained on.

    Attributes:
        areas: of the release's dataset.
        split: how the dataset was divided.
        pictures: the first DIGEST_DIGITS of the sha256 of each picture of train and dev; None for a
            release that is older than this list.
        refit: whether it was trained on dev too.
    """

    areas: frozenset[str]
    split: Holdout
    pictures: frozenset[str] | None
    refit: bool = False


def load_start(
    body: nn.Module,
    classifier: str,
    source: str,
    arch: str,
    fold: Fold | None = None,
) -> None:
    """Load every weight but the classifier's into `body`, verified key by key.

    Args:
        classifier: the name of the classifier's module. A release's weights under that name may
            belong to another task and another head: they are left out.
        source: a file of weights, or the folder of a release.
        arch: the network's name, for messages.
        fold: makes weights of three channels ones of a grey channel on our scale, see
            `fold_normalisation`; a release's have one channel already. None sums the channels.

    Raises:
        InputError: no such file or folder, a damaged release or one of another network, a tensor
            that is missing, foreign or misshapen, by name, or one with a number that is not finite.
    """
    path = Path(source)
    weights, beside = read_checkpoint(_weights_of(path, arch) if path.is_dir() else path)
    fresh = body.state_dict()
    weights = rename_tensors(weights, fresh, path)
    if fold is not None:
        of_radiographs = not CHECKPOINT_KEYS.isdisjoint(beside)
        weights = fold(
            weights, IMAGENET_NORMALISATION if of_radiographs else own_normalisation(arch)
        )
    head = f"{classifier}."
    expected = {name: value for name, value in fresh.items() if not name.startswith(head)}
    fitted = {
        name: _fit_tensor(body, name, value, expected[name]) if name in expected else value
        for name, value in weights.items()
        if not name.startswith(head)
    }
    check_tensor_names(fitted, expected, f"{path} does not fit {arch}")
    body.load_state_dict(fitted, strict=False)
    check_finite_weights(body.state_dict(), path)


def start_digest(source: str, arch: str) -> str | None:
    """Return the sha256 of the weights that a start names for a network.

    None for random weights and for those of timm's hub. A search stores the digest, because the
    path, or the installed package, may hold other weights tomorrow.

    Raises:
        InputError: no such file.
    """
    if source == NONE:
        return None
    if source == IMAGENET:
        packaged = find_packaged_weights(backbone_name(arch))
        return sha256(packaged) if packaged else None
    path = Path(source)
    path = path / WEIGHTS if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"{path}: no such file of weights")
    return sha256(path)


def start_name(source: str, arch: str) -> str:
    """Return the name under which a search stores the digest of a start: its path.

    ImageNet's weights are other ones for each network.
    """
    return f"{source} {arch}" if source == IMAGENET else source


def start_provenance(source: str) -> StartProvenance | None:
    """Return the data that a release's folder was trained on; None for all other starts.

    Raises:
        InputError: a release that is not whole, or whose configuration only another version reads.
    """
    folder = Path(source)
    if source in (IMAGENET, NONE) or not folder.is_dir():
        return None
    manifest, listed = _verified_manifest(folder)
    if not manifest.has("search"):
        return None
    pictures = None
    if (folder / TRAINED_ON).is_file():
        checksums.check_file(folder, TRAINED_ON, listed)
        pictures = frozenset((folder / TRAINED_ON).read_text(encoding="utf-8").split())
    return StartProvenance(
        areas=frozenset(manifest.areas or (manifest.area,)),
        split=manifest.search.read_config(folder / MANIFEST).split,
        pictures=pictures,
        refit=manifest.refit_folds is not None,
    )


def _weights_of(folder: Path, arch: str) -> Path:
    """Return the file of a release's weights, checked against its sums.

    Raises:
        InputError: a release of another network, or of several.
    """
    manifest, listed = _verified_manifest(folder)
    theirs, members = manifest.arch, manifest.members
    if theirs != arch:
        raise InputError(
            f"{folder}: a release of {theirs}, not of {arch}; "
            f"write arch: {theirs}, or name another start"
        )
    if members != (WEIGHTS,):
        raise InputError(
            f"{folder}: a release of several networks; "
            f"name the file of one, such as {folder / members[0]}"
        )
    checksums.check_file(folder, WEIGHTS, listed)
    return folder / WEIGHTS


def _verified_manifest(folder: Path) -> tuple[Manifest, dict[str, str]]:
    """A release's manifest, checked against its sums, and the sums: digests by name."""
    if not (folder / MANIFEST).is_file() or not (folder / SUMS).is_file():
        raise InputError(
            f"{folder}: no whole release ({MANIFEST} or {SUMS} is missing); "
            "name a file of weights or a release's folder"
        )
    listed = checksums.read_checksums(folder)
    checksums.check_file(folder, MANIFEST, listed)
    return read_manifest(folder / MANIFEST), listed


def _fit_tensor(body: Any, name: str, loaded: Tensor, expected: Tensor) -> Tensor:
    """Return a loaded tensor as the network expects it.

    An RGB stem is summed, a ViT's position embedding is resampled to another size, and any other
    tensor stays as it is.
    """
    if name == "pos_embed" and loaded.ndim == 3 and loaded.shape[1] != expected.shape[1]:
        grid = body.patch_embed.grid_size
        prefix = expected.shape[1] - grid[0] * grid[1]
        resampled: Tensor = resample_abs_pos_embed(loaded, grid, num_prefix_tokens=prefix)
        return resampled
    return sum_to_one_channel(loaded, expected)
