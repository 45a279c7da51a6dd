"""Databases that can be used, those that may only be read, and those that are refused."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.storages._rdb.models import BaseModel
from optuna.trial import create_trial

from mura_tune.database import sqlite_file
from mura_tune.database.locks import WorkerLock
from mura_tune.database.refusals import legible
from mura_tune.database.sqlite_file import network_disk
from mura_tune.database.storage import admit, has_study, load_study, open_storage
from mura_tune.database.urls import url_of_file
from mura_tune.errors import InputError, explain_error

NOBODY = 65534
ANOTHER_TRIAL = "INSERT INTO trials (number, study_id, state) VALUES (1, 1, 'FAIL')"


def change(path: Path, *statements: str) -> None:
    """Do to a database what another program might."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with one study of one trial, and nothing beside it. Tests copy it."""
    path = tmp_path_factory.mktemp("written") / "studies.db"
    storage = open_storage(url_of_file(path), create=True)
    study = optuna.create_study(storage=storage, study_name="s", direction="maximize")
    study.set_user_attr("note", "a note")
    study.add_trial(create_trial(value=0.5, user_attrs={"slot": 0}))
    storage.remove_session()
    storage.engine.dispose()
    return path


@pytest.fixture
def path(written: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may damage."""
    return Path(shutil.copy(written, tmp_path / "studies.db"))


@pytest.fixture
def shared(path: Path) -> Iterator[Path]:
    """The same in a folder that everybody may look into, and only its owner may write."""
    folder = Path(tempfile.mkdtemp())
    try:
        yield Path(shutil.copy(path, folder / "studies.db"))
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


@contextlib.contextmanager
def as_reader(folder: Path) -> Iterator[None]:
    """Be somebody who may read what is in a folder, and not write it."""
    root = os.geteuid() == 0
    for path in (*folder.rglob("*"), folder):
        path.chmod((0o755 if path.is_dir() else 0o644) & (0o777 if root else 0o555))
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def trials(path: Path) -> int:
    """How many trials study s has."""
    url = url_of_file(path)
    storage = open_storage(url)
    count = len(load_study(storage, "s", url).get_trials(deepcopy=False))
    storage.remove_session()
    storage.engine.dispose()
    return count


def read(path: Path) -> None:
    """Read all that study s has."""
    url = url_of_file(path)
    with legible(url, "study s"):
        study = load_study(open_storage(url), "s", url)
        _ = (study.user_attrs, study.system_attrs, study.get_trials(deepcopy=False))


def test_storage_is_in_wal_mode_and_refuses_what_it_cannot_use(tmp_path: Path, url: str) -> None:
    open_storage(url, create=True)
    with contextlib.closing(sqlite3.connect(tmp_path / "studies.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    (tmp_path / "text.db").write_text("this is no database" * 100)
    with pytest.raises(InputError, match=r"text.db: not a usable SQLite database"):
        open_storage(url_of_file(tmp_path / "text.db"), create=True)
    with pytest.raises(InputError, match="no searches yet"):
        open_storage(url_of_file(tmp_path / "none.db"))
    with pytest.raises(InputError, match="a folder, not a database"):
        open_storage(url_of_file(tmp_path), create=True)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a regular file"):
        open_storage(url_of_file(tmp_path / "pipe"))


def test_looking_at_an_empty_file_makes_no_tables(tmp_path: Path) -> None:
    path = tmp_path / "empty.db"
    path.touch()
    with pytest.raises(InputError, match="no searches yet"):
        open_storage(url_of_file(path))
    assert path.stat().st_size == 0
    assert open_storage(url_of_file(path), create=True).get_all_studies() == []


def test_a_database_in_a_folder_that_may_only_be_read(shared: Path) -> None:
    with as_reader(shared.parent):
        assert trials(shared) == 1
        assert names_in(shared.parent) == ["studies.db"]
        for needs in ({"create": True}, {"grace": 5}):
            with pytest.raises(InputError, match=r"studies\.db: permission denied.*only be read"):
                open_storage(url_of_file(shared), **needs)


def test_who_may_only_read_sees_which_workers_live(shared: Path) -> None:
    url, reader = url_of_file(shared), WorkerLock(url_of_file(shared))
    with WorkerLock(url) as worker:
        locks = shared.with_suffix(".locks")
        (locks / "alive-killed.lock").touch()
        there = names_in(locks)
        with as_reader(shared.parent):
            assert reader.living([worker.name, "killed", "ended"]) == {worker.name}
        assert names_in(locks) == there
        assert reader.living([worker.name, "killed"]) == {worker.name}
        assert len(names_in(locks)) == 1


def test_a_database_that_its_owner_writes_meanwhile(shared: Path) -> None:
    """The writer's log and shared memory lie beside it; what is in the log counts."""
    with contextlib.closing(sqlite3.connect(shared)) as owner:
        owner.execute(ANOTHER_TRIAL)
        owner.commit()
        with as_reader(shared.parent):
            assert trials(shared) == 2
        assert len(names_in(shared.parent)) == 3


def test_a_database_whose_log_a_killed_writer_left(path: Path, shared: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as owner:
        owner.execute(ANOTHER_TRIAL)
        owner.commit()
        for end in ("", "-wal"):
            shutil.copy(f"{path}{end}", f"{shared}{end}")
        with as_reader(shared.parent):
            assert trials(shared) == 2
    assert names_in(shared.parent) == ["studies.db", "studies.db-wal"]


def test_a_database_that_may_not_be_read_at_all(shared: Path) -> None:
    with as_reader(shared.parent):
        pass
    shared.chmod(0)
    if os.geteuid() == 0:
        os.seteuid(NOBODY)
    try:
        with pytest.raises(PermissionError) as refused:
            open_storage(url_of_file(shared))
    finally:
        os.seteuid(os.getuid())
    assert str(explain_error(refused.value)).startswith(f"{shared}: permission denied")


DAMAGE = {
    "not JSON": ("UPDATE study_user_attributes SET value_json = ''",),
    "null": ("UPDATE study_user_attributes SET value_json = NULL",),
    "an unknown state": ("UPDATE trials SET state = 'HALF'",),
    "a table is gone": ("DROP TABLE trial_values",),
    "not UTF-8": ("UPDATE study_user_attributes SET value_json = CAST(x'fffe22' AS TEXT)",),
    "a column is gone": ("ALTER TABLE trials RENAME COLUMN state TO status",),
}


@pytest.mark.parametrize("statements", DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_one_line_with_the_way_to_rescue(path: Path, statements: tuple[str, ...]) -> None:
    change(path, *statements)
    with pytest.raises(InputError) as refused:
        read(path)
    assert str(refused.value).startswith(f"{path}: damaged, or changed by another program (")
    assert f"sqlite3 {path} .recover | sqlite3 rescued.db" in str(refused.value)


def test_noise_in_a_page_is_one_line(path: Path, tmp_path: Path) -> None:
    """Pages of the file in turn are noise: what is read is right, or refused in one line."""
    whole = path.read_bytes()
    size = int.from_bytes(whole[16:18], "big")
    lines = []
    for start in range(0, len(whole), 3 * size):
        noise = bytes((7 * i + start) % 256 for i in range(size))
        path.write_bytes(whole[:start] + noise + whole[start + size :])
        try:
            read(path)
        except InputError as error:
            lines.append(str(error))
    assert len(lines) > 3
    assert all(line.startswith(f"{path}: ") for line in lines)


def test_a_database_cut_short_is_one_line(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"studies\.db: damaged.*malformed.*\.recover"):
        trials(path)


def test_another_programs_database_is_left_as_it_is(tmp_path: Path) -> None:
    for name, table in (("places.db", "bookmarks"), ("pacs.db", "studies")):
        change(tmp_path / name, f"CREATE TABLE {table} (id INTEGER)")
        before = (tmp_path / name).read_bytes()
        for create in (True, False):
            with pytest.raises(InputError, match=rf"{name}: another program's.* {table};"):
                open_storage(url_of_file(tmp_path / name), create=create)
        assert (tmp_path / name).read_bytes() == before


@pytest.mark.parametrize(
    ("version", "words"),
    [("v3.0.0.c", "optuna storage upgrade"), ("v99", "use the version of mura-tune that wrote it")],
)
def test_tables_of_another_version_are_refused(path: Path, version: str, words: str) -> None:
    change(path, f"UPDATE alembic_version SET version_num = '{version}'")
    with pytest.raises(InputError, match=rf"studies\.db: .*schema {version}.*{words}"):
        open_storage(url_of_file(path))


@pytest.mark.parametrize("tables", [("studies",), ("studies", "version_info", "trials")])
def test_tables_that_a_killed_command_left_unfinished_are_completed(
    tmp_path: Path, tables: tuple[str, ...]
) -> None:
    path = tmp_path / "half.db"
    some = [BaseModel.metadata.tables[name] for name in tables]
    BaseModel.metadata.create_all(sqlalchemy.create_engine(f"sqlite:///{path}"), tables=some)
    with pytest.raises(InputError, match="no searches yet"):
        open_storage(url_of_file(path))
    assert open_storage(url_of_file(path), create=True).get_all_studies() == []


def test_an_error_that_nobody_explained_has_no_words_of_optuna(path: Path) -> None:
    """Optuna calls every error invalid data; what SQLite said is inside."""
    storage = open_storage(url_of_file(path))
    change(path, "DROP TABLE study_user_attributes")
    with pytest.raises(optuna.exceptions.StorageInternalError) as refused:
        storage.set_study_user_attr(1, "note", "x")
    line = str(explain_error(refused.value))
    assert "no such table: study_user_attributes" in line
    assert "invalid data" not in line


def test_a_name_may_be_used_by_the_rule_or_since_it_is_there(path: Path) -> None:
    url = url_of_file(path)
    storage = open_storage(url)
    optuna.create_study(storage=storage, study_name="#1: wrist/left")
    optuna.create_study(storage=storage, study_name="s.confirm")
    for name in ("XR_WRIST", "s", "Prüfung 2", "#1: wrist/left"):
        admit(url, name, "--search")
    for name in ("#2", "a/b", "..", "", "x" * 300, "a\0b", "a\udcff", "s.confirm", "t.confirm"):
        with pytest.raises(InputError, match=r"^--search is "):
            admit(url, name, "--search")
    assert not has_study(storage, "a\0b")
    assert not has_study(storage, "a\udcff")


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "f2fs"])
def test_a_local_disk_is_believed(kind: str) -> None:
    mounts = f"server:/ / nfs rw 0 0\n/dev/a /data {kind} rw 0 0\n"
    assert network_disk(Path("/data/runs"), mounts) is None
    assert network_disk(Path("/home"), mounts) == "nfs"


@pytest.mark.parametrize(
    "kind",
    [
        "nfs4",
        "cifs",
        "9p",
        "drvfs",
        "fuse.sshfs",
        "fuse.drive",
        "fuse.rclone",
        "fuse",
        "virtiofs",
        "fuse.gcsfuse",
        "fuse.juicefs",
        "fuse.grpcfuse",
        "fakeowner",
        "vboxsf",
        "unheard-of",
    ],
)
def test_every_other_disk_may_be_a_networks(kind: str) -> None:
    mounts = f"/dev/a / ext4 rw 0 0\nserver:/x /home/me\\040too {kind} rw 0 0\n"
    assert network_disk(Path("/home/me too/runs"), mounts) == kind
    assert network_disk(Path("/home/me"), mounts) is None


def test_mounts_of_any_name_are_read(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that are no UTF-8, spaces that Unicode has and fstab does not, octal escapes."""
    odd = b"/dev/b /Donn\xe9es ext4 rw 0 0\nx /a\xe2\x80\xa8b\xe3\x80\x80c tmpfs rw 0 0\n"
    listed = tmp_path / "mounts"
    listed.write_bytes(b"/dev/a / ext4 rw 0 0\n" + odd + b"y /d\\134e\\011f 9p rw 0 0\n")
    monkeypatch.setattr(sqlite_file, "MOUNTS", listed)
    assert trials(path) == 1
    mounts = os.fsdecode(listed.read_bytes())
    assert network_disk(Path("/d\\e\tf/runs"), mounts) == "9p"


def test_a_disk_that_may_be_a_networks_is_refused_with_a_way_past(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = tmp_path / "mounts"
    listed.write_text("wsl / 9p rw 0 0\n")
    monkeypatch.setattr(sqlite_file, "MOUNTS", listed)
    with pytest.raises(InputError, match=r"kind 9p.*postgresql.*MURA_LOCAL_DISKS=9p"):
        open_storage(url_of_file(path))
    monkeypatch.setenv("MURA_LOCAL_DISKS", "virtiofs 9p")
    assert trials(path) == 1


def test_opening_a_database_twice_keeps_the_locks_of_the_first(path: Path) -> None:
    """Closing a file gives up its process' locks (POSIX): another program then takes itself for
    the last to leave, and removes the log that the first still writes to."""
    url = url_of_file(path)
    first = open_storage(url, create=True)
    study = load_study(first, "s", url)
    study.set_user_attr("note", "first")
    open_storage(url)
    look = f"import sqlite3; c = sqlite3.connect({str(path)!r}); c.execute('SELECT * FROM trials')"
    subprocess.run([sys.executable, "-c", f"{look}; c.close()"], check=True)
    assert path.with_name("studies.db-wal").exists()
    study.set_user_attr("note", "second")
    assert load_study(open_storage(url), "s", url).user_attrs["note"] == "second"


@pytest.mark.parametrize("end", ["-wal", "-shm", "-journal"])
def test_a_database_is_writable_while_another_program_removes_what_is_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """The file is there when the folder is listed, and gone when it is asked about."""
    database, beside = tmp_path / "studies.db", tmp_path / f"studies.db{end}"
    database.touch()
    beside.touch()
    allowed = sqlite_file._allowed

    def late(path: Path, mode: int) -> bool:
        if path == beside:
            beside.unlink(missing_ok=True)
        return allowed(path, mode)

    monkeypatch.setattr(sqlite_file, "_allowed", late)
    assert sqlite_file.may_write(database)
    monkeypatch.setattr(sqlite_file, "_allowed", lambda path, mode: path != beside)
    beside.touch()
    assert not sqlite_file.may_write(database)
