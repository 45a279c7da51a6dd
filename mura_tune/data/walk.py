"""Which files below a folder are pictures: every one but hidden files and plain documents.

Linked folders are followed, each folder once. Nothing is passed over without a word: who walks
gets the documents too, and what could not be opened.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mura_tune.errors import explain

# Suffixes of pictures. A file of another suffix may be one too, or one that is not readable here.
PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm"}
PICTURES |= {".pbm", ".pnm", ".jfif", ".jpe", ".jp2", ".dcm", ".dicom", ".heic", ".heif", ".avif"}
# Files that belong to a system's file browser, and files that by their suffix are no picture.
SYSTEM = {"thumbs.db", "ehthumbs.db", "desktop.ini", "dicomdir"}
DOCUMENTS = {".txt", ".md", ".csv", ".tsv", ".json", ".xml", ".yaml", ".yml", ".html", ".htm"}
DOCUMENTS |= {".pdf", ".doc", ".docx", ".xls", ".xlsx", ".odt", ".ods", ".ini", ".log", ".db"}
DOCUMENTS |= {".zip", ".gz", ".py", ".sh", ".safetensors", ".pt", ".onnx", ".npy", ".lock"}


@dataclass(frozen=True)
class Folder:
    """The files of one folder, sorted.

    Attributes:
        problem: why it could not be opened.
        again: whether it was read already, and this is a link to it.
    """

    path: Path
    pictures: tuple[Path, ...] = ()
    documents: tuple[Path, ...] = ()
    problem: str = ""
    again: bool = False


def folders(root: Path, visited: set[tuple[int, int]] | None = None) -> Iterator[Folder]:
    """Yield `root` and every folder below it, top down, but for hidden ones.

    A folder that may not be opened comes with its problem, and a link to one that was read already,
    here or by an earlier walk with the same `visited` (device and inode of each), without files.
    Raises OSError if `root` itself may not be opened.
    """
    os.scandir(root).close()
    visited = set() if visited is None else visited
    closed: list[Folder] = []

    def note(error: OSError) -> None:
        closed.append(Folder(Path(str(error.filename)), problem=str(explain(error) or error)))

    for name, inner, files in os.walk(root, onerror=note, followlinks=True):
        folder = Path(name)
        inner[:] = sorted(one for one in inner if not one.startswith("."))
        identity = folder.stat()
        if (identity.st_dev, identity.st_ino) in visited:
            inner.clear()
            yield Folder(folder, again=True)
            continue
        visited.add((identity.st_dev, identity.st_ino))
        pictures: list[Path] = []
        documents: list[Path] = []
        for path in (folder / one for one in sorted(files) if _is_seen(one)):
            (documents if is_document(path) else pictures).append(path)
        yield Folder(folder, tuple(pictures), tuple(documents))
    yield from closed


def is_document(path: Path) -> bool:
    """Whether a file is plainly no picture: by its suffix, or since text is all it starts with."""
    suffix = path.suffix.lower()
    if suffix in PICTURES or suffix in DOCUMENTS:
        return suffix in DOCUMENTS
    try:
        if not path.is_file():
            return False  # a pipe, a device, a broken link: an unreadable picture
        with path.open("rb") as file:
            start = file.read(1024)
        text = start.decode("utf-8", "strict" if len(start) < 1024 else "ignore")
    except (OSError, UnicodeDecodeError):
        return False
    return bool(text) and all(c.isprintable() or c in "\t\r\n\f" for c in text)


def _is_seen(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in SYSTEM
