"""What computes the numbers of a trial: this program, and the libraries that do its arithmetic."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import mura_tune

LIBRARIES = ("torch", "torchvision", "timm", "numpy", "pillow", "optuna")


@dataclass(frozen=True)
class Software:
    """A version of this program.

    Attributes:
        version: of the package.
        source: sha256 of its modules, by their names in the package and their contents: the same
            wherever it is installed.
        libraries: the version of each of LIBRARIES, without what names a build, such as `+cu128`.
    """

    version: str
    source: str
    libraries: Mapping[str, str]

    def __str__(self) -> str:
        return f"mura-tune {self.version} (source {self.source[:8]})"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(plain: Mapping[str, Any]) -> Software:
        """As `to_json` made it, by this version or a later one."""
        return Software(plain["version"], plain["source"], dict(plain["libraries"]))

    def is_same_program(self, other: Software) -> bool:
        """Whether two machines run the same modules."""
        return (self.version, self.source) == (other.version, other.source)

    def differing_libraries(self, other: Software) -> dict[str, tuple[str, str]]:
        """The version here and there of each library that differs."""
        ours, theirs = self.libraries, other.libraries
        return {
            name: (ours[name], theirs[name])
            for name in ours
            if name in theirs and ours[name] != theirs[name]
        }


def running_software(package: Path | None = None) -> Software:
    """What runs here.

    Args:
        package: the folder of the modules; None for those that are imported.
    """
    package = package or Path(mura_tune.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        content = path.read_bytes().replace(b"\r\n", b"\n")
        name = path.relative_to(package).as_posix()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    libraries = {name: metadata.version(name).partition("+")[0] for name in LIBRARIES}
    return Software(mura_tune.__version__, digest.hexdigest(), libraries)
