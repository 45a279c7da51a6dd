"""Checkpoints of final runs between epochs: whole files, each for the run that wrote it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import mura_tune
from mura_tune import files
from mura_tune.data.prepare import Prepared
from mura_tune.recipe import Recipe
from mura_tune.release_format.folder import check_place, recover_release
from mura_tune.training.fit import Epoch, Memory, State

DIGEST_BYTES = 32  # bytes of sha256 that open a file
UNUSABLE_ERRORS = (
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    RuntimeError,
    pickle.UnpicklingError,
)


@contextlib.contextmanager
def hold_places(release: Path, finals: Path) -> Iterator[None]:
    """Hold the places of a release: no other process makes `release` or trains in `finals`.

    Raises:
        InputError: another process does, or the release would take the place of something else.
    """
    busy = (
        f"{release}: another 'mura finalize' is making it; wait for that one, or stop it (what "
        "it has trained is kept) and run this again"
    )
    with (
        files.hold_sole_lock(release.with_name(f".{release.name}.lock"), busy),
        files.hold_sole_lock(finals.with_name(f".{finals.name}.lock"), busy),
    ):
        recover_release(release)
        check_place(release)
        yield


class Checkpoints:
    """The checkpoints of one search's final runs, a file a recipe, until their release is whole.

    Args:
        say: is called with a line that says why a checkpoint is not used.
    """

    def __init__(self, folder: Path, prepared: Prepared, say: Callable[[str], None]) -> None:
        self._folder, self._prepared, self._say = folder, prepared, say

    def of(self, recipe: Recipe, patients: str = "") -> Memory:
        """The memory of the run of `recipe`, on the patients of that name; "" stands for train."""
        run = {
            "recipe": recipe.digest,
            "dataset": self._prepared.fingerprint,
            "split": self._prepared.split_hash,
            "mura-tune": mura_tune.__version__,
            "torch": str(torch.__version__),  # a plain text: nothing else is read back
        }
        name = f"seed-{recipe.seed}"
        if patients:
            run["patients"] = patients
            name += f"-{patients.replace(' ', '-')}"
        return Checkpoint(self._folder / f"{name}.pt", run, self._say)

    def clear(self) -> None:
        """Remove them, and their folder if it holds nothing else."""
        with contextlib.suppress(OSError):
            for path in (*self._folder.glob("seed-*.pt"), *self._folder.glob(".seed-*.pt-*")):
                path.unlink()
            self._folder.rmdir()


@dataclass(frozen=True)
class Checkpoint:
    """A memory in one file.

    Attributes:
        run: what the run depends on, by name; a file with anything else in it is left unused.
        say: is called with a line that says why the file is not used.
    """

    path: Path
    run: Mapping[str, str]
    say: Callable[[str], None]

    def load(self) -> State | None:
        try:
            whole = self.path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            return _state(self._checked(whole))
        except UNUSABLE_ERRORS as error:
            why = str(error) if type(error) is ValueError else "of another version"
            self.say(f"{self.path}: a checkpoint not used ({why}): training starts again")
            self.path.unlink(missing_ok=True)
            return None

    def save(self, state: State) -> None:
        content = io.BytesIO()
        torch.save({"run": dict(self.run), "state": _plain(state)}, content)
        data = content.getbuffer()
        files.replace_file(self.path, hashlib.sha256(data).digest(), data)

    def _checked(self, whole: bytes) -> dict[str, Any]:
        """The values that `save` stored, checked."""
        digest, content = whole[:DIGEST_BYTES], whole[DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != digest:
            raise ValueError("damaged")
        stored = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        for name, value in self.run.items():
            if stored["run"].get(name) != value:
                raise ValueError(f"of another {name}")
        state: dict[str, Any] = stored["state"]
        return state


def _plain(state: State) -> dict[str, Any]:
    named = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    epochs = [dataclasses.asdict(epoch) for epoch in state.epochs]
    return named | {"epochs": epochs, "epoch": state.epoch.number}


def _state(plain: dict[str, Any]) -> State:
    epochs = tuple(Epoch(**epoch) for epoch in plain["epochs"])
    epoch = epochs[plain["epoch"] - 1]  # they count from 1
    return State(**plain | {"epochs": epochs, "epoch": epoch})
