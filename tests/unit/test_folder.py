"""A release takes the place of a release alone; killed anywhere, one of the two stands whole."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mura_tune import files
from mura_tune.errors import InputError
from mura_tune.release_format import checksums
from mura_tune.release_format.folder import check_place, recover_release, replace_release

# For each line of stdin, a step and a place: a process, forked where all is imported, writes a
# release anew and is killed at that step of those that change the disk. A line of stdout says how
# it ended.
KILLED = """
import os, signal, sys
from pathlib import Path
from mura_tune.release_format.folder import replace_release
for line in sys.stdin:
    number, place = line.split(maxsplit=1)
    if pid := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
        continue
    at, place, step = int(number), Path(place.rstrip("\\n")), 0
    def deadly(change):
        def call(*args, **options):
            global step
            step += 1
            if step == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return change(*args, **options)
        return call
    for name in ("mkdir", "rename", "unlink", "rmdir", "chmod"):
        setattr(os, name, deadly(getattr(os, name)))
    with replace_release(place) as draft:
        (draft / "bundle.json").write_text('{"schema": 2, "made": "new"}')
        (draft / "report.html").write_text("new")
    os._exit(0)
"""


@pytest.fixture(scope="module")
def killed() -> Iterator[Callable[[int, Path], int]]:
    """Writes a release anew, up to a step at which it is killed; gives the exit code."""
    with subprocess.Popen(
        [sys.executable, "-c", KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout

        def call(step: int, place: Path) -> int:
            print(step, place, file=process.stdin, flush=True)
            return int(process.stdout.readline())

        yield call


def write(folder: Path, made: str = "old") -> Path:
    with replace_release(folder) as draft:
        (draft / "bundle.json").write_text(json.dumps({"schema": 2, "made": made}))
        (draft / "model.safetensors").write_bytes(b"weights")
    return folder


def made(folder: Path) -> str:
    """Which release stands there, whole."""
    checksums.check_files(folder)
    return str(json.loads((folder / "bundle.json").read_text())["made"])


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def notes(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("years of work")


def radiographs(folder: Path) -> None:
    (folder / "patient1" / "study1").mkdir(parents=True)
    (folder / "patient1" / "study1" / "image1.png").write_bytes(b"png")


def one_file(folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    folder.write_text("a file")


def summed(folder: Path) -> None:
    """Somebody else's files, with sums of their own."""
    notes(folder)
    checksums.write_checksums(folder)


def summed_with_a_bundle(folder: Path) -> None:
    notes(folder)
    (folder / "bundle.json").write_text("[]")
    checksums.write_checksums(folder)


def release_with_notes(folder: Path) -> None:
    (write(folder) / "notes.txt").write_text("read on Monday")


def release_with_a_folder(folder: Path) -> None:
    (write(folder) / "cases").mkdir()


def release_with_something_hidden(folder: Path) -> None:
    (write(folder) / ".git").mkdir()


def edited_release(folder: Path) -> None:
    (write(folder) / "model.safetensors").write_bytes(b"better weights")


@pytest.mark.parametrize(
    ("occupy", "named"),
    [
        (notes, "notes.txt"),
        (radiographs, "patient1"),
        (one_file, "a file"),
        (summed, "no release"),
        (summed_with_a_bundle, "bundle.json"),
        (release_with_notes, "notes.txt"),
        (release_with_a_folder, "cases"),
        (release_with_something_hidden, ".git"),
        (edited_release, "model.safetensors: changed since it was released"),
    ],
)
def test_what_is_no_release_of_ours_is_neither_replaced_nor_removed(
    tmp_path: Path, occupy: Callable[[Path], None], named: str
) -> None:
    place = tmp_path / "releases" / "XR_WRIST"
    occupy(place)
    before = content(tmp_path)
    with pytest.raises(InputError, match="elsewhere") as refused:
        check_place(place)
    assert named in str(refused.value)
    with pytest.raises(InputError, match="elsewhere"):
        write(place, "new")
    assert content(tmp_path) == before
    assert names(place.parent) == [place.name]


