"""How a command ends: one printable line, the right code, whatever it was started with."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from mura_tune import console

ROOT = Path(__file__).parents[2]


def end(command: Callable[[], object], capfd: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a click command made of a function."""
    with pytest.raises(SystemExit) as leave:
        console.run_command(click.command()(command), "mura", [])
    assert isinstance(leave.value.code, int)
    return leave.value.code, *capfd.readouterr()


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, "permission denied"),
        (errno.ENOENT, "no such file or folder"),
        (errno.EROFS, "read-only"),
        (errno.ENOSPC, "no space left on the device; make room, and the same command goes on"),
        (errno.EDQUOT, "quota"),
        (errno.ENAMETOOLONG, "too long"),
        (errno.EISDIR, "a folder, not a file"),
        (errno.ENOTDIR, "not a folder"),
        (errno.EMFILE, "too many open files"),
    ],
)
def test_what_the_system_refuses_is_bad_input(
    number: int, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    def verb() -> None:
        try:
            raise OSError(number, "as Python says it", "some/path")
        except OSError as error:
            raise RuntimeError("a library's own words") from error

    code, out, err = end(verb, capfd)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith("mura: some/path: ")
    assert words in err


def test_a_bug_that_met_a_missing_file_on_its_way_is_still_a_bug(
    capfd: pytest.CaptureFixture[str],
) -> None:
    def verb() -> object:
        try:
            Path("not-there").read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}["key"]

    assert end(verb, capfd)[0] == 1


def test_a_line_from_a_hostile_name_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    def verb() -> None:
        raise click.UsageError("no such thing: a\nb \x1b[31m \udcff")

    code, _, err = end(verb, capfd)
    assert code == 2
    assert err == "mura: no such thing: a b \\x1b[31m \\xff (mura --help explains)\n"


def test_a_report_shows_names_as_escapes(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = end(lambda: console.print_report(False, dict, lambda: "a\x1b\n  b\udcff"), capfd)
    assert (code, out) == (0, "a\\x1b\n  b\\xff\n")


def test_a_byte_of_a_name_is_the_same_escape_wherever_it_is_printed() -> None:
    code = """if True:
        import click, sys
        from mura_tune import console
        show = click.Command("show", params=[click.Argument(["name"])])
        show.callback = lambda name: click.echo(name)
        console.run_command(show, "mura", sys.argv[1:])
    """
    told = subprocess.run(
        [sys.executable, "-c", code, b"R\xf6ntgen"],
        capture_output=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
    )
    assert (told.stdout, told.stderr) == (b"R\\xf6ntgen\n", b"")


def commands() -> list[str]:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return list(scripts["scripts"].values())


def started(code: str, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        check=False,
    )


@pytest.mark.parametrize("target", commands())
def test_ctrl_c_while_modules_are_imported_is_one_line(target: str) -> None:
    module, function = target.split(":")
    interrupt = (
        "import builtins, os, signal, sys\n"
        f"from {module} import {function} as start\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'click': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "start()\n"
    )
    ended = started(interrupt, "--help")
    assert ended.returncode == 130
    assert ended.stderr.endswith(": interrupted\n")
    assert len(ended.stderr.splitlines()) == 1


MURA = "from mura_tune.launch import mura; mura()"


def test_a_system_without_file_locks_is_told_at_once() -> None:
    ended = started(f"import sys; sys.modules['fcntl'] = None\n{MURA}", "show", "XR_WRIST")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        "mura: needs Linux or macOS (on Windows: inside WSL); this system has no fcntl\n"
    )


def test_a_closed_stdout_swallows_the_report() -> None:
    ended = started(f"import sys; sys.stdout = None\n{MURA}", "show", "XR_WRIST")
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_command_that_ends_does_not_look_for_garbage() -> None:
    """What it has loaded would take seconds to look through."""
    code = (
        "class Circle:\n"
        "    def __init__(self): self.circle = self\n"
        "    def __del__(self): print('found')\n"
        "circle = Circle()\n"
    )
    assert started(code).stdout == "found\n"
    assert started(code + MURA, "show", "--help").stdout.startswith("Usage: ")
    assert "found" not in started(code + MURA, "show", "--help").stdout


def test_a_notebooks_environment_breaks_nothing() -> None:
    code = (
        "import sys, click\nfrom mura_tune import console\n"
        "@click.command()\ndef draw():\n    import matplotlib.pyplot\n    print('drawn')\n"
        "console.run_command(draw, 'mura', [])"
    )
    ended = started(code, MPLBACKEND="module://matplotlib_inline.backend_inline")
    assert (ended.returncode, ended.stdout) == (0, "drawn\n")


def words_of(target: str, *variables: str) -> list[list[str]]:
    """What `make TARGET` would run, each command as the words that a shell makes of it."""
    dry = subprocess.run(
        ["make", "-n", "-o", ".venv/.ready", target, *variables],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
        env={"PATH": os.environ["PATH"]},
    ).stdout.replace(".venv/bin/mura ", "said ")
    said = "import sys, json; print(json.dumps(sys.argv[1:]))"
    script = f"said() {{ {sys.executable} -c '{said}' \"$@\"; }}\n{dry}"
    ran = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("[")]


def test_make_passes_any_path_on_as_it_is() -> None:
    data, runs = 'My Drive/it\'s "MURA"', "r; echo x && `y`"
    [tuned] = words_of("tune", "AREA=XR_HAND", f"DATA={data}", f"RUNS={runs}", "WORKERS=2")
    assert tuned == ["tune", "XR_HAND", "--data", data, "--runs", runs, "--workers", "2"]
    [finalized] = words_of("finalize", "AREA=XR_HAND", f"DATA={data}", "RELEASES=a b")
    assert finalized[-2:] == ["--releases", "a b"]


def test_a_command_of_verbs_without_one_prints_its_help(capfd: pytest.CaptureFixture[str]) -> None:
    group = click.Group("mura", commands={"check": click.Command("check", help="Count it.")})
    with pytest.raises(SystemExit):
        console.run_command(group, "mura", [])
    out, err = capfd.readouterr()
    assert (out + err).splitlines()[0] == "Usage: mura [OPTIONS] COMMAND [ARGS]..."
    assert "  check  Count it." in (out + err).splitlines()
