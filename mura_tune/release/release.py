"""A release: written whole or not at all, refused when a single byte has changed, loaded.

A release also holds the logits of three reference pictures, by which `mura verify` checks that the
network computes the same here as where it was made, and a config.json by which plain timm loads it
(`create_model("local-dir:FOLDER", ...)`).
"""

from __future__ import annotations

import copy
import errno
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import timm
import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from mura_tune import strict
from mura_tune.data.fingerprints import compute_fingerprints, write_fingerprints
from mura_tune.errors import InputError
from mura_tune.evaluation.familiarity import FamiliarityRule
from mura_tune.imaging.images import PREPROCESSING, preprocessing_changes
from mura_tune.networks.factory import restore_network
from mura_tune.networks.network import Ensemble, Model, Network, join_members, members_of
from mura_tune.networks.normalisation import MEAN, STD
from mura_tune.networks.starts import DIGEST_DIGITS
from mura_tune.networks.weights import copy_tensors
from mura_tune.release_format import checksums
from mura_tune.release_format.entries import PreprocessingEntry
from mura_tune.release_format.folder import recover_release, replace_release
from mura_tune.release_format.manifest import (
    MANIFEST,
    WEIGHTS,
    AbnormalityManifest,
    Manifest,
    RouterManifest,
    parse_manifest,
    read_manifest,
)
from mura_tune.strict import show_value
from mura_tune.text import printable
from mura_tune.training.batches import to_input
from mura_tune.training.tasks import task_of

if TYPE_CHECKING:  # inference needs no table of studies
    from mura_tune.data.prepare import Prepared

CONFIG = "config.json"
FLIP_TEST = "flip_test"  # in preprocessing, of a release whose recipe has it


def timm_config(net: Model, manifest: Manifest) -> dict[str, str]:
    """The config.json of a timm backbone, by name; empty where plain timm would answer otherwise:
    own networks or heads, ensembles, flips at test time.

    timm refuses a key it does not know inside `pretrained_cfg`, and passes `model_args` on.
    """
    own_head = task_of(manifest.task).head
    if isinstance(net, Ensemble) or net.flip_test or own_head or not timm.is_model(manifest.arch):
        return {}
    about: Mapping[str, Any] = net.body.pretrained_cfg
    size, outputs = manifest.preprocessing.size, manifest.outputs
    fixed = {"img_size": size} if about.get("fixed_input_size") else {}
    plain = {
        "architecture": manifest.arch,
        "num_classes": outputs,
        "num_features": net.body.num_features,
        "model_args": {"in_chans": 1, "num_classes": outputs, **fixed},
        "pretrained_cfg": {
            "input_size": [1, size, size],
            "fixed_input_size": bool(fixed),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "mean": [MEAN],
            "std": [STD],
            "num_classes": outputs,
            "first_conv": about.get("first_conv"),
            "classifier": about.get("classifier"),
        },
    }
    return {CONFIG: json.dumps(plain, indent=2) + "\n"}


# Of a logit, and of its size where that is above 1: what rounding may differ by.
REFERENCE_TOLERANCE = 1e-4


def compute_reference_logits(net: Model, size: int) -> tuple[tuple[float, ...], ...]:
    """The logits (3, K) of `_reference_pictures`, by a copy of `net` on the CPU."""
    reader = copy.deepcopy(net).cpu().eval()
    with torch.inference_mode():
        logits: Tensor = reader(to_input(_reference_pictures(size), torch.device("cpu")))
    return tuple(tuple(float(value) for value in row) for row in logits)


def check_reference_logits(net: Model, manifest: Manifest, source: object) -> float | None:
    """The largest difference from the stored answer; None for a release that stored none.

    Raises:
        InputError: the difference is beyond REFERENCE_TOLERANCE, or the logits have another shape.
    """
    if manifest.reference_logits is None:
        return None
    stored = torch.tensor(manifest.reference_logits, dtype=torch.float64)
    computed = torch.tensor(
        compute_reference_logits(net, manifest.preprocessing.size), dtype=torch.float64
    )
    if stored.shape != computed.shape:
        raise InputError(
            f"{source}: golden holds logits {tuple(stored.shape)}, and the network "
            f"gives {tuple(computed.shape)}; fetch the release again"
        )
    gap = float((computed - stored).abs().max())
    if not bool(
        ((computed - stored).abs() <= REFERENCE_TOLERANCE * stored.abs().clamp_min(1)).all()
    ):
        raise InputError(
            f"{source}: here the network's logits differ by {gap:.2g} from those "
            "stored with it: another version of a library computes something else; "
            "install those that bundle.json names under versions"
        )
    return gap


