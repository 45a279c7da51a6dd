"""Which body part a study shows: the logits of its views, averaged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mura_tune.learning.batches import Split
from mura_tune.learning.metrics import Floats, Names


@dataclass(frozen=True, eq=False)
class Parts:
    """A row a study, by name: its patient, its area's number, and its logits (M, K)."""

    names: Names
    patients: Names
    parts: NDArray[np.int64]
    logits: Floats


def study_logits(logits_nk: Tensor, split: Split) -> Parts:
    """Each study's logits: the arithmetic mean of its views', so the geometric mean of their
    probabilities, in which one sure view outweighs several doubtful ones."""
    names, first, inverse = np.unique(split.studies, return_index=True, return_inverse=True)
    logits = logits_nk.double().cpu().numpy()
    sums = np.zeros((len(names), logits.shape[1]))
    np.add.at(sums, inverse, logits)
    return Parts(
        names=names,
        patients=split.patients[first],
        parts=split.parts.cpu().numpy()[first],
        logits=sums / np.bincount(inverse)[:, None],
    )


def softmax(logits_mk: Floats, temperature: float = 1.0) -> Floats:
    """Probabilities (M, K) of logits over a temperature (Guo et al. 2017)."""
    scaled = logits_mk / temperature
    grown = np.exp(scaled - scaled.max(1, keepdims=True))
    return np.asarray(grown / grown.sum(1, keepdims=True))
