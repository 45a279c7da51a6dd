"""The page about extensions is true: its blocks are applied to a copy, and its commands run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from extensions import SECTIONS, extend, heading

ROOT = Path(__file__).parents[2]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The project as it is, without what tools leave beside it."""
    folder = tmp_path / "project"
    folder.mkdir()
    for name in ("mura_tune", "studies", "tests/design"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.suffix in (".md", ".toml"):
            shutil.copy(path, folder)
    return folder


@pytest.mark.parametrize("section", SECTIONS, ids=heading)
def test_what_the_page_adds_works(section: str, copy: Path, phantoms: Path, tmp_path: Path) -> None:
    (tmp_path / "phantoms").symlink_to(phantoms)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MURA_")}
    environment["PYTHONPATH"] = str(copy)

    def call(*words: str, cwd: Path = tmp_path) -> None:
        ran = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]

    commands = extend(section, copy)
    assert commands
    for line in commands:
        program, *words = line.split()
        assert program == "mura"
        call(sys.executable, "-c", "from mura_tune.launch import mura; mura()", *words)
    call(sys.executable, "-m", "pytest", "-q", "tests/design/test_house.py", cwd=copy)
