"""SHA256SUMS: what a release consists of, byte for byte. Nothing else of it is read before."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from mura_tune.errors import InputError
from mura_tune.files import RELEASE_FILES

_MANIFEST, SUMS = RELEASE_FILES
_DIGEST = re.compile("[0-9a-f]{64}")


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_checksums(folder: Path) -> None:
    """List every file of `folder`, as the last of its files, in the form of `sha256sum`."""
    names = sorted(path.name for path in folder.iterdir())
    lines = "".join(f"{sha256(folder / name)}  {name}\n" for name in names)
    (folder / SUMS).write_text(lines, encoding="utf-8")


def parse_checksums(content: bytes, source: object) -> dict[str, str]:
    """Digest by name. A name is that of a file in the folder itself, and stands there once.

    Raises:
        InputError: a line that is none of this, by its number after `source`.
    """
    listed: dict[str, str] = {}
    *lines, rest = content.split(b"\n")
    for number, line in enumerate(lines, start=1):
        digest, _, name = line.decode("utf-8", "replace").partition("  ")
        if not _DIGEST.fullmatch(digest) or name in listed or not _plain(name):
            raise InputError(f"{source}: line {number} is damaged; fetch the release again")
        listed[name] = digest
    if rest:
        raise InputError(f"{source}: its last line is cut off; fetch the release again")
    return listed


def read_checksums(folder: Path) -> dict[str, str]:
    """Digest by name, as the SHA256SUMS of a release's folder has it; see `parse_checksums`.

    Raises:
        InputError: there is none, or it is damaged.
    """
    path = folder / SUMS
    if not path.is_file():
        raise InputError(f"{path}: missing, so nothing vouches for this release; fetch it again")
    return parse_checksums(path.read_bytes(), path)


def check_file(folder: Path, name: str, listed: Mapping[str, str]) -> None:
    """Raise InputError unless a file of a release is as it was `listed`."""
    file = folder / name
    if name not in listed:
        raise InputError(f"{folder / SUMS}: does not list {name}; fetch the release again")
    if not file.is_file():
        raise InputError(f"{file}: listed in {SUMS} and missing; fetch the release again")
    if sha256(file) != listed[name]:
        raise InputError(
            f"{file}: not as released (its sha256 differs from {SUMS}); fetch the release again"
        )


def check_files(folder: Path) -> dict[str, str]:
    """Hold every file of `folder` against its SHA256SUMS; gives what `parse_checksums` gives.

    Hidden files, such as a file browser's notes, belong to nobody.

    Raises:
        InputError: a file that is missing, changed or listed nowhere, by its name.
    """
    listed = read_checksums(folder)
    for name in dict.fromkeys((_MANIFEST, *listed)):
        check_file(folder, name, listed)
    for file in sorted(folder.iterdir()):
        if file.name not in listed and file.name != SUMS and not file.name.startswith("."):
            raise InputError(
                f"{file}: not listed in {SUMS}, so no part of this release; move it "
                "elsewhere, or fetch the release again"
            )
    return listed


def _plain(name: str) -> bool:
    """Whether it may be the name of a release's file: plain, not hidden, not the sums' own."""
    if not name or not name.isprintable() or name == SUMS:
        return False
    return not name.startswith(".") and not set(name) & set("/\\:")
