"""The folder of a release: a new one is written beside its place and put there whole.

What stands in the place is removed last, and only if a release of ours is all that it holds. A
call that is killed leaves either release whole: in its place, or aside, where `recover_release`
finds it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from mura_tune import files, strict
from mura_tune.errors import InputError
from mura_tune.release_format import checksums
from mura_tune.release_format.manifest import MANIFEST

# What file browsers leave behind: nobody's work.
_NUISANCES = re.compile(r"\.DS_Store|\._.*|\.directory|[Tt]humbs\.db|[Dd]esktop\.ini")
_WAY_OUT = "move it elsewhere, or name another place by --releases"


def check_place(folder: Path) -> None:
    """Refuse a place in which a release would take away what is not a release of ours.

    Raises:
        InputError: there is a file, a folder that is no release, or one that also holds what its
            SHA256SUMS does not list, or a file that was changed since; or the place lies in the
            folder of another release.
    """
    files.refuse_releases(folder)
    place = folder.resolve()
    if not os.path.lexists(place):
        return
    if not place.is_dir():
        raise InputError(f"{folder}: a file, where a release's folder is to be; {_WAY_OUT}")
    names = sorted(name for name in _names(place) if not _NUISANCES.fullmatch(name))
    if not names:
        return
    if checksums.SUMS not in names or MANIFEST not in names:
        raise InputError(
            f"{folder}: holds {_several(names)} and is no release of this program "
            f"({MANIFEST} with {checksums.SUMS}), so it is not replaced; {_WAY_OUT}"
        )
    listed = checksums.parse_checksums(
        (place / checksums.SUMS).read_bytes(), folder / checksums.SUMS
    )
    foreign = [name for name in names if name not in listed and name != checksums.SUMS]
    if foreign:
        raise InputError(
            f"{folder}: holds {_several(foreign)} beside a release, which replacing "
            f"it would remove; {_WAY_OUT}"
        )
    for name in names:
        path = place / name
        if name != checksums.SUMS and not (
            path.is_file() and checksums.sha256(path) == listed[name]
        ):
            raise InputError(
                f"{folder / name}: changed since it was released, and replacing the "
                f"release would remove it; {_WAY_OUT}"
            )
    # Not by `manifest.read`: what a later version released is ours too, and what this one refuses.
    manifest = strict.parse_json((place / MANIFEST).read_bytes(), folder / MANIFEST)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("schema"), int):
        raise InputError(
            f"{folder / MANIFEST}: not a release's, so the folder is not replaced; {_WAY_OUT}"
        )


@contextlib.contextmanager
def replace_release(folder: Path) -> Iterator[Path]:
    """Give an empty folder beside `folder`; what is written into it becomes the release `folder`.

    The files get their SHA256SUMS here. New files have the mode that the umask asks for, a folder
    that was there keeps its own. If anything is raised, what was there stays as it was.

    Raises:
        InputError: what is in the place must not be replaced; see `check_place`.
        OSError: no room, no permission; it names a file of `folder`.
    """
    place = folder.resolve()  # a link stays one, and what it points at is replaced
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        recover_release(place)
        _sweep(place)
    except OSError as error:
        raise _renamed(error, place, folder) from error
    with _draft(place) as draft:
        try:
            yield draft
            checksums.write_checksums(draft)
            for path in draft.iterdir():
                _sync(path)
            files.sync_folder(draft)
            _put(draft, place)
        except OSError as error:
            _remove(draft)
            raise _renamed(error, draft, folder) from error
        except BaseException:
            _remove(draft)
            raise


def recover_release(folder: Path) -> bool:
    """Put a release back that a killed call had moved aside; whether there was one.

    Raises InputError where it is found and cannot be put back.
    """
    place = folder.resolve()
    if os.path.lexists(place) or not os.access(place.parent, os.R_OK):
        return False
    with _lock(place.parent):
        aside = _find_set_aside(place)
        if not aside or os.path.lexists(place):  # another call was faster
            return False
        try:
            aside[-1].rename(place)
            if aside[-1].parent != place.parent:
                aside[-1].parent.rmdir()
        except OSError as error:
            raise InputError(
                f"{folder}: a call that was killed left this release as {aside[-1]}, "
                f"and it cannot be put back here ({error.strerror}); move it back"
            ) from None
        files.sync_folder(place.parent)
    return True


@contextlib.contextmanager
def _draft(place: Path) -> Iterator[Path]:
    """A new folder beside `place`, locked for as long as its process writes it; see `_sweep`."""
    draft = _beside(place, "new")
    with contextlib.ExitStack() as locks:
        with _lock(place.parent):  # no sweep between the two
            draft.mkdir()
            locks.enter_context(_lock(draft))
        yield draft


def _put(draft: Path, place: Path) -> None:
    """Rename the draft into its place. A release that was there steps aside, then goes."""
    with _lock(place.parent):
        check_place(place)  # again: training took its time
        if not place.is_dir() or not any(place.iterdir()):
            draft.rename(place)
            files.sync_folder(place.parent)
            return
        draft.chmod(stat.S_IMODE(place.stat().st_mode))
        old = _beside(place, "old")
        place.rename(old)
        try:
            draft.rename(place)
        except BaseException:
            old.rename(place)
            raise
        files.sync_folder(place.parent)
        _remove_release(old)


def _find_set_aside(place: Path) -> list[Path]:
    """Releases of this name that killed calls moved aside, the latest last."""
    name = re.escape(place.name)
    releases = []
    for entry in os.scandir(place.parent):
        path = Path(entry.path)
        if re.fullmatch(rf"\.{name}-old-[a-z0-9_]{{8}}", entry.name):  # as earlier versions did
            path = path / "release"
        elif not re.fullmatch(rf"\.{name}\.old-[0-9a-f]{{12}}", entry.name):
            continue
        if (path / MANIFEST).is_file() and (path / checksums.SUMS).is_file():
            releases.append(path)
    return sorted(releases, key=lambda path: path.stat().st_mtime)


def _sweep(place: Path) -> None:
    """Remove what killed calls left of this name: drafts, and releases that were replaced."""
    name = re.escape(place.name)
    with _lock(place.parent) as held:
        if not held:
            return
        for entry in list(os.scandir(place.parent)):
            path = Path(entry.path)
            if re.fullmatch(rf"\.{name}\.new-[0-9a-f]{{12}}", entry.name):
                with _lock(path, wait=False) as dead:
                    if dead:
                        _remove(path)
            elif place.is_dir() and re.fullmatch(rf"\.{name}\.old-[0-9a-f]{{12}}", entry.name):
                _remove_release(path)


@contextlib.contextmanager
def _lock(folder: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a folder's lock, which goes with the process; False where there is none to be had."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            held = True
        except OSError:  # somebody has it, or a network disk that locks no folders
            held = False
        yield held
    finally:
        os.close(handle)


def _beside(place: Path, kind: str) -> Path:
    """A hidden name that nobody has; no release's, as it ends in twelve digits of its own."""
    return place.with_name(f".{place.name}.{kind}-{secrets.token_hex(6)}")


def _remove_release(folder: Path) -> None:
    """Remove a release, file by file as its sums name them; what else is there stays."""
    listed: dict[str, str] = {}
    with contextlib.suppress(OSError, InputError):
        listed = checksums.parse_checksums((folder / checksums.SUMS).read_bytes(), folder)
    with contextlib.suppress(OSError):
        nuisances = [name for name in _names(folder) if _NUISANCES.fullmatch(name)]
        for name in (
            *listed,
            *nuisances,
            checksums.SUMS,
        ):  # the sums last: a kill leaves the rest known
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()


def _remove(draft: Path) -> None:
    """Remove a draft; it holds plain files alone."""
    with contextlib.suppress(OSError):
        for path in draft.iterdir():
            path.unlink()
        draft.rmdir()


def _renamed(error: OSError, draft: Path, folder: Path) -> OSError:
    """The error with the name that the file was to have."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or error.filename is None:
        return OSError(error.errno, error.strerror, str(folder))
    name = Path(os.fsdecode(error.filename))
    shown = folder / name.relative_to(draft) if name.is_relative_to(draft) else name
    return OSError(error.errno, error.strerror, str(shown))


def _sync(path: Path) -> None:
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def _several(names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more}"
