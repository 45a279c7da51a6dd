"""Features of frozen stages: computed once, kept in memory by a process and on disk for all.

On disk an entry is whole or absent. `KEY.bin` holds an entry's rows one after another, as a memmap
reads them, and `KEY.json`, written last, what they are; the key is a digest of all that decides
their content. `KEY.tmp` is an entry being written; its writer's lock on it dies with the process,
and nobody waits: who needs the entry meanwhile computes it. All else is done in a moment under the
folder's lock.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import torch
from torch import Tensor

from mura_tune.errors import InputError
from mura_tune.files import hold_lock, try_lock

_LOG = logging.getLogger(__name__)


class FeatureCache(Protocol):
    """Keeps the batches of features that it is asked for, or some of them."""

    def batches(
        self,
        about: Mapping[str, Any],
        sizes: Sequence[int],
        device: torch.device,
        compute: Callable[[], Iterable[Tensor]],
    ) -> Iterator[Tensor]:
        """Batches of `sizes` rows on `device`: those that are kept, else computed, and kept on the
        way.

        Args:
            about: all that decides the content, as JSON; equal ones name the same entry.
            compute: gives the batches afresh.
        """


@dataclass(frozen=True)
class FeatureMemory:
    """Features in the memory of their device, which one process keeps before another store.

    A batch comes as a copy, so that nobody changes what is kept. Within `budget` bytes the entries
    used longest ago make room for new ones. What is not kept here comes from `store`; an entry that
    does not fit always does.
    """

    store: FeatureCache
    budget: int
    _entries: OrderedDict[str, list[Tensor]] = field(default_factory=OrderedDict, repr=False)

    def batches(
        self,
        about: Mapping[str, Any],
        sizes: Sequence[int],
        device: torch.device,
        compute: Callable[[], Iterable[Tensor]],
    ) -> Iterator[Tensor]:
        """See `FeatureCache.batches`."""
        key = f"{_entry_key(about)} {device}"
        if (entry := self._entries.get(key)) is not None:
            self._entries.move_to_end(key)
            yield from (batch.clone() for batch in entry)
            return
        taken: list[Tensor] = []
        fits = True
        for batch in self.store.batches(about, sizes, device, compute):
            if not taken and fits:
                fits = self._make_room(batch[0].nbytes * sum(sizes))
            if fits:
                with torch.inference_mode(False):  # dev's too may be trained on, as another split
                    taken.append(batch.clone())
            yield batch
        if fits:
            self._entries[key] = taken

    @property
    def bytes(self) -> int:
        """What the entries take."""
        return sum(batch.nbytes for batches in self._entries.values() for batch in batches)

    def _make_room(self, needed: int) -> bool:
        """Evict until `needed` bytes fit; False where they cannot."""
        if needed > self.budget:
            return False
        while self.bytes + needed > self.budget:
            self._entries.popitem(last=False)
        return True


@dataclass(frozen=True)
class FeatureStore:
    """A folder of features that any number of processes share; InputError if it cannot be made.

    Within `budget` bytes the entries used longest ago make room for new ones. An entry that does
    not fit, or finds the disk full, is computed each time it is needed.
    """

    folder: Path
    budget: int = 20 * 10**9  # head and last stage of MURA's largest area, in bfloat16: 13 GB

    def __post_init__(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise InputError(f"{self.folder}: cannot be made ({reason})") from None

    def batches(
        self,
        about: Mapping[str, Any],
        sizes: Sequence[int],
        device: torch.device,
        compute: Callable[[], Iterable[Tensor]],
    ) -> Iterator[Tensor]:
        """See `FeatureCache.batches`."""
        key = _entry_key(about)
        if (entry := self._find(key)) is not None:
            yield from _read(*entry, sizes, device)
            return
        writer = _Writer(self, key, about, sum(sizes))
        try:
            for batch in compute():
                writer.add(batch)
                yield batch
            writer.commit()
        finally:
            writer.discard()

    def _find(self, key: str) -> tuple[BinaryIO, dict[str, Any]] | None:
        """The open file of a whole entry, marked as used now, and its manifest."""
        manifest = self.folder / f"{key}.json"
        try:
            header = json.loads(manifest.read_text("utf-8"))
            size = int(header["bytes"])
            os.utime(manifest)
            file = (self.folder / f"{key}.bin").open("rb")  # readable even if evicted meanwhile
            if os.fstat(file.fileno()).st_size == size:
                return file, header
            file.close()
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            _LOG.warning("%s: not used: %s", manifest, error)
        return None

    def _make_room(self, needed: int) -> bool:
        """Evict until `needed` bytes fit; False where they cannot. Call under the folder's lock."""
        for file in [*self.folder.glob("*.new"), *self.folder.glob("*.tmp")]:
            with file.open("rb") as opened:
                if try_lock(opened):  # nobody writes it any more
                    file.unlink()
        entries = []
        for file in self.folder.glob("*.bin"):
            manifest = file.with_suffix(".json")
            if manifest.exists():
                entries.append((manifest.stat().st_mtime_ns, file.stat().st_size, file, manifest))
            else:  # its writer, or who evicted it, was killed between the two
                file.unlink()
        used = sum(size for _, size, *_ in entries)
        promised = sum(file.stat().st_size for file in self.folder.glob("*.tmp"))
        if promised + needed > self.budget:
            return False
        for _, size, file, manifest in sorted(entries):
            if used + promised + needed <= self.budget:
                break
            manifest.unlink()
            file.unlink()  # who reads it keeps it until then
            used -= size
        return 2 * needed <= shutil.disk_usage(self.folder).free  # others write here too


