"""Many studies read at once: a row each in a table that a stopped call goes on with."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mura_tune import files
from mura_tune.data.images import read, square
from mura_tune.errors import InputError, UnreadableImage
from mura_tune.reading.predict import Predictor
from mura_tune.reading.studies import Asked

IMAGES = 32  # in a batch: more gain nothing on a CPU, and a study is not divided
EVERY = 5.0  # seconds between two writings of the table


@dataclass(frozen=True)
class Row:
    """A study's line. Without an answer its figures are empty, and `error` says why.

    Attributes:
        release: what answered: a digest of its network and calibration, and the threshold used.
    """

    study: str
    views: int
    probability: float | None
    abnormal: bool | None
    abstain: bool | None
    error: str
    release: str


@dataclass(frozen=True)
class Summary:
    """What a call did: studies answered before it, by it, and those without an answer."""

    out: Path
    before: int
    answered: int
    unreadable: tuple[str, ...]

    def describe(self) -> str:
        """The counts in a line for people."""
        earlier = f", {self.before} were there before" if self.before else ""
        failed = f"; {len(self.unreadable)} unreadable, marked" if self.unreadable else ""
        return f"{self.out}: {self.answered} studies answered{earlier}{failed}"


def answer_all(
    predictor: Predictor,
    asked: Sequence[Asked],
    out: Path,
    say: Callable[[str], None],
    threshold: float | None = None,
) -> Summary:
    """Write a row for each study of `asked` into `out`, a .csv or .json.

    Studies that `out` has an answer for are not read again. A study of which a view cannot be
    decoded gets no probability, since the mean over the others would be another study's: it is
    marked with the file's name and the reason, told to `say`, and tried again by the next call.

    Raises:
        InputError: an `out` of another form, or made by another release or threshold.
    """
    from tqdm import tqdm

    cut = predictor.chosen.threshold if threshold is None else threshold
    source = f"{_digest(predictor)} at {cut:.6g}"
    rows = {row.study: row for row in _table(out)}
    if other := next((row for row in rows.values() if row.release != source), None):
        raise InputError(f"{out}: its rows are by {other.release}, and these would be by {source}; "
                         "choose another --out")  # fmt: skip
    answered = {row.study for row in rows.values() if not row.error}
    left = [one for one in asked if one.name not in answered]
    before = len(asked) - len(left)
    size = predictor.bundle.manifest["preprocessing"]["size"]
    unreadable, written = [], time.monotonic()
    try:
        with tqdm(total=len(asked), initial=before, unit="study", desc=out.name,
                  disable=not sys.stderr.isatty()) as bar:  # fmt: skip
            for studies, pixels in _decoded(left, size):
                good = [p for p in pixels if not isinstance(p, UnreadableImage)]
                logits = predictor.logits(np.concatenate(good)) if good else np.empty(0, np.float32)
                for one, found in zip(studies, pixels, strict=True):
                    if isinstance(found, UnreadableImage):
                        say(f"{one.name}: no answer: {found}")
                        unreadable.append(one.name)
                        rows[one.name] = Row(
                            one.name, len(one.images), None, None, None, str(found), source
                        )
                        continue
                    own, logits = logits[: len(found)], logits[len(found) :]
                    told = predictor.answer(one.images, own, threshold)
                    rows[one.name] = Row(
                        one.name, len(found), told.probability, told.abnormal, told.abstain, "",
                        source,
                    )  # fmt: skip
                bar.update(len(studies))
                if time.monotonic() - written > EVERY:
                    _write(out, rows.values())
                    written = time.monotonic()
    finally:  # stopped or not, what is answered stays
        _write(out, rows.values())
    return Summary(out, before, len(left) - len(unreadable), tuple(unreadable))


def _digest(predictor: Predictor) -> str:
    """Twelve hex digits that tell releases apart, also those of one recipe."""
    manifest = predictor.bundle.manifest
    about = [manifest[key] for key in ("recipe_digest", "calibration")] + [manifest.get("golden")]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]


Pixels = NDArray[np.uint8] | UnreadableImage  # (V, S, S) of a study's views, or why there are none


def _decoded(asked: Sequence[Asked], size: int) -> Iterator[tuple[list[Asked], list[Pixels]]]:
    """Batches of studies with their pixels, read in threads while the one before is answered."""

    def load(one: Asked) -> Pixels:
        try:
            return np.stack([square(read(path), size) for path in one.images])
        except UnreadableImage as error:
            return error

    def ahead(studies: list[Asked]) -> list[Future[Pixels]]:
        return [pool.submit(load, one) for one in studies]

    batches = list(_batches(asked))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        waiting = ahead(batches[0]) if batches else []
        for number, studies in enumerate(batches):
            now, waiting = waiting, ahead(batches[number + 1]) if number + 1 < len(batches) else []
            yield studies, [one.result() for one in now]


def _batches(asked: Sequence[Asked]) -> Iterator[list[Asked]]:
    batch: list[Asked] = []
    for one in asked:
        if batch and sum(len(other.images) for other in batch) + len(one.images) > IMAGES:
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch


def _table(out: Path) -> list[Row]:
    """What an earlier call wrote."""
    if out.suffix not in (".csv", ".json"):
        raise InputError(f"{out}: answers are a .csv or a .json")
    if not out.exists():
        return []
    text = out.read_text(encoding="utf-8")
    try:
        if out.suffix == ".json":
            return [Row(**raw) for raw in json.loads(text)]
        return [_row(raw) for raw in csv.DictReader(io.StringIO(text))]
    except (ValueError, TypeError, KeyError):
        raise InputError(f"{out}: not written by this command; choose another --out") from None


def _row(raw: dict[str, str]) -> Row:
    """From the cells of a .csv; KeyError or TypeError where one is missing."""
    flag = {"true": True, "false": False, "": None}
    return Row(
        study=raw["study"], views=int(raw["views"]), error=raw["error"], release=raw["release"],
        probability=float(raw["probability"]) if raw["probability"] else None,
        abnormal=flag[raw["abnormal"]], abstain=flag[raw["abstain"]],
    )  # fmt: skip


def _write(out: Path, rows: Iterable[Row]) -> None:
    plain = [asdict(row) for row in rows]
    text = io.StringIO()
    if out.suffix == ".json":
        json.dump(plain, text, indent=1, allow_nan=False)
    else:
        table = csv.DictWriter(text, list(Row.__dataclass_fields__), lineterminator="\n")
        table.writeheader()
        words = {True: "true", False: "false"}
        for row in plain:
            table.writerow({k: words[v] if isinstance(v, bool) else v for k, v in row.items()})
    files.replace(out, text.getvalue().encode())
