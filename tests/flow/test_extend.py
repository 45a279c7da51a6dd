"""The page about extensions is true: its blocks are applied to a copy, and its commands run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "extend.md"
BLOCK = re.compile(r'^```(\w+)(?: title="(.+?)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)
SECTIONS = re.split(r"^## ", PAGE.read_text("utf-8"), flags=re.MULTILINE)[1:]


def patch(path: Path, diff: str) -> None:
    """Put a block's lines in the place of those that it has without `+`, which stand there once."""
    lines = diff.splitlines(keepends=True)
    old = "".join(line[1:] for line in lines if line[0] != "+").removesuffix("\n")
    new = "".join(line[1:] for line in lines if line[0] != "-").removesuffix("\n")
    text = path.read_text("utf-8")
    assert text.count(old) == 1, f"{path.name} does not hold once:\n{old}"
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The project as it is, without what tools leave beside it."""
    folder = tmp_path / "project"
    folder.mkdir()
    for name in ("mura_tune", "studies", "tests/design", "docs", "benchmarks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.suffix in (".md", ".toml", ".yml"):
            shutil.copy(path, folder)
    return folder


@pytest.mark.parametrize("section", SECTIONS, ids=lambda text: text.split("\n")[0])
def test_what_the_page_adds_works(section: str, copy: Path, phantoms: Path, tmp_path: Path) -> None:
    (tmp_path / "phantoms").symlink_to(phantoms)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MURA_")}
    environment["PYTHONPATH"] = str(copy)

    def call(*words: str, cwd: Path = tmp_path) -> None:
        ran = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]

    for language, title, text in BLOCK.findall(section):
        if language == "diff":
            patch(copy / title, text)
        elif language == "sh":
            for line in text.splitlines():
                program, *words = line.split()
                assert program == "mura"
                call(sys.executable, "-c", "from mura_tune.launch import mura; mura()", *words)
        else:
            assert not (copy / title).exists()
            (copy / title).write_text(text, encoding="utf-8")
    call(sys.executable, "-m", "pytest", "-q", "tests/design/test_house.py", cwd=copy)
