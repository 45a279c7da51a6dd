"""A release measured on the published `valid` studies: the only reader of that split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mura_tune.data.prepare import Prepared
from mura_tune.errors import InputError
from mura_tune.learning.batches import split_of
from mura_tune.learning.metrics import Estimate, Studies, at_threshold, auc_interval
from mura_tune.learning.models import Network
from mura_tune.learning.tasks import study_scores
from mura_tune.learning.training import predict


@dataclass(frozen=True, eq=False)
class Measured:
    """One network on one part of a dataset, study by study."""

    part: str
    images: int
    threshold: float
    studies: Studies
    auc: Estimate
    at_threshold: Mapping[str, Estimate]

    def describe(self) -> str:
        """The figures as lines for people."""
        head = f"{SPLIT_NAMES[self.part]}, {self.images} images"
        rest = (
            f"  {name:<11} {e.value:.3f} [{e.low:.3f}, {e.high:.3f}] at {self.threshold:.3f}"
            for name, e in self.at_threshold.items()
        )
        return "\n".join([head, f"  study AUC   {self.auc}", *rest])

    def to_json(self) -> dict[str, Any]:
        return {
            "split": SPLIT_NAMES[self.part],
            "studies": self.auc.studies,
            "patients": self.auc.patients,
            "images": self.images,
            "abnormal": int(self.studies.labels.sum()),
            "threshold": self.threshold,
            "auc": self.auc.to_json(),
            **{name: value.to_json() for name, value in self.at_threshold.items()},
        }


SPLIT_NAMES = {"dev": "dev (patients held out of train)", "test": "test (published valid)"}


def measure(net: Network, prepared: Prepared, part: str, threshold: float) -> Measured:
    """Study-level figures of a network on `dev` or `test`, each with its interval.

    Args:
        threshold: a study is called abnormal at or above it; chosen on dev, never here.
    """
    split = split_of(prepared, part, next(net.parameters()).device)
    studies = study_scores(predict(net, split), split)
    return Measured(
        part=part,
        images=len(split),
        threshold=threshold,
        studies=studies,
        auc=auc_interval(studies),
        at_threshold=at_threshold(studies, threshold),
    )


def same_data(manifest: Mapping[str, Any], prepared: Prepared) -> None:
    """Refuse data on which a release's figures could be measured on patients it learned from.

    Raises:
        InputError: the fingerprint or the split is not the one the release was made with.
    """
    data = manifest["data"]
    for key, now in (("fingerprint", prepared.fingerprint), ("split_hash", prepared.split_hash)):
        if data[key] != now:
            raise InputError(
                f"{manifest['area']}: the data's {key} is {now[:12]}…, and the release was made "
                f"with {data[key][:12]}…; point --data at the dataset that it was trained on"
            )
