"""Files appear whole, with the mode that the umask asks for, where they should lie."""

import os
import resource
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from mura_tune import files
from mura_tune.errors import InputError, explain_error


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_has_the_mode_that_the_umask_asks(tmp_path: Path, umask: int) -> None:
    files.replace_file(tmp_path / "a", b"1")
    assert mode(tmp_path / "a") == 0o666 & ~umask


def test_a_private_file_stays_private(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"1")
    path.chmod(0o600)
    files.replace_file(path, b"2", b"3")
    assert (path.read_bytes(), mode(path)) == (b"23", 0o600)


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "file")
    files.replace_file(tmp_path / "link", b"1")
    assert (tmp_path / "elsewhere" / "file").read_bytes() == b"1"
    assert (tmp_path / "link").is_symlink()


def test_a_pipe_is_refused_and_waits_for_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a regular file"):
        files.replace_file(tmp_path / "pipe", b"1")
    with pytest.raises(InputError, match="not a regular file"):
        files.check_writable(tmp_path / "pipe")


def test_a_full_disk_is_one_line_and_leaves_no_part(tmp_path: Path) -> None:
    path, limits = tmp_path / "a", resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))  # what a file may hold, not a disk
    try:
        with pytest.raises(OSError, match="too large") as error:
            files.replace_file(path, b"1" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert str(explain_error(error.value)) == f"{path}: larger than a file may be here"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "a/b", "a\\b", "a\0"])
def test_a_path_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="no name of a file"):
        files.path_within(tmp_path, name)
    with pytest.raises(InputError, match="no name of a file"):
        files.path_within(tmp_path, "fine", name)


def test_an_output_that_cannot_be_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    files.check_writable(tmp_path / "new" / "deep" / "a.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(InputError, match="a folder, not a file"):
        files.check_writable(tmp_path)
    with pytest.raises(InputError, match="is a file, not a folder"):
        files.check_writable(tmp_path / "file" / "a.csv")
    with pytest.raises(InputError, match="name is too long"):
        files.check_writable(tmp_path / ("a" * 300))