def test_a_release_gives_way_and_so_does_an_empty_folder(tmp_path: Path) -> None:
    place = write(tmp_path / "XR_WRIST")
    (place / ".DS_Store").write_bytes(b"x")
    (place / "model.safetensors").unlink()  # what is missing cannot be lost
    assert made(write(place, "new")) == "new"
    (tmp_path / "XR_HAND").mkdir()
    assert made(write(tmp_path / "XR_HAND")) == "old"
    assert sorted(names(tmp_path)) == ["XR_HAND", "XR_WRIST"]


def test_a_file_that_appears_while_a_release_is_written_keeps_the_old_one(tmp_path: Path) -> None:
    place = write(tmp_path / "XR_WRIST")

    def write_while_somebody_takes_notes() -> None:
        with replace_release(place) as draft:
            (draft / "bundle.json").write_text('{"schema": 2, "made": "new"}')
            (place / "notes.txt").write_text("read on Monday")

    with pytest.raises(InputError, match=r"notes\.txt"):
        write_while_somebody_takes_notes()
    assert (place / "notes.txt").read_text() == "read on Monday"
    assert json.loads((place / "bundle.json").read_text())["made"] == "old"
    assert names(tmp_path) == ["XR_WRIST"]


def test_a_link_stays_and_what_it_points_at_is_replaced(tmp_path: Path) -> None:
    stored = write(tmp_path / "disk" / "wrist")
    (tmp_path / "XR_WRIST").symlink_to(stored)
    write(tmp_path / "XR_WRIST", "new")
    assert (tmp_path / "XR_WRIST").is_symlink()
    assert made(stored) == "new"


@pytest.mark.parametrize("first", [True, False])
def test_killed_at_any_step_one_release_stands_whole(
    killed: Callable[[int, Path], int], tmp_path: Path, first: bool
) -> None:
    place, step, recovered = tmp_path / "XR_WRIST", 0, 0
    left: set[str] = set()
    while True:
        step += 1
        if place.exists():
            shutil.rmtree(place)
        if not first:
            write(place)
        if killed(step, place) == 0:
            break
        left |= {name.split("-")[0] for name in names(tmp_path)}
        recovered += recover_release(place)
        if place.exists():
            assert made(place) in ({"new"} if first else {"old", "new"})
        else:
            assert first
        assert made(write(place, "next")) == "next"
        assert names(tmp_path) == ["XR_WRIST"]
    assert made(place) == "new"
    assert recovered == (0 if first else 1)  # killed between the two renames
    assert left >= ({".XR_WRIST.new"} if first else {".XR_WRIST.new", ".XR_WRIST.old"})


def test_what_a_living_call_writes_is_not_swept_away(tmp_path: Path) -> None:
    place = tmp_path / "XR_WRIST"
    with replace_release(place) as draft:
        (draft / "bundle.json").write_text('{"schema": 2, "made": "slow"}')
        write(place, "fast")
        assert draft.is_dir()
    assert made(place) == "slow"
    assert names(tmp_path) == ["XR_WRIST"]


def test_a_release_that_an_earlier_version_moved_aside_is_put_back(tmp_path: Path) -> None:
    place = write(tmp_path / "XR_WRIST")
    aside = tmp_path / ".XR_WRIST-old-k3j_x9a0"
    aside.mkdir()
    place.rename(aside / "release")
    other = write(tmp_path / "XR_WRIST-old")  # another release, whose name only looks like it
    assert recover_release(place)
    assert (made(place), made(other)) == ("old", "old")
    assert not aside.exists()
    assert not recover_release(place)
    assert not recover_release(tmp_path / "XR_HAND")


def test_a_file_is_not_written_into_a_release(tmp_path: Path) -> None:
    place = write(tmp_path / "XR_WRIST")
    with pytest.raises(InputError, match="in the folder of a release"):
        files.check_writable(place / "map.png")
    with pytest.raises(InputError, match="in the folder of a release"):
        files.check_writable(place / "phantom" / "phantom.json")
    with pytest.raises(InputError, match="in the folder of a release"):
        check_place(place / "XR_HAND")
    files.check_writable(tmp_path / "map.png")