def _entry_key(about: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]


class _Writer:
    """One entry on its way to the disk. It gives up rather than stop a training run."""

    def __init__(self, store: FeatureStore, key: str, about: Mapping[str, Any], rows: int) -> None:
        self.store, self.key, self.about, self.rows = store, key, about, rows
        self.file: BinaryIO | None = None
        self.given_up = False
        self.header: dict[str, Any] = {}
        self.written = 0
        self.temporary = store.folder / f"{key}.tmp"
        self._pending: list[tuple[Tensor, torch.Event]] = []

    def add(self, batch: Tensor) -> None:
        """Append a batch; from a GPU it is copied while the next one is computed."""
        if self.given_up:
            return
        channels_last = batch.ndim == 4 and batch.is_contiguous(memory_format=torch.channels_last)
        rows = (batch.permute(0, 2, 3, 1) if channels_last else batch).detach().contiguous()
        try:
            if self.file is None:
                self._begin(rows, channels_last)
            if rows.is_cuda:
                host = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
                copied = torch.Event(rows.device)
                host.copy_(rows, non_blocking=True)
                copied.record()
                self._pending.append((host, copied))
                self._flush(leave=1)
            else:
                self._write(rows)
        except OSError as error:
            _LOG.warning("%s: features are not kept: %s", self.store.folder, error)
            self.discard()

    def _begin(self, rows: Tensor, channels_last: bool) -> None:
        """Lock the temporary file and reserve its size; else give up."""
        size = self.rows * math.prod(rows.shape[1:]) * rows.element_size()
        self.header = {
            "bytes": size,
            "dtype": str(rows.dtype).removeprefix("torch."),
            "row": list(rows.shape[1:]),
            "channels_last": channels_last,
            "about": self.about,
        }
        with hold_lock(self.store.folder / "lock"):
            if faster := self.store._find(self.key):
                faster[0].close()
                self.given_up = True
                return
            file = os.fdopen(os.open(self.temporary, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
            if not try_lock(file):  # another process is writing it, and the file is not ours
                file.close()
                self.given_up = True
                return
            self.file = file
            file.truncate(0)
            if not self.store._make_room(size):
                self._close(remove=True)
                return
            file.truncate(size)  # counts against the budget from now on

    def _write(self, rows: Tensor) -> None:
        if self.file is not None:
            self.written += self.file.write(rows.view(torch.uint8).numpy().data)

    def _flush(self, leave: int) -> None:
        while len(self._pending) > leave:
            host, copied = self._pending.pop(0)
            copied.synchronize()
            self._write(host)

    def commit(self) -> None:
        """Make the entry visible, if it is whole."""
        try:
            self._flush(leave=0)
            if self.file is None or self.written != self.header["bytes"]:
                return
            self.file.flush()
            os.fsync(self.file.fileno())
            with hold_lock(self.store.folder / "lock"):
                self.temporary.replace(self.temporary.with_suffix(".bin"))
                new = self.temporary.with_suffix(".new")
                with new.open("w", encoding="utf-8") as out:
                    json.dump(self.header, out)
                    out.flush()
                    os.fsync(out.fileno())
                new.replace(self.temporary.with_suffix(".json"))
                self._close(remove=False)
        except OSError as error:
            _LOG.warning("%s: features are not kept: %s", self.store.folder, error)

    def discard(self) -> None:
        """Forget what is not committed."""
        self._pending.clear()
        if self.file is not None:
            with hold_lock(self.store.folder / "lock"):
                self._close(remove=True)
        self.given_up = True

    def _close(self, remove: bool) -> None:  # under the folder's lock
        if remove:
            self.temporary.unlink(missing_ok=True)
        if self.file is not None:
            with contextlib.suppress(OSError):  # closing writes what is buffered: the disk is full
                self.file.close()
        self.file, self.given_up = None, True


def _read(
    file: BinaryIO, header: Mapping[str, Any], sizes: Sequence[int], device: torch.device
) -> Iterator[Tensor]:
    """Yield the rows in batches. Each maps its own bytes of the file: read ones take no memory."""
    dtype, shape, offset = getattr(torch, header["dtype"]), header["row"], 0
    with file:
        for n in sizes:
            size = n * math.prod(shape) * dtype.itemsize
            mapped = np.memmap(file, np.uint8, "r", offset, (size,))
            # A copy in a fresh tensor: aligned as the computed one was, pinned for a GPU.
            taken = torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
            np.copyto(taken.numpy(), mapped)
            rows = taken.view(dtype).view(n, *shape).to(device, non_blocking=True)
            yield rows.permute(0, 3, 1, 2) if header["channels_last"] else rows
            offset += size