def _reference_pictures(size: int) -> Tensor:
    """Three pictures (3, S, S) by formulas that no library can change: grey, a ramp, a pattern."""
    number = torch.arange(size * size, dtype=torch.int64).view(size, size)
    ramp = number * 255 // (size * size - 1)
    pattern = (number * 2654435761 % 2**32) >> 24  # Knuth's multiplicative hash
    return torch.stack((torch.full_like(ramp, 128), ramp, pattern)).to(torch.uint8)


@dataclass(frozen=True, eq=False)
class Release:
    """A release in memory: its folder, its manifest, and the network with its weights.

    Attributes:
        familiarity: how it tells what is not like the radiographs that it was trained on; None
            from older releases.
    """

    folder: Path
    manifest: Manifest
    net: Model
    familiarity: FamiliarityRule | None = None


def as_abnormality(release: Release) -> AbnormalityManifest:
    """The manifest of a release that answers normal or abnormal.

    Raises:
        InputError: a router, which says nothing about disease.
    """
    if not isinstance(release.manifest, AbnormalityManifest):
        raise InputError(f"{release.folder}: a router, which says nothing about disease")
    return release.manifest


def as_router(release: Release) -> RouterManifest:
    """The manifest of a router. Raises InputError for another release."""
    if not isinstance(release.manifest, RouterManifest):
        raise InputError(f"{release.folder}: no router, but a release for {release.manifest.area}")
    return release.manifest


def save_release(
    folder: Path,
    net: Model,
    manifest: Manifest,
    texts: Mapping[str, str],
    familiarity: FamiliarityRule | None = None,
) -> None:
    """Write a release beside `folder`, then put it in the place of the release that was there.

    Args:
        texts: further files by name, such as MODEL_CARD.md.
        familiarity: as the manifest has its entry.

    Raises:
        InputError: something else stands in the place; see `folder.check_place`. Or the manifest is
            one that no reader would take: what stands in the place is the better release.
    """
    names = weight_file_names(net)
    answers = compute_reference_logits(net, manifest.preprocessing.size)
    whole = manifest.changed(members=names, reference_logits=answers)
    text = _manifest_text(whole, folder)
    content = _weight_files(net)
    if familiarity is not None:
        content[familiarity.entry().file] = familiarity.to_bytes()
    _write(folder, content, {MANIFEST: text, **timm_config(net, manifest), **texts})


def weights_digest(net: Model) -> str:
    """The digest of a network's weights as its release will have it; see `release_digest`."""
    return _join_digests(hashlib.sha256(data).hexdigest() for data in _weight_files(net).values())


def release_digest(folder: Path, manifest: Manifest) -> str:
    """16 hex digits that only releases of the same weights share, from their sums in SHA256SUMS."""
    listed = checksums.read_checksums(folder)
    return _join_digests(listed[name] for name in manifest.members)


def _join_digests(digests: Iterable[str]) -> str:
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:16]


def _weight_files(net: Model) -> dict[str, bytes]:
    """The bytes of each member's file of weights, by its name."""
    return {
        name: to_safetensors(copy_tensors(member.body.state_dict()), metadata={"format": "pt"})
        for name, member in zip(weight_file_names(net), members_of(net), strict=True)
    }


def weight_file_names(net: Model) -> tuple[str, ...]:
    """The files of its members' weights."""
    number = sum(1 for _ in members_of(net))
    if number == 1:
        return (WEIGHTS,)
    return tuple(f"model-{index}.safetensors" for index in range(number))


def current_preprocessing(size: int, *, flip_test: bool = False) -> PreprocessingEntry:
    """The preprocessing of an image for a network, as bundle.json stores it; with `flip_test` its
    mirror image is read too, which versions that cannot do so refuse.

    A release without `decoding` was made by its version 1; see `images.preprocessing_changes`.
    """
    return PreprocessingEntry.of(
        {
            "size": size,
            "channels": 1,
            "resize": "bilinear, to a square",
            "mean": MEAN,
            "std": STD,
            "range": [0, 1],
            "decoding": PREPROCESSING,
            **({FLIP_TEST: True} if flip_test else {}),
        }
    )


def list_training_pictures(prepared: Prepared) -> str:
    """The content of TRAINED_ON: sorted, so that the order of studies stays unknown."""
    held = (prepared.frame["split"] != "test").to_numpy()
    return "".join(sorted(f"{sha[:DIGEST_DIGITS]}\n" for sha in prepared.pictures.take(held)))


def list_fingerprints(prepared: Prepared) -> str:
    """The content of FINGERPRINTS: of the same pictures; see `data.fingerprints`."""
    held = (prepared.frame["split"] != "test").to_numpy()
    rows = np.unique(prepared.frame["row"].to_numpy()[held])
    return write_fingerprints(compute_fingerprints(prepared.pixels, rows))


def describe_decoding_changes(manifest: Manifest) -> str:
    """Which pictures are read differently since a release was made, in a line; "" for none."""
    since = preprocessing_changes(manifest.preprocessing.decoding)
    return since and f"made when pictures were read otherwise; since then: {since}"


