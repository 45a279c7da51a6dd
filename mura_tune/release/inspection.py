"""Everything that can be checked about a release without knowing what it was measured on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from mura_tune.errors import InputError
from mura_tune.release import bundle, golden
from mura_tune.release.kinds import kind_of
from mura_tune.release.sums import SUMS, sha256


@dataclass(frozen=True)
class Inspection:
    """A release that passed.

    Attributes:
        digest: sha256 of its SHA256SUMS, by which the whole release can be asked for.
        files: how many there are.
        tensors: of all its networks, whose names and shapes fit.
        apart: the largest difference of a logit from the stored one; None where none is stored.
        data: whether its split was held against a dataset, and fits.
    """

    release: Path
    area: str
    digest: str
    files: int
    tensors: int
    apart: float | None
    data: bool = False

    def describe(self) -> str:
        """What was checked, as lines for people."""
        answer = (
            "no answer is stored with it"
            if self.apart is None
            else f"logits differ by {self.apart:.1g} at most from the stored ones"
        )
        data = "the dataset and its split are those it was made with"
        return "\n".join([
            f"{self.release}: {self.area}, whole",
            f"  {self.files} files as released, {self.tensors} tensors fit; {answer}",
            f"  sha256={self.digest}",
            f"  {data if self.data else 'data not checked (--data names some)'}",
        ])  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"release": str(self.release), "whole": True}


def inspect(folder: Path) -> Inspection:
    """Sums, schema, preprocessing, keys, shapes, and the stored answer, in this order.

    Raises:
        InputError: the first thing that is wrong, with the file's name and what to do.
    """
    loaded = bundle.load(folder, torch.device("cpu"))
    try:
        kind_of(loaded.manifest).stored(loaded.manifest)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder / bundle.MANIFEST}: its calibration or thresholds are not "
                         f"usable: {error!r}; fetch the release again") from None  # fmt: skip
    return Inspection(
        release=folder,
        area=str(loaded.manifest["area"]),
        digest=sha256(folder / SUMS),
        files=sum(not path.name.startswith(".") for path in folder.iterdir()),
        tensors=len(loaded.net.state_dict()),
        apart=golden.check(loaded.net, loaded.manifest, folder),
    )
