"""Where a release is: a folder or file, an address, or a name under a base address."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path

from mura_tune.errors import InputError


def place(
    release: str | None, area: str | None, releases: Path, base_url: str | None,
    say: Callable[[str], None],
) -> Path:  # fmt: skip
    """The folder to load: `release` if it is given, else the one named `area`.

    What exists on this disk is taken first. Another name is looked for under `base_url`, or under
    the one that config.yaml names; see `fetch` for `#sha256=`.

    Args:
        releases: where a release is looked for by its area.

    Raises:
        InputError: neither is given, or a release that is not what it should be.
        MuraError: it has to be fetched, and its server is out of reach.
    """
    if not release and not area:
        raise InputError("name the --area, or the --release")
    here = Path(release) if release else releases / str(area)
    if here.exists():
        return here
    name = release or str(area)
    if not name.startswith(("http://", "https://")):
        base = base_url or configured()
        if not base:
            return here  # whoever loads it says what is missing
        name = f"{base.rstrip('/')}/{name}"
    from mura_tune.reading.fetch import fetch

    return fetch(name, say)


def shelf(
    releases: Path, base_url: str | None, say: Callable[[str], None]
) -> Callable[[str], Path]:
    """Finds releases by their names, as `place` does, and looks for each once.

    A name that is neither here nor there gives a folder that does not exist: RELEASES/NAME.
    """

    @functools.cache
    def find(name: str) -> Path:
        from mura_tune.reading.fetch import Absent

        try:
            return place(None, name, releases, base_url, say)
        except Absent:
            return releases / name

    return find


def config_file() -> Path:
    """What a person set for all projects: in XDG_CONFIG_HOME, which is ~/.config by default."""
    folder = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(folder) / "mura-tune" / "config.yaml"


def configured() -> str | None:
    """The `base_url` of config.yaml; None without one.

    Raises:
        InputError: a file that holds anything else.
    """
    path = config_file()
    if not path.is_file():
        return None
    import yaml

    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    base = raw.get("base_url") if isinstance(raw, dict) and len(raw) == 1 else None
    if not isinstance(base, str):
        raise InputError(f"{path}: holds one line, base_url: https://HOST/FOLDER, and nothing else")
    return base
