"""The lines that the page of troubleshooting shows are those that its commands print."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Ran

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "troubleshooting.md"


def examples() -> list[list[tuple[str, str]]]:
    """The page's console blocks: in each, commands with the line that is shown below them."""
    blocks = re.findall(r"```console\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    return [re.findall(r"^\$ (.+)\n(.+)$", block, re.MULTILINE) for block in blocks]


@pytest.mark.parametrize("example", examples(), ids=lambda example: example[0][0].split()[1])
def test_commands_print_the_lines_that_are_shown(
    example: list[tuple[str, str]],
    run: Callable[..., Ran],
    phantoms: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("MURA_RUNS", "MURA_RELEASES"):
        monkeypatch.delenv(name)
    Path("phantoms").symlink_to(phantoms)
    Path("view.png").symlink_to(next(phantoms.rglob("image1.png")))
    Path("damaged").mkdir()
    Path("damaged/bundle.json").write_text("{}", encoding="utf-8")
    for command, shown in example:
        program, *words = shlex.split(command)
        assert program == "mura"
        ran = run(*words)
        if shown == "…":
            assert ran.code == 0, ran.err
            continue
        assert ran.code == 2
        pattern = ".*".join(re.escape(piece) for piece in shown.split("…"))
        assert re.fullmatch(pattern, ran.err.splitlines()[-1]), ran.err
