"""The page about extensions is true: its blocks are applied to a copy, and its commands run."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from extensions import SECTIONS, extend, heading

ROOT = Path(__file__).parents[2]
# Runs the commands of each copy in a process of its own, forked where torch is imported already;
# mura_tune is imported after the fork, from the copy. A line of stdin is a copy, the folder to run
# in and the commands, of `mura` or `pytest`; a line of stdout is how the process ended, after what
# it said.
COMMANDS = """
import json, os, sys
import pytest
import alembic.command, matplotlib.figure, optuna_dashboard, pandas, sqlalchemy, timm, torch
for line in sys.stdin:
    copy, folder, commands = json.loads(line)
    if pid := os.fork():
        print(f"ended {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}", flush=True)
        continue
    os.environ["PYTHONPATH"] = copy
    sys.path.insert(0, copy)
    os.chdir(folder)
    from mura_tune.launch import mura
    assert sys.modules["mura_tune"].__file__.startswith(copy)
    for sys.argv in commands:
        try:
            sys.exit(pytest.main(sys.argv[1:]) if sys.argv[0] == "pytest" else mura())
        except SystemExit as end:
            if end.code:
                sys.stdout.flush()
                os._exit(end.code)
    sys.stdout.flush()
    os._exit(0)
"""
# What the process imported before, pytest cannot rewrite: none of it is a test.
HOUSE = "pytest -q -W ignore::pytest.PytestAssertRewriteWarning tests/design/test_house.py"
# A trial of fewer epochs than on the page, which leaves their number as it is.
QUICK = " --set finetune.epochs=1 --set final.head.epochs=1"
Commands = Callable[[Path, Path, list[str]], tuple[str, str]]


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("MURA_") and k != "PYTHONPATH"}


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    """Runs command lines with the code of a copy in a folder: what they said, how they ended."""
    with subprocess.Popen(
        [sys.executable, "-c", COMMANDS],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdin
        assert process.stdout

        def call(copy: Path, folder: Path, lines: list[str]) -> tuple[str, str]:
            said = ""
            job = [str(copy), str(folder), [line.split() for line in lines]]
            print(json.dumps(job), file=process.stdin, flush=True)
            for line in process.stdout:
                if line.startswith("ended "):
                    return said, line.removeprefix("ended ").strip()
                said += line
            return said, "gone"

        yield call


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The project as it is, compiled as far as it was."""
    folder = tmp_path / "project"
    folder.mkdir()
    for name in ("mura_tune", "studies", "tests/design"):
        shutil.copytree(ROOT / name, folder / name)
    for path in ROOT.iterdir():
        if path.suffix in (".md", ".toml"):
            shutil.copy(path, folder)
    return folder


@pytest.mark.parametrize("section", SECTIONS, ids=heading)
def test_what_the_page_adds_works(
    section: str, copy: Path, phantoms: Path, tmp_path: Path, commands: Commands
) -> None:
    (tmp_path / "phantoms").symlink_to(phantoms)
    lines = extend(section, copy)
    assert lines
    assert [line for line in lines if not line.startswith("mura ")] == []
    lines = [line + QUICK if line.startswith("mura tune ") else line for line in lines]
    said, code = commands(copy, tmp_path, lines)
    assert code == "0", said[-3000:]


def test_all_that_the_page_adds_obeys_the_design_rules(copy: Path, commands: Commands) -> None:
    for section in SECTIONS:
        extend(section, copy)
    said, code = commands(copy, copy, [HOUSE])
    assert code == "0", said[-3000:]
    assert " passed" in said
