"""Uses of test: each reading of a test split is a line of RUNS/test_uses.jsonl.

A test split that many releases were measured on is no longer new: the best of them flatters itself.
So each reading is counted before it happens, and later ones say how many there were.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

LOG = "test_uses.jsonl"

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class SplitUse:
    """One reading of a test split.

    Attributes:
        verb: evaluate, compare, report or finalize.
        release: the digest of the weights that were measured.
        area: of the release; `areas` are those whose test studies were read.
        data: the name of the dataset.
    """

    verb: str
    release: str
    area: str
    areas: tuple[str, ...]
    data: str


def log_use(runs: Path, use: SplitUse) -> int | None:
    """Append a use to the log, and return how many uses of the same test studies stood there.

    The line is appended in one write under a lock, where the file system has locks. What a killed
    call left of a line is ended, and passed over by readers. A folder that cannot be written is no
    error: the use goes unlogged.

    Returns:
        Uses of the same dataset with an area in common; None where the log cannot be read.
    """
    line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="seconds"), **asdict(use)})
    try:
        runs.mkdir(parents=True, exist_ok=True)
        handle = os.open(runs / LOG, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    except OSError:
        return count_uses(runs, use.areas, use.data)
    with os.fdopen(handle, "rb+", buffering=0) as file:
        with contextlib.suppress(OSError):  # without locks two calls at once may count alike
            fcntl.flock(file, fcntl.LOCK_EX)
        stored = file.readall()
        cut = b"\n" if stored and not stored.endswith(b"\n") else b""
        try:
            file.write(cut + line.encode() + b"\n")
            os.fsync(file.fileno())
        except OSError:  # a full disk: a measurement is worth more than its log
            pass
    return _count(stored, use.areas, use.data)


def count_uses(runs: Path, areas: Sequence[str], data: str) -> int | None:
    """Uses of a dataset's test studies of any of these areas; None where the log is unreadable."""
    try:
        return _count((runs / LOG).read_bytes(), areas, data)
    except FileNotFoundError:
        return 0
    except OSError as error:
        _LOG.warning("%s: how often test was read is not known: %s", runs / LOG, error.strerror)
        return None


def describe_uses(uses: int | None) -> str:
    """How often test was read before, as a line; empty where that is not known."""
    if uses is None:
        return ""
    if uses == 0:
        return "test of this area was not read before"
    return f"test of this area was read {uses} time{'' if uses == 1 else 's'} before"


def uses_to_json(uses: int | None) -> dict[str, int]:
    """The same as it stands in an evaluation's JSON; nothing where it is not known."""
    return {} if uses is None else {"uses_before": uses}


def _count(stored: bytes, areas: Sequence[str], data: str) -> int:
    uses = (_parse(line) for line in stored.splitlines())
    return sum(use.get("data") == data and not set(areas).isdisjoint(_areas(use)) for use in uses)


def _areas(use: dict[str, Any]) -> list[str]:
    areas = use.get("areas")
    return [area for area in areas if isinstance(area, str)] if isinstance(areas, list) else []


def _parse(line: bytes) -> dict[str, Any]:
    """A line of the log; empty where it is cut off or of somebody else."""
    try:
        use = json.loads(line)
    except ValueError:
        return {}
    return use if isinstance(use, dict) else {}
