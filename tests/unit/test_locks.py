"""Locks beside SQLite: one folder for a database, file names for any name, nothing left behind."""

import os
from pathlib import Path

import pytest

from mura_tune.database.locks import WorkerLock, lock_of
from mura_tune.database.urls import url_of_file


def test_a_name_from_before_the_rule_stays_in_the_folder(tmp_path: Path, url: str) -> None:
    for name in ("a/b", "../../up", "x" * 400, "XR_WRIST"):
        with lock_of(url, name):
            assert not lock_of(url, name).attempt()
    assert [path.name for path in tmp_path.iterdir()] == ["studies.locks"]
    assert (tmp_path / "studies.locks" / "XR_WRIST.lock").exists()


def test_the_folder_is_not_the_database(tmp_path: Path) -> None:
    path = tmp_path / "x.locks"
    path.write_text("a database")
    with lock_of(url_of_file(path), "s"):
        assert (tmp_path / "x.locks.locks" / "s.lock").exists()


def test_a_link_to_a_database_shares_its_locks(tmp_path: Path, url: str) -> None:
    (tmp_path / "studies.db").touch()
    (tmp_path / "link.db").symlink_to("studies.db")
    with lock_of(url, "s"):
        assert not lock_of(url_of_file(tmp_path / "link.db"), "s").attempt()


def test_what_killed_workers_left_is_removed_when_another_starts(tmp_path: Path, url: str) -> None:
    folder = tmp_path / "studies.locks"
    with WorkerLock(url) as living:
        for pid in range(5):  # a killed worker's lock is let go, and its file stays
            (folder / f"alive-{pid}-0000abcd.lock").touch()
        (folder / "XR_WRIST.lock").touch()
        with WorkerLock(url) as other:
            names = {f"alive-{one.name}.lock" for one in (living, other)}
            assert {path.name for path in folder.iterdir()} == {*names, "XR_WRIST.lock"}
            assert other.living([living.name]) == {living.name}
    assert [path.name for path in folder.iterdir()] == ["XR_WRIST.lock"]


def test_a_lock_whose_file_was_removed_meanwhile_is_taken_anew(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening and locking another process may remove the file, as dead."""
    lock = lock_of(url, "alive-x")
    stat, removed = os.fstat, []

    def meanwhile(handle: int) -> os.stat_result:
        if not removed:
            removed.append(next((Path(url.removeprefix("sqlite:///")).parent).rglob("alive-*")))
            removed[0].unlink()
        return stat(handle)

    monkeypatch.setattr(os, "fstat", meanwhile)
    lock.acquire()
    assert removed
    assert not lock_of(url, "alive-x").attempt()
    lock.release()


def test_the_living_are_those_that_hold_their_locks(storage: str) -> None:
    with WorkerLock(storage) as one:
        others = [WorkerLock(storage) for _ in range(8)]  # keys of both signs
        for other in others[:7]:
            other.__enter__()
        names = [other.name for other in others]
        assert one.living([one.name, *names]) == {one.name, *names[:7]}
        others[0].__exit__()
        assert one.living(names) == set(names[1:7])
        assert WorkerLock(storage).living([one.name, "nobody"]) == {one.name}
        for other in others[1:7]:
            other.__exit__()


def test_a_worker_takes_other_locks_beside_its_own(storage: str) -> None:
    with WorkerLock(storage) as one, WorkerLock(storage) as two:
        first, second = one.lock_of("s"), two.lock_of("s")
        with first, two.lock_of("another"):
            assert first.held()
            assert not second.attempt()
            assert not lock_of(storage, "s").attempt()
        assert not first.held()
        with second:
            assert not first.attempt()
            assert one.living([two.name]) == {two.name}
    with lock_of(storage, "s"):
        pass
