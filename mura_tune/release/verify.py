"""Verify a release: every check that needs no dataset."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from mura_tune.release.release import (
    check_reference_logits,
    describe_decoding_changes,
    load_release,
)
from mura_tune.release_format.checksums import SUMS, sha256
from mura_tune.release_format.manifest import MANIFEST, AbnormalityManifest, Manifest
from mura_tune.text import name_some


@dataclass(frozen=True)
class Inspection:
    """The result of a verification that passed.

    Attributes:
        digest: sha256 of its SHA256SUMS, which names the whole release.
        files: the number of files.
        tensors: of all its networks, whose names and shapes fit.
        apart: the largest difference of a logit from the stored one; None where none is stored.
        lacks: the fields that an older version did not store; some verbs need them.
        changes: which pictures are read differently since it was made; "" for none.
        data: whether its split was held against a dataset, and fits.
        parent: the digest of the release that it was recalibrated from; None for any other.
    """

    release: Path
    area: str
    digest: str
    files: int
    tensors: int
    apart: float | None
    lacks: tuple[str, ...] = ()
    changes: str = ""
    data: bool = False
    parent: str | None = None

    def describe(self) -> str:
        """The checks as lines for people."""
        answer = (
            "no answer is stored with it"
            if self.apart is None
            else f"logits differ by {self.apart:.1g} at most from the stored ones"
        )
        data = "the dataset and its split are those it was made with"
        lines = [
            f"{self.release}: {self.area}, whole",
            f"  {self.files} files as released, {self.tensors} tensors fit; {answer}",
            f"  sha256={self.digest}",
            f"  {data if self.data else 'data not checked (--data names some)'}",
        ]
        if self.parent:
            lines.append(f"  recalibrated from the release with sha256={self.parent}")
        if self.lacks:
            lines.append(
                f"  answers, but {self._unusable()}: an older version made it, "
                f"without {name_some(self.lacks)}"
            )
        if self.changes:
            lines.append(f"  {self.changes}")
        return "\n".join(lines)

    def _unusable(self) -> str:
        """What cannot be done with it, in words."""
        measured = {"study", "data"} & set(self.lacks)
        return "evaluate, compare and report refuse it" if measured else "report refuses it"

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"release": str(self.release), "whole": True}


def inspect_release(folder: Path) -> Inspection:
    """Check sums, schema, preprocessing, keys, shapes and the stored answer, in this order.

    Raises:
        InputError: the first thing that is wrong, with the file's name and what to do.
    """
    loaded = load_release(folder, torch.device("cpu"))
    source = folder / MANIFEST
    if loaded.manifest.schema > 1:  # schema 1 has searches of another form
        _check_story(loaded.manifest, str(source))
    return Inspection(
        release=folder,
        area=loaded.manifest.area,
        digest=sha256(folder / SUMS),
        files=sum(not path.name.startswith(".") for path in folder.iterdir()),
        tensors=len(loaded.net.state_dict()),
        apart=check_reference_logits(loaded.net, loaded.manifest, folder),
        lacks=tuple(loaded.manifest.missing()),
        changes=describe_decoding_changes(loaded.manifest),
        parent=_parent(loaded.manifest),
    )


def _parent(manifest: Manifest) -> str | None:
    """The digest of the release that a recalibrated one was made from."""
    if not isinstance(manifest, AbnormalityManifest) or manifest.recalibration is None:
        return None
    return manifest.recalibration.parent


def _check_story(manifest: Manifest, source: str) -> None:
    """Raise InputError unless the recipe and the study can be read, where they are stored."""
    if manifest.has("recipe"):
        manifest.read_recipe(source)
    if manifest.has("search"):
        manifest.search.read_config(source)