def add_files(folder: Path, texts: Mapping[str, str]) -> None:
    """Add texts to a release, or replace them, and write SHA256SUMS again.

    Raises:
        InputError: the release is not whole; see `checksums.check_files`.
    """
    _write(folder, _read_files(folder), texts)


def _read_files(folder: Path) -> dict[str, bytes]:
    """The files of a release by name. Raises InputError where it is not whole."""
    return {name: (folder / name).read_bytes() for name in checksums.check_files(folder)}


def _manifest_text(manifest: Manifest, folder: Path) -> str:
    """The content of bundle.json. Raises InputError for one that no reader would take."""
    text = json.dumps(manifest.to_json(), indent=2, allow_nan=False) + "\n"
    parse_manifest(strict.parse_json(text, folder / MANIFEST), folder / MANIFEST)
    return text


def _write(folder: Path, files: Mapping[str, bytes], texts: Mapping[str, str]) -> None:
    """A release of these files, and of texts, which come before files of the same name.

    Raises:
        InputError: there is no room; it says how much it takes.
    """
    content = {**files, **{k: v.encode("utf-8", "backslashreplace") for k, v in texts.items()}}
    try:
        with replace_release(folder) as draft:
            for name, data in content.items():
                (draft / name).write_bytes(data)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        need = sum(map(len, content.values())) / 1e6
        raise InputError(
            f"{folder}: no room for the release, which takes {need:.1f} MB; make room, and the "
            "same command goes on"
        ) from None


def save_changed(parent: Path, folder: Path, manifest: Manifest, texts: Mapping[str, str]) -> None:
    """Write a release that has the files of another one, and another manifest.

    Args:
        texts: further files by name, or in the place of the parent's.

    Raises:
        InputError: as `save_release`; or the parent is not whole.
    """
    text = _manifest_text(manifest, folder)
    _write(folder, _read_files(parent), {MANIFEST: text, **texts})


def verify_release(folder: Path) -> Manifest:
    """Check every file of a release against SHA256SUMS; returns its manifest.

    Raises:
        InputError: no release there, a file that is missing, foreign or changed, by name, or one
            that another version would have to read.
    """
    recover_release(folder)
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no release there; {folder.parent} has {_releases_in(folder.parent)}; make "
            "one with 'mura finalize', or name another folder (--releases, --release)"
        )
    listed = checksums.check_files(folder)
    manifest = read_manifest(folder / MANIFEST)
    stored = () if manifest.familiarity is None else (manifest.familiarity.file,)
    for name in (*manifest.members, *stored):
        if name not in listed:
            raise InputError(
                f"{folder / checksums.SUMS}: does not list {name}; fetch the release again"
            )
    _check_preprocessing(manifest.preprocessing, folder / MANIFEST)
    return manifest


def _releases_in(folder: Path) -> str:
    """The names of the releases in a folder, for people."""
    names = sorted(file.parent.name for file in folder.glob(f"[!.]*/{MANIFEST}"))
    return ", ".join(map(printable, names)) or "none"


def load_release(folder: Path, device: torch.device) -> Release:
    """A verified release with its network in evaluation mode.

    Raises:
        InputError: see `verify_release`; also weights that do not fit the network named.
    """
    manifest = verify_release(folder)
    manifest.require_answer(folder / MANIFEST)
    net = join_members([_network(manifest, folder / name) for name in manifest.members])
    return Release(folder, manifest, net.to(device).eval(), _load_familiarity(folder, manifest))


def _load_familiarity(folder: Path, manifest: Manifest) -> FamiliarityRule | None:
    """How a release tells what is unfamiliar; None where it is too old to do so."""
    if manifest.familiarity is None:
        return None
    path = folder / manifest.familiarity.file
    return FamiliarityRule.from_bytes(path.read_bytes(), manifest.familiarity, path)


def _check_preprocessing(stored: PreprocessingEntry, source: Path) -> None:
    """Refuse what this version does not do to an image; earlier decodings differ for few."""
    known = current_preprocessing(stored.size).to_json()
    known |= {"decoding": min(PREPROCESSING, stored.decoding), FLIP_TEST: True}
    for key, value in stored.to_json().items():
        if json.dumps(value) != json.dumps(known.get(key)):  # as text, where 1 is not true
            raise InputError(
                f"{source}: preprocessing.{key} is {show_value(value)}, which this version "
                "does not do; use the one that made it"
            )


def _network(manifest: Manifest, path: Path) -> Network:
    """The network that a release names, with the weights of one of its members."""
    head = task_of(manifest.task).head
    size, outputs = manifest.preprocessing.size, manifest.outputs
    net = restore_network(path, manifest.arch, size=size, outputs=outputs, head=head)
    net.flip_test = bool(manifest.preprocessing.steps.get(FLIP_TEST, False))
    return net
